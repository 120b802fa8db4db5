//! Properties of reading and writing documents.

use cellos_core::{
    ExecutionCellDocument,
    admission::{check, validate_execution_cell_document},
    source::{Format, UnknownFields, load},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}",
        "\\PC{0,8}",
        Just(String::from("yes")),
        Just(String::from("12"))
    ]
}

fn field(
    name: &'static str,
    value: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Option<(String, Value)>> {
    proptest::option::of(value.prop_map(move |value| (name.to_owned(), value))).boxed()
}

fn object(
    fields: Vec<BoxedStrategy<Option<(String, Value)>>>,
    fixed: Value,
) -> BoxedStrategy<Value> {
    fields
        .prop_map(move |given| {
            let mut all: Map<String, Value> = fixed.as_object().cloned().unwrap_or_default();
            all.extend(given.into_iter().flatten());
            Value::Object(all)
        })
        .boxed()
}

fn strings() -> impl Strategy<Value = Value> {
    proptest::collection::vec(text(), 0..4).prop_map(|texts| json!(texts))
}

fn labels() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(text(), text(), 0..4).prop_map(|labels| json!(labels))
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![Just(0), Just(1000), Just(u64::MAX), any::<u64>()].prop_map(|value| json!(value))
}

/// Documents of the right shape, admitted or not.
fn documents() -> impl Strategy<Value = Value> {
    let limits = object(
        vec![
            field("memoryMaxBytes", number()),
            field("pidsMax", number()),
            field("gracefulShutdownSeconds", number()),
            field(
                "cpuMax",
                number().prop_map(|quota| json!({"quotaMicros": quota})),
            ),
        ],
        json!({}),
    );
    let run = object(
        vec![
            field("workingDirectory", text().prop_map(Value::String)),
            field("timeoutMs", number()),
            field("limits", limits),
            field("env", labels()),
            field("argv", strings()),
            field("secretDelivery", Just(json!("env"))),
        ],
        json!({"argv": ["a"]}),
    );
    let rule = (text(), any::<u16>(), proptest::option::of(text())).prop_map(
        |(host, port, protocol)| json!({"host": host, "port": port, "protocol": protocol}),
    );
    let authority = object(
        vec![
            field("secretRefs", strings()),
            field(
                "egressRules",
                proptest::collection::vec(rule, 0..3).prop_map(|rules| json!(rules)),
            ),
            field("network", labels()),
            field(
                "dnsAuthority",
                strings().prop_map(|names| json!({"hostnameAllowlist": names})),
            ),
        ],
        json!({}),
    );
    let target = text().prop_map(|name| json!({"kind": "s3", "name": name, "bucket": "b"}));
    let export = object(
        vec![field(
            "targets",
            proptest::collection::vec(target, 0..3).prop_map(|all| json!(all)),
        )],
        json!({}),
    );
    let spec = object(
        vec![
            field("run", run),
            field("authority", authority),
            field(
                "correlation",
                labels().prop_map(|labels| json!({"labels": labels})),
            ),
            field("export", export),
            field(
                "lifetime",
                number().prop_map(|ttl| json!({"ttlSeconds": ttl})),
            ),
            field("id", text().prop_map(Value::String)),
        ],
        json!({"id": "x", "authority": {}, "lifetime": {"ttlSeconds": 60}}),
    );
    spec.prop_map(
        |spec| json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": spec}),
    )
}

/// YAML in block style; strings quoted as JSON quotes them, which YAML reads.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                out.push_str(&format!("\n{pad}{}:", json!(name)));
                yaml(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&format!("\n{pad}-"));
                yaml(item, indent + 2, out);
            }
        }
        scalar => out.push_str(&format!(" {scalar}")),
    }
}

fn read(text: &[u8], format: Format) -> ExecutionCellDocument {
    load(text, format, UnknownFields::Refuse)
        .unwrap_or_else(|error| panic!("{error}\n{}", String::from_utf8_lossy(text)))
        .document
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn written_documents_read_back(value in documents()) {
        let document = read(value.to_string().as_bytes(), Format::Json);
        let written = serde_json::to_vec(&document).unwrap();
        prop_assert_eq!(read(&written, Format::Json), document);
    }

    #[test]
    fn reading_agrees_with_serde_json(value in documents()) {
        let ours = read(value.to_string().as_bytes(), Format::Json);
        let reference: ExecutionCellDocument = serde_json::from_value(value).unwrap();
        prop_assert_eq!(ours, reference);
    }

    #[test]
    fn yaml_and_json_of_one_value_agree(value in documents()) {
        let mut text = String::new();
        yaml(&value, 0, &mut text);
        let from_yaml = read(text.as_bytes(), Format::Yaml);
        prop_assert_eq!(from_yaml, read(value.to_string().as_bytes(), Format::Json));
    }

    #[test]
    fn first_violation_is_the_first_of_all(value in documents()) {
        let document = read(value.to_string().as_bytes(), Format::Json);
        let all = check(&document);
        prop_assert_eq!(validate_execution_cell_document(&document).is_ok(), all.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Json, Format::Yaml] {
            for unknown in [UnknownFields::Refuse, UnknownFields::Ignore] {
                let _ = load(&bytes, format, unknown);
            }
        }
    }

    /// A document with one byte changed: nearly well-formed input reaches deeper than noise.
    #[test]
    fn damaged_documents_never_panic(value in documents(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut json_text = value.to_string().into_bytes();
        let index = at.index(json_text.len());
        json_text[index] = byte;
        let mut yaml_text = String::new();
        yaml(&value, 0, &mut yaml_text);
        let mut yaml_text = yaml_text.into_bytes();
        let index = at.index(yaml_text.len());
        yaml_text[index] = byte;
        for (text, format) in [(json_text, Format::Json), (yaml_text, Format::Yaml)] {
            if let Ok(loaded) = load(&text, format, UnknownFields::Ignore) {
                let _ = loaded.admit();
            }
        }
    }
}
