//! `cellos validate`.

use crate::program::{Place, snapshot};

const GOOD: &str = "\
apiVersion: cellos.io/v1
kind: ExecutionCell
spec:
  id: good
  run: {argv: [\"true\"]}
  authority: {}
  lifetime: {ttlSeconds: 10}
";

const BAD: &str = "\
apiVersion: cellos.io/v1
kind: ExecutionCell
spec:
  id: bad/name
  run:
    argv: []
    limits: {memroyMaxBytes: 5}
  authority: {}
  lifetime: {ttlSeconds: 0}
";

#[test]
fn all_problems_of_all_documents_are_shown_where_they_stand() {
    let place = Place::new();
    place.file("good.yaml", GOOD);
    place.file("bad.yaml", BAD);
    place.file("broken.json", "{\"apiVersion\": \"cellos.io/v1\",,}");
    let output = place
        .cellos(&["validate", "good.yaml", "bad.yaml", "broken.json"])
        .output()
        .unwrap();
    snapshot!("validate", place, &output);
}

#[test]
fn findings_as_json_carry_codes_and_places() {
    let place = Place::new();
    place.file("bad.yaml", BAD);
    let output = place
        .cellos(&["validate", "--json", "bad.yaml"])
        .output()
        .unwrap();
    snapshot!("validate-json", place, &output);
}

#[test]
fn a_named_backend_has_to_enforce_what_is_asked() {
    let place = Place::new();
    place.file(
        "limits.yaml",
        GOOD.replace("argv:", "limits: {pidsMax: 5}, argv:"),
    );
    let alone = place.cellos(&["validate", "limits.yaml"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(0));
    let stub = place
        .cellos(&["validate", "--backend", "stub", "limits.yaml"])
        .output()
        .unwrap();
    assert_eq!(stub.status.code(), Some(126));
    let text = String::from_utf8(stub.stderr).unwrap();
    assert!(text.contains("spec.run.limits.pidsMax"), "{text}");
}

#[test]
fn the_worst_verdict_decides_the_exit_code() {
    let place = Place::new();
    place.file("good.yaml", GOOD);
    place.file("bad.yaml", BAD);
    for (files, code) in [
        (&["good.yaml"][..], 0),
        (&["good.yaml", "bad.yaml"], 126),
        (&["bad.yaml", "missing.yaml", "good.yaml"], 125),
    ] {
        let output = place
            .cellos(&[&["validate", "-q"], files].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{files:?}");
        assert!(output.stdout.is_empty());
    }
}
