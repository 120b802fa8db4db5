//! The checked-in JSON Schema and what it says.

use std::{fs, path::PathBuf};

use cellos_core::{
    schema,
    source::{Format, UnknownFields, load},
};
use serde_json::{Value, json};

use crate::vectors;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/execution-cell.schema.json")
}

#[test]
fn checked_in_schema_is_the_generated_one() {
    let mut generated = serde_json::to_string_pretty(&schema::execution_cell()).unwrap();
    generated.push('\n');
    if std::env::var_os("CELLOS_UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(path().parent().unwrap()).unwrap();
        fs::write(path(), &generated).unwrap();
    }
    let checked_in = fs::read_to_string(path()).unwrap_or_default();
    assert!(
        checked_in == generated,
        "schemas/execution-cell.schema.json is stale; renew it with \
         CELLOS_UPDATE_SCHEMAS=1 cargo test -p cellos-core"
    );
}

#[test]
fn schema_is_draft_2020_12_and_says_no_to_unknown_fields() {
    let schema = schema::execution_cell();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["properties"]["apiVersion"]["const"], "cellos.io/v1");
}

/// A validator for the keywords that the schema uses, independent of the crate's own walker. An
/// unknown keyword fails the test, so that nothing is silently not checked.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else {
        return schema.as_bool().unwrap_or(false);
    };
    schema.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "$defs" | "default" | "format" => true,
        "$ref" => {
            let target = root
                .pointer(rule.as_str().unwrap().trim_start_matches('#'))
                .unwrap();
            accepts(root, target, value)
        }
        "type" => match rule {
            Value::Array(types) => types.iter().any(|kind| is_type(kind, value)),
            kind => is_type(kind, value),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| accepts(root, rule, value)),
        "oneOf" => {
            rule.as_array()
                .unwrap()
                .iter()
                .filter(|rule| accepts(root, rule, value))
                .count()
                == 1
        }
        "properties" => rule.as_object().unwrap().iter().all(|(name, rule)| {
            value
                .get(name)
                .is_none_or(|value| accepts(root, rule, value))
        }),
        "additionalProperties" => value.as_object().is_none_or(|fields| {
            let known = schema.get("properties").and_then(Value::as_object);
            fields.iter().all(|(name, value)| {
                known.is_some_and(|known| known.contains_key(name)) || accepts(root, rule, value)
            })
        }),
        "required" => value.as_object().is_none_or(|fields| {
            rule.as_array()
                .unwrap()
                .iter()
                .all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| accepts(root, rule, item))),
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
        "minLength" => value
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
        "maxLength" => value
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
        "minimum" => !value.is_number() || value.as_f64() >= rule.as_f64(),
        "maximum" => !value.is_number() || value.as_f64() <= rule.as_f64(),
        "pattern" => value.as_str().is_none_or(|text| {
            regex::Regex::new(rule.as_str().unwrap())
                .unwrap()
                .is_match(text)
        }),
        other => panic!("the test does not know the keyword {other}"),
    })
}

fn is_type(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the test does not know the type {other}"),
    }
}

/// What the schema cannot express is only ever refused by admission in addition: it never refuses
/// what is admitted.
#[test]
fn schema_accepts_every_admitted_vector() {
    let schema = schema::execution_cell();
    let mut admitted = 0;
    for case in vectors::cases() {
        let Ok(text) = std::str::from_utf8(&case.text) else {
            continue;
        };
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            continue;
        };
        if case.verdict().is_none() {
            admitted += 1;
            assert!(
                accepts(&schema, &schema, &value),
                "{}: the schema refuses it",
                case.name
            );
        }
    }
    assert!(admitted > 15, "{admitted}");
}

/// The parser refuses exactly the shapes that the schema refuses; bounds and patterns, which the
/// parser leaves to admission, are taken out of the schema for this.
#[test]
fn schema_shape_and_parser_agree_on_every_vector() {
    let mut schema = schema::execution_cell();
    take_out_bounds(&mut schema);
    let mut compared = 0;
    for case in vectors::cases() {
        let Ok(text) = std::str::from_utf8(&case.text) else {
            continue;
        };
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            continue;
        };
        compared += 1;
        let parsed = load(&case.text, Format::Json, UnknownFields::Refuse).is_ok();
        assert_eq!(accepts(&schema, &schema, &value), parsed, "{}", case.name);
    }
    assert!(compared > 60, "{compared}");
}

fn take_out_bounds(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(take_out_bounds),
        Value::Object(rules) => {
            for name in ["pattern", "minLength", "maxLength", "minItems", "maxItems"] {
                // A field may have such a name, a rule is no object.
                if rules.get(name).is_some_and(|rule| !rule.is_object()) {
                    rules.remove(name);
                }
            }
            // Fields with one value are free texts to the parser, and their value admission's.
            let only = rules.get("const").and_then(Value::as_str);
            if matches!(only, Some("cellos.io/v1" | "ExecutionCell" | "vsock-cbor")) {
                rules.remove("const");
            }
            let width = match rules.get("format").and_then(Value::as_str) {
                Some("uint16") => Some(json!(u16::MAX)),
                Some("uint32") => Some(json!(u32::MAX)),
                Some("uint64") => Some(json!(u64::MAX)),
                _ => None,
            };
            if let Some(width) = width {
                rules.insert("minimum".into(), json!(0));
                rules.insert("maximum".into(), width);
            }
            rules.values_mut().for_each(take_out_bounds);
        }
        _ => {}
    }
}

#[test]
fn bounds_of_the_schema_are_the_rules_of_admission() {
    let schema = schema::execution_cell();
    let document = |spec: Value| {
        let mut whole = json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell",
            "spec": {"id": "x", "authority": {}, "lifetime": {"ttlSeconds": 60}}});
        for (name, value) in spec.as_object().unwrap() {
            whole["spec"][name] = value.clone();
        }
        whole
    };
    let image =
        |digest: &str| json!({"environment": {"imageReference": "a", "imageDigest": digest}});
    let agent = |version: &str| json!({"telemetry": {"channel": "vsock-cbor", "events": ["a"], "agentVersion": version}});
    let limits = |limits: Value| json!({"run": {"argv": ["a"], "limits": limits}});
    for spec in [
        json!({"id": "a"}),
        json!({"id": "a."}),
        json!({"id": ""}),
        json!({"id": "a..b"}),
        json!({"id": ".a"}),
        json!({"id": "a".repeat(128)}),
        json!({"id": "a".repeat(129)}),
        json!({"lifetime": {"ttlSeconds": 0}}),
        json!({"lifetime": {"ttlSeconds": u64::MAX}}),
        json!({"run": {"argv": []}}),
        json!({"run": {"argv": [""]}}),
        json!({"run": {"argv": ["a"], "timeoutMs": 0}}),
        json!({"run": {"argv": ["a"], "workingDirectory": "a"}}),
        json!({"run": {"argv": ["a"], "user": {"uid": 65533, "gid": 65534}}}),
        limits(json!({"memoryMaxBytes": 1_048_575})),
        limits(json!({"memoryMaxBytes": 1_048_576})),
        limits(json!({"cpuMax": {"quotaMicros": 999}})),
        limits(json!({"cpuMax": {"quotaMicros": 1000, "periodMicros": 1_000_001}})),
        limits(json!({"gracefulShutdownSeconds": 121})),
        limits(json!({"pidsMax": 0})),
        limits(json!({"pidsMax": 4_194_305})),
        json!({"correlation": {"tenantId": "a/b"}}),
        json!({"correlation": {"tenantId": "a\u{0}b"}}),
        json!({"correlation": {"tenantId": "a b"}}),
        json!({"correlation": {"tenantId": "a".repeat(65)}}),
        json!({"placement": {"kubernetesNamespace": "a-1"}}),
        json!({"placement": {"kubernetesNamespace": "a-"}}),
        json!({"placement": {"kubernetesNamespace": "a".repeat(63)}}),
        json!({"placement": {"kubernetesNamespace": "a".repeat(64)}}),
        image(&format!("sha256:{}", "0f".repeat(32))),
        image(&format!("sha256:{}", "0F".repeat(32))),
        image("sha256:"),
        agent("1.0.0-a-b.c"),
        agent("01.0.0"),
        agent("1.0.0-"),
        agent("1.0.0+b"),
        json!({"placement": {"kubernetesNamespace": "A"}}),
        json!({"placement": {"poolId": "a/b"}}),
        json!({"authority": {"egressRules": [{"host": "a", "port": 0}]}}),
        json!({"authority": {"secretRefs": ["a/b"]}}),
    ] {
        let value = document(spec);
        let admitted = load(
            value.to_string().as_bytes(),
            Format::Json,
            UnknownFields::Refuse,
        )
        .unwrap()
        .admit()
        .is_ok();
        assert_eq!(accepts(&schema, &schema, &value), admitted, "{value}");
    }
}

#[test]
fn aliases_are_in_the_schema() {
    let schema = schema::execution_cell();
    let identity = |kind: Value| {
        json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": {"id": "x",
            "authority": {"secretRefs": ["S"]}, "lifetime": {"ttlSeconds": 60}, "identity":
            {"kind": kind, "provider": "", "audience": "", "secretRef": "S"}}})
    };
    for (kind, good) in [
        (json!({"awsAssumeRole": {"role_arn": "a"}}), true),
        (json!({"awsAssumeRole": {"roleArn": "a"}}), true),
        (
            json!({"awsAssumeRole": {"role_arn": "a", "roleArn": "a"}}),
            false,
        ),
        (json!({"awsAssumeRole": {}}), false),
        (json!({"azureManagedIdentity": {"resourceId": "a"}}), true),
        (json!("federatedOidc"), true),
        (json!("awsAssumeRole"), false),
        (json!({"federatedOidc": null}), false),
        (json!({"federatedOidc": {}}), false),
    ] {
        let value = identity(kind);
        assert_eq!(accepts(&schema, &schema, &value), good, "{value}");
        let loaded = load(
            value.to_string().as_bytes(),
            Format::Json,
            UnknownFields::Refuse,
        );
        assert_eq!(loaded.is_ok(), good, "{value}");
    }
}

/// Every place of a value.
fn pointers(value: &Value, here: String, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, format!("{here}/{index}"), out);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers(field, format!("{here}/{name}"), out);
            }
        }
        _ => {}
    }
    out.push(here);
}

/// Three independent readers of one grammar: the schema (through this file's validator), the typed
/// values, and the walker that explains what is wrong.
#[test]
fn schema_parser_and_explanation_agree_on_every_damage_to_every_field() {
    let mut schema = schema::execution_cell();
    take_out_bounds(&mut schema);
    let mut networked: Value =
        serde_json::from_str(include_str!("../vectors/ex2-networked-agent.json")).unwrap();
    networked["spec"]["authority"]["filesystem"] =
        json!({"mounts": [{"source": "/a", "target": "/b", "access": "ro"}]});
    networked["spec"]["run"]["env"] = json!({"A": "b"});
    networked["spec"]["run"]["user"] = json!({"uid": 1, "gid": 1});
    networked["spec"]["run"]["limits"]["pidsMax"] = json!(5);
    let oidc = serde_json::from_str(include_str!("../vectors/ex3-oidc-multi-export.json")).unwrap();
    let aws = serde_json::from_str(include_str!(
        "../vectors/ex4-aws-role-signed-derivation.json"
    ))
    .unwrap();
    let replacements = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(70_000),
        json!(u64::from(u32::MAX) + 1),
        json!("x"),
        json!([]),
        json!(["x"]),
        json!([{}]),
        json!([["x"]]),
        json!({}),
        json!({"x": "y"}),
        json!({"federatedOidc": null}),
        json!({"kind": "s3"}),
    ];
    let mut compared = 0;
    for (base, below) in [
        (networked, &[""][..]),
        (oidc, &["/spec/identity", "/spec/export"]),
        (
            aws,
            &["/spec/identity", "/spec/authority/authorityDerivation"],
        ),
    ] {
        let mut places = Vec::new();
        pointers(&base, String::new(), &mut places);
        places.retain(|place| below.iter().any(|prefix| place.starts_with(prefix)));
        let mut damaged = Vec::new();
        for place in places {
            for replacement in &replacements {
                let mut value = base.clone();
                *value.pointer_mut(&place).unwrap() = replacement.clone();
                damaged.push((format!("{replacement} at {place}"), value));
            }
            let mut value = base.clone();
            if let Some(Value::Object(fields)) = value.pointer_mut(&place) {
                fields.insert("unheardOf".into(), json!(1));
                damaged.push((format!("another field at {place}"), value));
            }
            if let Some((parent, name)) = place.rsplit_once('/') {
                let mut value = base.clone();
                if let Some(Value::Object(fields)) = value.pointer_mut(parent) {
                    fields.remove(name);
                    damaged.push((format!("nothing at {place}"), value));
                }
            }
        }
        for (what, value) in damaged {
            compared += 1;
            let expected = accepts(&schema, &schema, &value);
            match load(
                value.to_string().as_bytes(),
                Format::Json,
                UnknownFields::Refuse,
            ) {
                Ok(_) => assert!(expected, "the parser accepts {what}"),
                Err(problems) => {
                    assert!(!expected, "the parser refuses {what}: {problems}");
                    let first = &problems.as_slice()[0];
                    let explained = !first.path.is_empty() || !value.is_object();
                    assert!(explained, "not explained: {what}: {problems}");
                    assert!(first.position.is_some(), "no place: {what}: {problems}");
                }
            }
        }
    }
    assert!(compared > 3000, "{compared}");
}
