//! Reading documents: every problem at once, each with its place.

use cellos_core::source::{
    Format, MAX_DOCUMENT_BYTES, MAX_PROBLEMS, ProblemCode, Problems, Severity, UnknownFields, load,
};
use serde_json::{Value, json};

fn problems(text: &str, format: Format) -> Problems {
    load(text.as_bytes(), format, UnknownFields::Refuse).expect_err("the document was read")
}

fn lines(text: &str, format: Format) -> Vec<String> {
    problems(text, format)
        .as_slice()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// The smallest document with the fields of `spec` in place of its own.
fn document(spec: Value) -> Value {
    let mut whole = json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell",
        "spec": {"id": "x", "authority": {}, "lifetime": {"ttlSeconds": 60}}});
    for (name, value) in spec.as_object().unwrap() {
        whole["spec"][name] = value.clone();
    }
    whole
}

fn codes(spec: Value) -> Vec<(String, ProblemCode)> {
    let text = document(spec).to_string();
    match load(text.as_bytes(), Format::Json, UnknownFields::Refuse) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .into_vec()
            .into_iter()
            .map(|problem| (problem.path, problem.code))
            .collect(),
    }
}

#[test]
fn yaml_names_every_problem_with_line_and_column() {
    let text = "\
apiVersion: cellos.io/v1
kind: ExecutionCell
spec:
  id: a/b
  run:
    argv: [echo, 5]
    timeoutMS: 10
    secretDelivery: envv
  authority:
    egresRules: []
    egressRules:
      - {host: \"$x\", port: 70000}
  lifetime:
    ttlSeconds: 1.5
";
    assert_eq!(
        lines(text, Format::Yaml),
        [
            "6:18: spec.run.argv[1]: has to be a string, found a number (put it in quotes)",
            "7:5: spec.run.timeoutMS: is not a known field (did you mean `timeoutMs`?)",
            "8:21: spec.run.secretDelivery: `envv` is not a known value (did you mean `env`? \
             known: env, runtimeBroker, runtimeLeasedBroker)",
            "10:5: spec.authority.egresRules: is not a known field (did you mean `egressRules`?)",
            "12:28: spec.authority.egressRules[0].port: has to be an integer from 0 to 65535, found 70000",
            "14:17: spec.lifetime.ttlSeconds: has to be an integer from 0 to 18446744073709551615, \
             found 1.5 (write it without fraction and exponent)",
            "4:7: spec.id: `a/b` is not a portable id (use 1 to 128 of `A-Z a-z 0-9 . _ -`, first a \
             letter or digit, without `..`)",
        ]
    );
}

#[test]
fn json_problems_have_places_too() {
    let text = "{\"apiVersion\": \"cellos.io/v1\",\n \"kind\": \"ExecutionCell\",\n \"spec\": {\"id\": \"é\", \"authority\": {}, \"bogus\": 1}}";
    let problems = problems(text, Format::Json);
    let places: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|problem| {
            let position = problem.position.unwrap();
            (problem.path.as_str(), position.line, position.column)
        })
        .collect();
    assert_eq!(
        places,
        [
            ("spec.lifetime", 3, 10),
            ("spec.bogus", 3, 39),
            ("spec.id", 3, 17)
        ]
    );
    let bogus = problems.as_slice()[1].position.unwrap();
    assert_eq!(
        &text[bogus.offset..bogus.offset + bogus.length],
        "\"bogus\""
    );
}

#[test]
fn admission_problems_carry_their_place() {
    let text = "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: a\n  authority: {}\n  lifetime: {ttlSeconds: 0}\n";
    let loaded = load(text.as_bytes(), Format::Yaml, UnknownFields::Refuse).unwrap();
    let problems = loaded.admit().unwrap_err();
    let position = problems.as_slice()[0].position.unwrap();
    assert_eq!((position.line, position.column), (6, 26));
}

#[test]
fn shapes_are_refused_with_their_code() {
    let own = |path: &str, code| vec![(path.to_owned(), code)];
    for (spec, expected) in [
        (
            json!({"lifetime": [60]}),
            own("spec.lifetime", ProblemCode::WrongType),
        ),
        (
            json!({"lifetime": {"ttlSeconds": -1}}),
            own("spec.lifetime.ttlSeconds", ProblemCode::OutOfRange),
        ),
        (
            json!({"lifetime": {"ttlSeconds": "60"}}),
            own("spec.lifetime.ttlSeconds", ProblemCode::WrongType),
        ),
        (
            json!({"lifetime": null}),
            own("spec.lifetime", ProblemCode::MissingField),
        ),
        (
            json!({"run": {"argv": ["a"], "env": {"A": 1}}}),
            own("spec.run.env.A", ProblemCode::WrongType),
        ),
        (
            json!({"run": {"argv": "a"}}),
            own("spec.run.argv", ProblemCode::WrongType),
        ),
        (
            json!({"run": {"argv": ["a"], "user": {"uid": 1}}}),
            own("spec.run.user.gid", ProblemCode::MissingField),
        ),
        (
            json!({"export": {"targets": [["http", {"name": "a", "baseUrl": "https://a.b"}]]}}),
            own("spec.export.targets[0]", ProblemCode::WrongType),
        ),
        (
            json!({"export": {"targets": [{"kind": "S3", "name": "a"}]}}),
            own("spec.export.targets[0].kind", ProblemCode::UnknownValue),
        ),
        (
            json!({"export": {"targets": [{"name": "a"}]}}),
            own("spec.export.targets[0].kind", ProblemCode::MissingField),
        ),
        (
            json!({"export": {"targets": [{"kind": "s3", "name": "a", "bucket": "b", "baseUrl": "x"}]}}),
            own("spec.export.targets[0].baseUrl", ProblemCode::UnknownField),
        ),
        (
            json!({"authority": {"filesystem": {"mounts": [{"source": "/a", "target": "/b", "access": "rx"}]}}}),
            own(
                "spec.authority.filesystem.mounts[0].access",
                ProblemCode::UnknownValue,
            ),
        ),
        (
            json!({"authority": {"filesystem": {"readOnly": ["/work"]}}}),
            own(
                "spec.authority.filesystem.readOnly",
                ProblemCode::NotEnforced,
            ),
        ),
        (
            json!({"authority": {"filesystem": "all"}}),
            own("spec.authority.filesystem", ProblemCode::NotEnforced),
        ),
        (
            json!({"authority": {"dnsAuthority": {"blockUdpDoq": null}}}),
            own(
                "spec.authority.dnsAuthority.blockUdpDoq",
                ProblemCode::WrongType,
            ),
        ),
    ] {
        assert_eq!(codes(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_part_that_cannot_be_read_makes_no_problems_elsewhere() {
    let spec = json!({
        "authority": {"secretRef": ["S"]},
        "identity": {"kind": "federatedOidc", "provider": "", "audience": "", "secretRef": "S"},
    });
    assert_eq!(
        codes(spec),
        [(
            "spec.authority.secretRef".to_owned(),
            ProblemCode::UnknownField
        )]
    );
}

#[test]
fn lenient_reading_still_refuses_an_unknown_form_of_filesystem_authority() {
    let text = document(json!({"authority": {"filesystem": {"readOnly": ["/work"]}}})).to_string();
    let problems = load(text.as_bytes(), Format::Json, UnknownFields::Ignore).unwrap_err();
    assert_eq!(problems.as_slice()[0].code, ProblemCode::NotEnforced);
}

#[test]
fn lenient_reading_keeps_every_other_error() {
    let text = document(json!({"bogus": 1, "run": {"argv": 1}})).to_string();
    let problems = load(text.as_bytes(), Format::Json, UnknownFields::Ignore).unwrap_err();
    assert_eq!(problems.as_slice().len(), 1);
    assert_eq!(problems.as_slice()[0].path, "spec.run.argv");
}

#[test]
fn warnings_say_what_was_ignored() {
    let text = document(json!({"bogus": 1, "run": {"argv": ["a"], "timeoutMS": 5}})).to_string();
    let loaded = load(text.as_bytes(), Format::Json, UnknownFields::Ignore).unwrap();
    let warnings: Vec<_> = loaded
        .warnings
        .iter()
        .map(|it| (it.severity, it.path.as_str()))
        .collect();
    assert_eq!(
        warnings,
        [
            (Severity::Warning, "spec.bogus"),
            (Severity::Warning, "spec.run.timeoutMS")
        ]
    );
    assert_eq!(loaded.document.spec.run.unwrap().timeout_ms, None);
}

#[test]
fn texts_that_are_no_document_are_refused() {
    for (text, format, code) in [
        (
            &b"\xef\xbb\xbf{}"[..],
            Format::Json,
            ProblemCode::InvalidEncoding,
        ),
        (
            b"\xef\xbb\xbfa: 1",
            Format::Yaml,
            ProblemCode::InvalidEncoding,
        ),
        (
            b"{\"a\": \"\xff\"}",
            Format::Json,
            ProblemCode::InvalidEncoding,
        ),
        (b"", Format::Json, ProblemCode::Syntax),
        (b"{} {}", Format::Json, ProblemCode::Syntax),
        (
            b"{\"a\": 1, \"a\": 2}",
            Format::Json,
            ProblemCode::DuplicateKey,
        ),
        (b"a: 1\na: 2\n", Format::Yaml, ProblemCode::DuplicateKey),
        (b"[]", Format::Json, ProblemCode::WrongType),
        (b"null", Format::Json, ProblemCode::WrongType),
        (b"", Format::Yaml, ProblemCode::WrongType),
        (b"a: 1\n---\nb: 2\n", Format::Yaml, ProblemCode::Syntax),
    ] {
        let problems = load(text, format, UnknownFields::Refuse).unwrap_err();
        assert_eq!(problems.as_slice()[0].code, code, "{text:?}: {problems}");
    }
}

#[test]
fn size_and_number_of_problems_are_bounded() {
    let text = vec![b' '; MAX_DOCUMENT_BYTES + 1];
    let problems = load(&text, Format::Json, UnknownFields::Refuse).unwrap_err();
    assert_eq!(problems.as_slice()[0].code, ProblemCode::DocumentTooLarge);

    let fields: Vec<String> = (0..40_000).map(|index| format!("\"f{index}\":1")).collect();
    let text = format!("{{{}}}", fields.join(","));
    for unknown in [UnknownFields::Refuse, UnknownFields::Ignore] {
        let problems = load(text.as_bytes(), Format::Json, unknown).unwrap_err();
        assert_eq!(problems.as_slice().len(), MAX_PROBLEMS);
    }

    let rules: Vec<Value> = (0..20_000)
        .map(|_| json!({"host": "$", "port": 0}))
        .collect();
    let text = document(json!({"authority": {"egressRules": rules}})).to_string();
    let loaded = load(text.as_bytes(), Format::Json, UnknownFields::Refuse).unwrap();
    assert_eq!(loaded.admit().unwrap_err().as_slice().len(), MAX_PROBLEMS);
}

#[test]
fn format_is_guessed_from_the_name_and_then_from_the_text() {
    for (name, text, format) in [
        (Some("a.json"), "a: 1", Format::Json),
        (Some("a.YAML"), "{}", Format::Yaml),
        (Some("a.yml"), "{}", Format::Yaml),
        (Some("cell"), " {}", Format::Json),
        (Some("a.txt"), "a: 1", Format::Yaml),
        (None, "[]", Format::Json),
        (None, "", Format::Yaml),
    ] {
        assert_eq!(
            Format::guess(name, text.as_bytes()),
            format,
            "{name:?} {text:?}"
        );
    }
}

#[test]
fn yaml_faults_have_a_place_and_a_plain_text() {
    let deep = "[".repeat(32) + "[]" + &"]".repeat(32);
    for (text, expected) in [
        (
            "a: 1\nb: 2\na: 3\n",
            "3:1: `a` is given twice in one mapping",
        ),
        ("a: [1\n", "1:4: not usable YAML: unclosed bracket '['"),
        (
            "a: *b\n",
            "1:4: not usable YAML: alias references unknown anchor",
        ),
        (
            "a: !!x/y 1\n",
            "1:10: not usable YAML: unsupported tag `!!x/y`",
        ),
        (
            "a: 1\n---\nb: 1\n",
            "2:1: there is more than one YAML document",
        ),
        ("a:\n  <<: {b: 1}\n", "2:3: merge keys (`<<`) are not read"),
        ("a: .nan\n", "1:4: a number has to be finite"),
        (&deep, "1:33: is nested deeper than 32 levels"),
    ] {
        assert_eq!(lines(text, Format::Yaml), [expected]);
    }
}
