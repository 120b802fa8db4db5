//! What was decided about documents, in the readers of the log.

use serde_json::Value;

use crate::program::Place;

#[track_caller]
fn said(place: &Place, arguments: &[&str], code: i32) -> String {
    let output = place.cellos(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_document_that_was_refused_is_a_run_that_never_had_a_cell() {
    let place = Place::new();
    // The stub enforces no limits.
    let run = ["run", "--backend", "stub", "--run-id"];
    let refused = [&run[..], &["r1", "--memory", "64M", "--", "true"]].concat();
    said(&place, &refused, 126);
    let folder = place.path().to_str().unwrap();
    let admitted = [&run[..], &["r2", "--workdir", folder, "--", "true"]].concat();
    said(&place, &admitted, 0);

    // It is over.
    let listing: Value = serde_json::from_str(&said(&place, &["ps", "--json"], 0)).unwrap();
    assert_eq!(listing["cells"], serde_json::json!([]));
    let listing = said(&place, &["ps", "-a", "--json"], 0);
    let listing: Value = serde_json::from_str(&listing).unwrap();
    let rows: Vec<_> = listing["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| {
            let text = |name: &str| cell[name].as_str().unwrap();
            (text("runId"), text("state"), text("end"))
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("r1", "refused", "document_refused"),
            ("r2", "succeeded", "exit 0")
        ]
    );
    let table = said(&place, &["ps", "-a"], 0);
    let row = table.lines().find(|line| line.starts_with("r1")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[..4], ["r1", "-", "stub", "refused"]);

    let story = said(&place, &["explain", "r1"], 0);
    assert!(
        story.contains("refused before anything was done"),
        "{story}"
    );
    assert!(story.contains("spec.run.limits"), "{story}");
    let story = said(&place, &["explain", "r2"], 0);
    assert!(story.contains("admitted"), "{story}");

    // Nothing ran, so that no demand on runs is violated, and nothing can be attested.
    place.file(
        "policy.yaml",
        "apiVersion: cellos.io/v1\nkind: VerificationPolicy\nspec: {outcomes: [succeeded]}\n",
    );
    let verify = ["verify", "state/log", "--policy", "policy.yaml", "--all"];
    let verdicts = said(&place, &verify, 0);
    assert!(verdicts.contains("run r1"), "{verdicts}");
}
