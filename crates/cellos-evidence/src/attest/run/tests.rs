mod signatures;

use std::fs;

use cellos_core::CloudEventV1;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    attest::{
        Attester, LINE_DIGEST, default_builder,
        provenance::{AttestError, AttestedDocument, provenance},
        runtime_trace::runtime_trace,
        statement::Statement,
    },
    line::Tail,
};

/// SHA-256 of nothing, as an example.
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct Log {
    folder: TempDir,
    lines: Vec<Vec<u8>>,
}

impl Log {
    /// A log of runs `r1` and, between its lines, `r2`.
    fn new(extra: &[(&str, Value)]) -> Self {
        let mut events = vec![
            event("r2", "lifecycle.v1.started", json!({})),
            event(
                "r1",
                "lifecycle.v1.started",
                json!({"specHash": DIGEST, "backend": "microvm", "kernelDigestSha256": "aa",
                       "rootfsDigestSha256": "bb", "firecrackerDigestSha256": "ff"}),
            ),
            event(
                "r1",
                "observability.v1.container_security",
                json!({"machine": {"monitor": "qemu", "monitorDigestSha256": "cc",
                       "initrdDigestSha256": "dd"}}),
            ),
            event("r2", "command.v1.completed", json!({"exitCode": 1})),
            event(
                "r1",
                "observability.v1.process_spawned",
                json!({"program": "/bin/sh", "argc": 2, "pid": 7, "observed": true}),
            ),
            event(
                "r1",
                "command.v1.completed",
                json!({"argv": ["/bin/sh", "secret"], "exitCode": 0, "endedBy": "exited"}),
            ),
        ];
        events.extend(
            extra
                .iter()
                .map(|(kind, data)| event("r1", kind, data.clone())),
        );
        events.push(event(
            "r1",
            "authority.v1.homeostasis",
            json!({"specHash": "sha256:of the typed specification"}),
        ));
        events.push(event(
            "r1",
            "lifecycle.v1.destroyed",
            json!({"outcome": "succeeded", "endedBy": "exited", "exitCode": 0,
                   "residue": {"lookedFor": ["processes"], "found": []}}),
        ));
        events.push(event("r2", "lifecycle.v1.destroyed", json!({})));
        let mut tail = Tail::of_new_log("01J");
        let lines = events
            .iter()
            .map(|event| line::encode(&mut tail, std::slice::from_ref(event), None).unwrap())
            .collect();
        Self {
            folder: tempfile::tempdir().unwrap(),
            lines,
        }
    }

    fn read(&self, run_id: &str) -> Result<RunEvidence, EvidenceError> {
        self.read_from(run_id, 0)
    }

    fn read_from(&self, run_id: &str, from: u64) -> Result<RunEvidence, EvidenceError> {
        let path = self.folder.path().join("events.jsonl");
        fs::write(&path, self.lines.concat()).unwrap();
        RunEvidence::read(&path, run_id, from, None)
    }

    fn findings(&self) -> Vec<FindingKind> {
        let run = self.read("r1").unwrap();
        run.findings.iter().map(|finding| finding.kind).collect()
    }
}

fn event(run: &str, kind: &str, mut data: Value) -> CloudEventV1 {
    let fields = data.as_object_mut().unwrap();
    fields.insert("runId".into(), run.into());
    fields.insert("cellId".into(), format!("cell-of-{run}").into());
    serde_json::from_value(json!({
        "specversion": "1.0", "id": format!("{run}-{kind}"), "source": "cellos-supervisor",
        "type": format!("{TYPE_PREFIX}{kind}"), "data": data, "time": "2026-01-02T03:04:05Z",
    }))
    .unwrap()
}

fn attester() -> Attester {
    Attester {
        builder_id: default_builder("microvm"),
        version: "1.2.3".into(),
        now: "2026-06-01T00:00:00Z".parse().unwrap(),
    }
}

fn predicate(statement: &Statement, pointer: &str) -> Value {
    Value::Object(statement.predicate.clone())
        .pointer(pointer)
        .cloned()
        .unwrap_or(Value::Null)
}

#[test]
fn a_run_is_read_from_between_the_lines_of_others() {
    let log = Log::new(&[]);
    let run = log.read("r1").unwrap();
    assert_eq!(run.key.cell_id, "cell-of-r1");
    assert_eq!(
        run.events.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [1, 2, 4, 5, 6, 7]
    );
    assert_eq!(run.findings, []);
    assert_eq!(run.document_sha256(), Some(DIGEST));
    let last = log.lines[7].strip_suffix(b"\n").unwrap();
    assert_eq!(run.terminal.hash, LineHash::of_line(last));
    assert_eq!(run.terminal.sha256.0[..], Sha256::digest(last)[..]);
    // From the line at which it begins, the same is read.
    assert_eq!(log.read_from("r1", 1).unwrap(), run);
}

#[test]
fn runs_that_are_not_there_or_not_over_are_refused() {
    let mut log = Log::new(&[]);
    assert!(matches!(
        log.read("r3"),
        Err(EvidenceError::NoSuchRun { .. })
    ));
    log.lines.pop();
    assert!(matches!(
        log.read("r2"),
        Err(EvidenceError::NotEnded { .. })
    ));
}

#[test]
fn what_is_wrong_with_the_runs_part_of_the_log_is_found() {
    let changed = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut log = Log::new(&[]);
        change(&mut log.lines);
        log.findings()
    };
    // A changed line breaks the chain at the next.
    assert_eq!(
        changed(|lines| {
            let text = String::from_utf8(lines[5].clone()).unwrap();
            lines[5] = text.replace("secret", "public").into_bytes();
        }),
        [FindingKind::ChainBroken]
    );
    assert_eq!(changed(|lines| drop(lines.remove(4))), [FindingKind::Gap]);
    assert!(changed(|lines| lines.swap(4, 5)).contains(&FindingKind::Repeated));
    assert!(changed(|lines| lines[3] = b"{}\n".to_vec()).contains(&FindingKind::Unreadable));
    assert!(changed(|lines| drop(lines.drain(..2))).contains(&FindingKind::BeforeStart));
    // What is wrong before its first line is not, either.
    assert_eq!(changed(|lines| lines.insert(0, b"{}\n".to_vec())), []);
    // What comes after the end is not the run's, unless it says that it is.
    assert_eq!(changed(|lines| lines[8] = b"{}\n".to_vec()), []);
    let again = |kind| {
        let mut log = Log::new(&[]);
        let mut tail = Tail {
            log_id: "01J".into(),
            next_seq: 9,
            prev: LineHash::of_line(log.lines[8].strip_suffix(b"\n").unwrap()),
        };
        let more = event("r1", kind, json!({}));
        log.lines
            .push(line::encode(&mut tail, &[more], None).unwrap());
        log.findings()
    };
    assert_eq!(again("command.v1.completed"), [FindingKind::AfterEnd]);
    assert_eq!(again("lifecycle.v1.destroyed"), [FindingKind::EndedTwice]);
}

#[test]
fn provenance_says_what_ran_with_what() {
    let run = Log::new(&[]).read("r1").unwrap();
    let statement = provenance(&run, None, &attester()).unwrap();
    let [subject] = statement.subject.as_slice() else {
        panic!("{:?}", statement.subject)
    };
    assert_eq!(subject.name.as_deref(), Some("run:r1"));
    assert_eq!(subject.digest["sha256"], run.terminal.sha256.to_hex());
    assert_eq!(subject.digest[LINE_DIGEST], run.terminal.hash.to_hex());
    assert_eq!(
        predicate(&statement, "/buildDefinition/externalParameters"),
        json!({"documentSha256": DIGEST})
    );
    let dependencies = predicate(&statement, "/buildDefinition/resolvedDependencies");
    let digests: Vec<_> = dependencies
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].clone(), one["digest"]["sha256"].clone()))
        .collect();
    assert_eq!(
        digests,
        [
            ("kernel", "aa"),
            ("rootfs", "bb"),
            ("initrd", "dd"),
            ("monitor", "cc")
        ]
        .map(|(name, digest)| (json!(name), json!(digest)))
    );
    assert_eq!(
        predicate(
            &statement,
            "/buildDefinition/internalParameters/residue/found"
        ),
        json!([])
    );
    assert_eq!(
        predicate(&statement, "/runDetails/metadata/invocationId"),
        json!("r1")
    );
    assert_eq!(
        predicate(&statement, "/runDetails/byproducts/0/digest"),
        json!({LINE_DIGEST: run.terminal.hash.to_hex()})
    );
}

#[test]
fn only_the_document_that_ran_is_attested_with_a_run() {
    let run = Log::new(&[]).read("r1").unwrap();
    let commit = "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d";
    let document = json!({"spec": {"ingress": {"git": {"url": "https://e.x/r", "ref": commit}},
        "environment": {"imageReference": "e.x/i", "imageDigest": format!("sha256:{DIGEST}")}}});
    assert!(matches!(
        AttestedDocument::of(&run, &document, "00"),
        Err(AttestError::OtherDocument { .. })
    ));
    let attested = AttestedDocument::of(&run, &document, DIGEST).unwrap();
    let statement = provenance(&run, Some(attested), &attester()).unwrap();
    assert_eq!(
        predicate(&statement, "/buildDefinition/externalParameters/document"),
        document
    );
    let declared = json!({"cellos_known": "declared"});
    assert_eq!(
        predicate(&statement, "/buildDefinition/resolvedDependencies/4"),
        json!({"uri": format!("git+https://e.x/r@{commit}"), "digest": {"gitCommit": commit},
               "annotations": declared})
    );
    assert_eq!(
        predicate(&statement, "/buildDefinition/resolvedDependencies/5"),
        json!({"uri": "oci:e.x/i", "digest": {"sha256": DIGEST}, "annotations": declared})
    );
}

#[test]
fn artifacts_are_subjects_by_their_digest_or_nothing_is_attested() {
    let touch = (
        "observability.v1.fs_touch",
        json!({"artifactName": "a", "sourcePath": "/work/a"}),
    );
    let stored = json!({"artifactName": "a", "sha256": DIGEST});
    let log = Log::new(&[touch.clone(), ("export.v2.completed", stored)]);
    let run = log.read("r1").unwrap();
    let statement = provenance(&run, None, &attester()).unwrap();
    assert_eq!(
        serde_json::to_value(&statement.subject).unwrap(),
        json!([{"name": "a", "digest": {"sha256": DIGEST}}])
    );
    let trace = runtime_trace(&run, &attester()).unwrap();
    assert_eq!(
        predicate(&trace, "/monitorLog/fileAccess/0/digest"),
        json!({"sha256": DIGEST})
    );
    let log = Log::new(&[touch, ("export.v2.completed", json!({"artifactName": "a"}))]);
    assert!(matches!(
        provenance(&log.read("r1").unwrap(), None, &attester()),
        Err(AttestError::NoDigest { .. })
    ));
}

#[test]
fn a_trace_says_who_decided_about_connections() {
    for (reason, watcher) in [
        ("nft_default_drop", "decisions of the cell's firewall"),
        ("no_rule", "decisions of the egress gateway"),
    ] {
        let flow = json!({"decision": "deny", "direction": "egress", "reasonCode": reason});
        let log = Log::new(&[("observability.v1.network_flow_decision", flow)]);
        let trace = runtime_trace(&log.read("r1").unwrap(), &attester()).unwrap();
        let policy = predicate(&trace, "/monitor/tracePolicy/network");
        assert_eq!(policy, json!(watcher));
    }
}

#[test]
fn a_trace_has_what_was_seen_and_no_arguments() {
    let flow = json!({"dstAddr": "192.0.2.1", "dstPort": 443, "protocol": "tcp",
                      "decision": "deny", "direction": "egress"});
    let log = Log::new(&[("observability.v1.network_flow_decision", flow)]);
    let run = log.read("r1").unwrap();
    let trace = runtime_trace(&run, &attester()).unwrap();
    let kinds: Vec<_> = predicate(&trace, "/monitorLog/process")
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["eventType"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        [
            "observability.v1.process_spawned",
            "command.v1.completed",
            "lifecycle.v1.destroyed"
        ]
    );
    let network = predicate(&trace, "/monitorLog/network/0");
    assert_eq!(
        (&network["ip"], &network["port"], &network["protocol"]),
        (&json!("192.0.2.1"), &json!(443), &json!("tcp"))
    );
    assert_eq!(predicate(&trace, "/monitoredProcess/event"), json!("r1"));
    let text = serde_json::to_string(&trace).unwrap();
    assert!(!text.contains("secret"), "{text}");
}
