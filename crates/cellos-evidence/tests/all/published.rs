//! What the published implementation writes is no finding, but for what it did not measure.

use std::{path::PathBuf, sync::Arc};

use cellos_evidence::{
    facts::Facts,
    finding::{Finding, FindingKind, Place, Severity},
    projection::{Projection, RunView},
};

/// Reads a published log; its events may be wrapped in signed ones.
fn read(name: &str) -> (Vec<RunView>, Vec<Finding>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let file = Arc::new(path);
    let (mut projection, mut runs, mut findings) = Default::default();
    fold(&text, &file, &mut projection, &mut runs, &mut findings);
    runs.extend(projection.finish(&mut findings));
    (runs, findings)
}

fn fold(
    text: &str,
    file: &Arc<PathBuf>,
    projection: &mut Projection,
    runs: &mut Vec<RunView>,
    findings: &mut Vec<Finding>,
) {
    for (index, line) in text.lines().enumerate() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let event = match event["type"].as_str().unwrap() {
            "dev.cellos.events.signed_envelope.v1" => event["data"]["event"].to_string(),
            _ => line.to_owned(),
        };
        let place = Place {
            file: Arc::clone(file),
            line: index as u64 + 1,
        };
        runs.extend(projection.apply(&Facts::of(event.as_bytes()).unwrap(), &place, findings));
    }
}

#[test]
fn published_runs_are_well_but_for_what_was_not_measured() {
    for (name, outcome, code) in [
        ("plain-ok.jsonl", "succeeded", Some(0)),
        ("plain-exit3.jsonl", "failed", Some(3)),
        ("plain-export.jsonl", "succeeded", Some(0)),
        ("plain-identity.jsonl", "succeeded", Some(0)),
        ("plain-secret-missing.jsonl", "failed", None),
        ("plain-ttl.jsonl", "failed", Some(-1)),
        ("signed-ed25519-seed7x32.jsonl", "succeeded", Some(0)),
    ] {
        let (runs, findings) = read(name);
        let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [FindingKind::ResidueNotMeasured], "{name}");
        let [run] = &*runs else {
            panic!("{name}: {runs:?}")
        };
        assert!(run.is_well());
        let end = run.end.as_ref().unwrap();
        assert_eq!(end.outcome.as_deref(), Some(outcome), "{name}");
        let command = run.command.as_ref();
        assert_eq!(command.and_then(|command| command.exit_code), code);
    }
}

#[test]
fn a_rejected_document_is_no_run() {
    let (runs, findings) = read("plain-policy-rejected.jsonl");
    assert!(runs.is_empty() && findings.is_empty());
}

#[test]
fn runs_of_one_document_have_the_same_ids_and_are_told_apart() {
    let path = format!(
        "{}/tests/samples/plain-ok.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let first = std::fs::read_to_string(path).unwrap();
    let second = first
        .replace("01M85MW6J6D18HZHQT9TNRKK02", "01M85MW6J6D18HZHQT9TNRKK03")
        .replace("5154656b", "6154656b");
    let file = Arc::new(PathBuf::from("two"));
    let (mut projection, mut runs, mut findings) = Default::default();
    let two = format!("{first}{second}");
    fold(&two, &file, &mut projection, &mut runs, &mut findings);
    assert_eq!(runs.len(), 2);
    let is_error = |finding: &Finding| finding.kind.severity() == Severity::Error;
    assert!(!findings.iter().any(is_error), "{findings:?}");
    // The same run again is another matter: its session has ended.
    let (mut projection, mut runs, mut findings) = Default::default();
    let twice = format!("{first}{first}");
    fold(&twice, &file, &mut projection, &mut runs, &mut findings);
    assert!(
        findings
            .iter()
            .any(|finding| finding.kind == FindingKind::AfterEnd)
    );
}
