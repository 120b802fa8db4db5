//! What stands in the events of a run.

use std::fs::File;

use cellos_testkit::{EventLog, require};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::program::Place;

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn fields_that_a_check_needs_are_not_redacted() {
    let place = Place::new();
    let output = place
        .cellos(&["run", "--redact", "argv,runId", "--", "/bin/true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("field \"runId\" cannot be redacted"),
        "{stderr}"
    );
}

#[test]
fn a_stranger_finds_what_was_granted_and_what_came_out() {
    require!("userns");
    let place = Place::new();
    let document = r#"{"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": {"id": "ev",
        "correlation": {"tenantId": "acme"},
        "run": {"argv": ["/bin/sh", "-c", "echo made > out.txt; echo spoken"], "env": {"K": "hush"},
            "timeoutMs": 9000},
        "authority": {}, "lifetime": {"ttlSeconds": 10},
        "export": {"artifacts": [{"name": "out", "path": "out.txt"}]}}}"#;
    place.file("cell.json", document);
    let stdout = File::create(place.path().join("stdout")).unwrap();
    let status = place
        .cellos(&["run", "--export-dir", "out", "cell.json"])
        .stdout(stdout)
        .status()
        .unwrap();
    assert!(status.success());
    let log = EventLog::read(place.path().join("state/log/events.jsonl"));
    let digest = format!("sha256:{}", sha256(document.as_bytes()));
    for event in log.events() {
        let data = event.data.as_ref().unwrap();
        assert_eq!(data["documentDigest"], digest.as_str(), "{}", event.ty);
        assert_eq!(data["correlation"]["tenantId"], "acme", "{}", event.ty);
        assert_eq!(data["runId"].as_str().unwrap().len(), 26, "{}", event.ty);
        assert!(!data.to_string().contains("hush"), "{data}");
    }
    assert_eq!(
        log.data("started")["declared"],
        json!({"artifacts": [{"name": "out", "path": "out.txt"}], "egressRules": [],
            "exportTargets": [], "mounts": [], "secretRefs": [], "timeoutMs": 9000})
    );
    assert_eq!(log.data("network_policy")["declaredEgressCount"], 0);
    let exported = log.data("export.v2.completed");
    assert_eq!(exported["sha256"], sha256(b"made\n").as_str());
    assert_eq!(exported["declared"]["path"], "out.txt");
    let destroyed = log.data("destroyed");
    let spoken = json!({"bytes": 7, "counted": "filePosition"});
    assert_eq!(destroyed["output"]["stdout"], spoken);
    assert_eq!(destroyed["residue"]["found"], json!([]));
}
