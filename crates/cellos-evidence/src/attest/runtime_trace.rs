//! The runtime-trace predicate of in-toto, version 0.1.
//!
//! Version 0.1 leaves the entries of `network` to the monitor; ours have the fields that version
//! 0.2 recommends.

use serde_json::{Map, Value, json};

use super::{
    ATTESTED_ON, Attester, BUILD_TYPE, MONITOR_TYPE,
    provenance::{AttestError, statement, text, time},
    run::{RunEvent, RunEvidence},
    statement::{Knowledge, ResourceDescriptor, Statement},
};

/// `predicateType` of runtime traces.
pub const PREDICATE_TYPE: &str = "https://in-toto.io/attestation/runtime-trace/v0.1";

/// The fields of an event of a process that are in a trace. The arguments are not: they are in the
/// document, where it is attested.
const PROCESS_FIELDS: &[&str] = &[
    "program",
    "argc",
    "pid",
    "observed",
    "exitCode",
    "signal",
    "endedBy",
    "durationMs",
    "spawnError",
    "usage",
    "limitsHit",
    "outcome",
    "reason",
    "residue",
];

/// What the supervisor saw of a run.
///
/// # Errors
/// [`AttestError`].
pub fn runtime_trace(run: &RunEvidence, attester: &Attester) -> Result<Statement, AttestError> {
    let flows: Vec<_> = run
        .all("observability.v1.network_flow_decision")
        .map(flow)
        .collect();
    let predicate = json!({
        "monitor": {
            "type": MONITOR_TYPE,
            "tracePolicy": {
                "process": "the cell's first process and its end; not its descendants",
                "network": watcher(run),
                "fileAccess": "files that were exported; no others",
            },
        },
        "monitoredProcess": {
            "hostID": attester.builder_id,
            "type": BUILD_TYPE,
            "event": run.key.run_id,
        },
        "monitorLog": {
            "process": processes(run),
            "network": flows,
            "fileAccess": files(run),
        },
        "metadata": {
            "buildStartedOn": time(run.events.first().map(|event| event.time.as_str())),
            "buildFinishedOn": time(run.last().map(|event| event.time.as_str())),
            ATTESTED_ON: attester.now.to_string(),
        },
    });
    statement(run, PREDICATE_TYPE, &predicate)
}

fn processes(run: &RunEvidence) -> Vec<Value> {
    run.events
        .iter()
        .filter(|event| {
            matches!(
                event.kind.as_str(),
                "observability.v1.process_spawned"
                    | "command.v1.completed"
                    | "lifecycle.v1.destroyed"
                    | "lifecycle.v1.failed"
            )
        })
        .map(|event| {
            let mut entry = base(event);
            for field in PROCESS_FIELDS {
                if let Some(value) = event.data.get(*field) {
                    entry.insert((*field).to_owned(), value.clone());
                }
            }
            Value::Object(entry)
        })
        .collect()
}

/// Who decided about connections: the published implementation's reasons begin with `nft_`, as those
/// of a firewall's rules.
fn watcher(run: &RunEvidence) -> &'static str {
    let by_firewall = |event: &RunEvent| {
        text(&event.data, "reasonCode").is_some_and(|reason| reason.starts_with("nft_"))
    };
    let flows = || run.all("observability.v1.network_flow_decision");
    match flows().next() {
        None => "not watched",
        Some(_) if flows().any(by_firewall) => "decisions of the cell's firewall",
        Some(_) => "decisions of the egress gateway",
    }
}

/// What every entry has: which event it is from, and when that was.
fn base(event: &RunEvent) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("eventType".to_owned(), event.kind.clone().into());
    entry.insert("line".to_owned(), event.seq.into());
    if let Some(time) = time(Some(&event.time)) {
        entry.insert("time".to_owned(), time.into());
    }
    entry
}

fn flow(event: &RunEvent) -> Value {
    let mut entry = base(event);
    for (from, to) in [
        ("dstAddr", "ip"),
        ("dstPort", "port"),
        ("protocol", "protocol"),
        ("direction", "direction"),
        ("decision", "decision"),
        ("reasonCode", "reasonCode"),
        ("nftRuleRef", "rule"),
        ("requestedName", "requestedName"),
        ("presentedName", "presentedName"),
        ("bytesOut", "bytesOut"),
        ("bytesIn", "bytesIn"),
        ("durationMs", "durationMs"),
        ("endedBy", "endedBy"),
        ("count", "count"),
        ("packetCount", "packetCount"),
        ("byteCount", "byteCount"),
    ] {
        if let Some(value) = event.data.get(from) {
            entry.insert(to.to_owned(), value.clone());
        }
    }
    Value::Object(entry)
}

/// The files that were opened for export, with the digest of those that were stored.
fn files(run: &RunEvidence) -> Vec<ResourceDescriptor> {
    run.all("observability.v1.fs_touch")
        .filter_map(|event| {
            let name = text(&event.data, "artifactName");
            let stored = run
                .all("export.v2.completed")
                .find(|stored| text(&stored.data, "artifactName") == name);
            let mut file = ResourceDescriptor {
                name: Some(text(&event.data, "sourcePath")?.to_owned()),
                uri: Some(format!(
                    "urn:cellos:run:{}:line:{}",
                    run.key.run_id, event.seq
                )),
                ..ResourceDescriptor::default()
            };
            if let Some(sha256) = stored.and_then(|stored| text(&stored.data, "sha256")) {
                file.digest.insert(
                    "sha256".to_owned(),
                    sha256.strip_prefix("sha256:").unwrap_or(sha256).to_owned(),
                );
            }
            Some(file.known(Knowledge::Observed))
        })
        .collect()
}
