//! Each rule about the meaning of a run: a run that keeps it, and one that breaks it.

mod broken;
mod network;

use std::{path::PathBuf, sync::Arc};

use cellos_evidence::{
    facts::Facts,
    finding::{Finding, FindingKind, Place},
    projection::{
        MAX_ID_BYTES, MAX_KEPT, MAX_LIVE_RUNS, MAX_RUN_BYTES, MAX_TEXT_BYTES, Projection, RunView,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

const SESSION: &str = "01M85MZESGNAVGKTCRB7XN4ZGS";

/// One event in short: type, second, data, and attributes in `data["@"]`.
type Short = (&'static str, i64, Value);

/// A run that is well in every respect.
fn well() -> Vec<Short> {
    vec![
        (
            "observability.v1.network_scope",
            0,
            json!({"egressRuleCount": 2}),
        ),
        (
            "lifecycle.v1.started",
            0,
            json!({"@": {"id": "start", "cexsessionid": SESSION}, "ttlSeconds": 30, "tenantId": "acme",
            "specHash": "aa", "backend": "linux", "declared": {
                "egressRules": [{"host": "api.example.com", "port": 443},
                    {"host": "10.0.0.0/8", "port": 53, "protocol": "udp"}],
                "secretRefs": ["TOKEN"], "mounts": [],
                "artifacts": [{"name": "out", "path": "/w/out", "target": "bucket"}],
                "exportTargets": ["bucket"], "timeoutMs": 10000,
                "limits": {"gracefulShutdownSeconds": 2}}}),
        ),
        (
            "identity.v1.materialized",
            1,
            json!({"identity": {"kind": "federatedOidc", "secretRef": "TOKEN"}}),
        ),
        (
            "observability.v1.process_spawned",
            1,
            json!({"program": "sh", "argc": 1, "observed": true}),
        ),
        (
            "command.v1.completed",
            2,
            json!({"argv": ["sh"], "exitCode": 0, "durationMs": 900, "endedBy": "exited"}),
        ),
        (
            "observability.v1.fs_touch",
            2,
            json!({"purpose": "export", "artifactName": "out", "sourcePath": "/w/out"}),
        ),
        (
            "export.v2.completed",
            2,
            json!({"artifactName": "out", "sha256": "bb", "provenance": {"parent": "start"},
            "receipt": {"targetKind": "s3", "targetName": "bucket", "destination": "d", "bytesWritten": 3}}),
        ),
        (
            "compliance.v1.summary",
            3,
            json!({"commandExitCode": 0, "egressRuleCount": 2}),
        ),
        (
            "lifecycle.v1.destroyed",
            4,
            json!({"@": {"cexsessionid": SESSION, "cexparenttrace": "start"}, "ttlSeconds": 30,
            "outcome": "succeeded", "endedBy": "exited", "exitCode": 0, "residueClass": "none",
            "residue": {"lookedFor": ["processes"], "found": []}}),
        ),
    ]
}

fn event(index: usize, short: &Short) -> Value {
    let (ty, second, mut data) = short.clone();
    let attributes = data.as_object_mut().unwrap().remove("@");
    for (name, value) in [("cellId", "c"), ("runId", "r"), ("specId", "s")] {
        if data.get(name).is_none() {
            data[name] = value.into();
        }
    }
    let time = jiff::Timestamp::from_second(1_700_000_000 + second).unwrap();
    let mut event = json!({"specversion": "1.0", "id": format!("e{index}"), "data": data,
        "type": format!("dev.cellos.events.cell.{ty}"), "time": time.to_string()});
    for (name, value) in attributes
        .iter()
        .flat_map(|value| value.as_object().unwrap())
    {
        event[name] = value.clone();
    }
    event
}

fn fold(events: &[Short]) -> (Vec<RunView>, Vec<Finding>) {
    let events: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(i, e)| event(i, e))
        .collect();
    fold_values(&events)
}

fn fold_values(events: &[Value]) -> (Vec<RunView>, Vec<Finding>) {
    let file = Arc::new(PathBuf::from("log"));
    let (mut projection, mut runs, mut findings) = (Projection::default(), Vec::new(), Vec::new());
    for (index, event) in events.iter().enumerate() {
        let text = event.to_string();
        let place = Place {
            file: Arc::clone(&file),
            line: index as u64 + 1,
        };
        let facts = Facts::of(text.as_bytes()).unwrap();
        runs.extend(projection.apply(&facts, &place, &mut findings));
    }
    runs.extend(projection.finish(&mut findings));
    (runs, findings)
}

fn kinds(findings: &[Finding]) -> Vec<FindingKind> {
    findings.iter().map(|finding| finding.kind).collect()
}

/// The event of a type, to change it.
fn of<'e>(events: &'e mut [Short], ty: &str) -> &'e mut Short {
    events.iter_mut().find(|(of, ..)| of.ends_with(ty)).unwrap()
}

/// Sets a field of the event of a type; a path with dots leads into objects.
fn set(ty: &'static str, path: &'static str, value: Value) -> impl Fn(&mut Vec<Short>) {
    move |events| {
        let mut at = &mut of(events, ty).2;
        for name in path.split('.') {
            at = match name.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[name],
            };
        }
        *at = value.clone();
    }
}

fn later(ty: &'static str, second: i64) -> impl Fn(&mut Vec<Short>) {
    move |events| of(events, ty).1 = second
}

fn remove(ty: &'static str) -> impl Fn(&mut Vec<Short>) {
    move |events| events.retain(|(of, ..)| !of.ends_with(ty))
}

/// Puts an event before the end.
fn add(ty: &'static str, second: i64, data: Value) -> impl Fn(&mut Vec<Short>) {
    move |events| events.insert(events.len() - 1, (ty, second, data.clone()))
}

fn append(ty: &'static str, second: i64, data: Value) -> impl Fn(&mut Vec<Short>) {
    move |events| events.push((ty, second, data.clone()))
}

/// What is done to the events of a run before they are checked.
type Change = Box<dyn Fn(&mut Vec<Short>)>;

#[test]
fn a_run_that_keeps_every_rule_has_no_findings() {
    let (runs, findings) = fold(&well());
    assert_eq!(findings, []);
    let [run] = &*runs else { panic!("{runs:?}") };
    assert!(run.is_well());
    assert_eq!(run.events.total, 9);
    assert_eq!(run.exports.items[0].sha256.as_deref(), Some("bb"));
    assert_eq!(run.lasted_micros(), Some(4_000_000));
    assert_eq!(run.end.as_ref().unwrap().place.line, 9);
}

const FLOW: &str = "observability.v1.network_flow_decision";
const NAME: &str = "observability.v1.l7_egress_decision";

/// Changes that a run stays well with.
#[test]
fn what_is_allowed_is_no_finding() {
    let allow = |host: &str, port: u16, protocol: &str| {
        json!({"decision": "allow", "direction": "egress", "dstAddr": host, "dstPort": port,
            "protocol": protocol, "reasonCode": "nft_egress_rule_match"})
    };
    let cases: Vec<(&str, Change)> = vec![
        (
            "flow in a network",
            Box::new(add(FLOW, 2, allow("10.1.2.3", 53, "udp"))),
        ),
        (
            "address of a name",
            Box::new(add(FLOW, 2, allow("192.0.2.7", 443, "tcp"))),
        ),
        (
            "name",
            Box::new(add(
                NAME,
                2,
                json!({"action": "allow", "sniHost": "API.example.com."}),
            )),
        ),
        (
            "denied flow",
            Box::new(add(
                FLOW,
                2,
                json!({"decision": "deny", "dstAddr": "1.1.1.1"}),
            )),
        ),
        (
            "reply",
            Box::new(add(
                FLOW,
                2,
                json!({"decision": "allow", "direction": "ingress", "dstAddr": "1.1.1.1"}),
            )),
        ),
        (
            "failed export",
            Box::new(|events| {
                *of(events, "export.v2.completed") = (
                    "export.v2.failed",
                    2,
                    json!({"artifactName": "out", "targetKind": "s3", "reason": "no"}),
                );
                set("destroyed", "outcome", json!("failed"))(events);
                set("destroyed", "reason", json!("no"))(events);
            }),
        ),
        (
            "deadline",
            Box::new(|events| {
                set("completed", "exitCode", json!(-1))(events);
                set("completed", "spawnError", json!("killed by TTL"))(events);
                set("completed", "endedBy", json!("deadline-ttl"))(events);
                set("summary", "commandExitCode", json!(-1))(events);
                set("destroyed", "endedBy", json!("deadline-ttl"))(events);
                set("destroyed", "exitCode", json!(137))(events);
                set("destroyed", "signal", json!(9))(events);
                set("destroyed", "outcome", json!("failed"))(events);
                set("destroyed", "reason", json!("ttl_exceeded"))(events);
            }),
        ),
        (
            "at the last moment",
            Box::new(|events| {
                later("completed", 32)(events);
                for ty in ["fs_touch", "export.v2.completed", "summary", "destroyed"] {
                    later(ty, 60)(events);
                }
            }),
        ),
        (
            "identity before the start",
            Box::new(|events| events.swap(1, 2)),
        ),
        (
            "clocks of two emitters",
            Box::new(later("process_spawned", 2)),
        ),
    ];
    for (name, change) in cases {
        let mut events = well();
        change(&mut events);
        let (runs, findings) = fold(&events);
        assert_eq!(findings, [], "{name}");
        assert!(runs[0].is_well());
    }
}

/// Changes that each break one rule, and what is then found.
#[test]
fn a_cell_that_was_never_made_is_a_run_of_one_event() {
    let (runs, findings) = fold(&[(
        "lifecycle.v1.failed",
        1,
        json!({"reason": "x", "ttlSeconds": 1}),
    )]);
    assert_eq!(findings, []);
    assert!(runs[0].is_well() && runs[0].started.is_none());
}

#[test]
fn a_run_that_is_left_is_told_from_the_next_one_with_its_ids() {
    let mut events = well();
    events.pop();
    let mut next = well();
    next[1].2["@"] = json!({"id": "start2", "cexsessionid": "01M85MZESGNAVGKTCRB7XN4ZGT"});
    next[6].2["provenance"]["parent"] = json!("start2");
    next[8].2["@"] = json!({"cexsessionid": "01M85MZESGNAVGKTCRB7XN4ZGT"});
    events.extend(next);
    let (runs, findings) = fold(&events);
    assert_eq!(kinds(&findings), [FindingKind::NeverEnded]);
    assert_eq!(runs.len(), 2);
    assert!(!runs[0].is_well() && runs[1].is_well());
}

#[test]
fn too_many_runs_cost_the_first_one_and_it_says_so() {
    let start = |run: usize| {
        event(
            run,
            &(
                "lifecycle.v1.started",
                0,
                json!({"runId": run.to_string(), "ttlSeconds": 1}),
            ),
        )
    };
    let mut events: Vec<_> = (0..=MAX_LIVE_RUNS).map(start).collect();
    // What comes of a run that was given up is not taken for another one.
    events.push(event(
        0,
        &(
            "command.v1.completed",
            1,
            json!({"runId": "0", "exitCode": 0}),
        ),
    ));
    let (runs, findings) = fold_values(&events);
    assert_eq!(runs[0].key.run_id, "0");
    assert_eq!(kinds(&findings[..1]), [FindingKind::NotFollowed]);
    assert_eq!(findings.len(), MAX_LIVE_RUNS + 1);
    assert!(!runs[0].is_well());
}

#[test]
fn many_and_long_things_are_counted_and_not_kept() {
    let mut events = well();
    let long = "x".repeat(2 * MAX_TEXT_BYTES);
    for _ in 0..2000 {
        add(NAME, 2, json!({"action": "deny", "sniHost": long}))(&mut events);
    }
    let (runs, findings) = fold(&events);
    assert_eq!(findings, []);
    let run = &runs[0];
    assert_eq!((run.flows.items.len(), run.flows.total), (MAX_KEPT, 2000));
    assert_eq!((run.events.items.len(), run.events.total), (MAX_KEPT, 2009));
    assert!(run.cut && run.flows.items[0].host.as_ref().unwrap().len() == MAX_TEXT_BYTES);
    let kept = serde_json::to_string(run).unwrap().len();
    assert!(kept < 2 * MAX_RUN_BYTES, "{kept}");
}

#[test]
fn an_undeclared_use_is_found_however_many_came_before_it() {
    let mut events = well();
    for _ in 0..MAX_KEPT + 7 {
        add(NAME, 2, json!({"action": "deny", "sniHost": "x"}))(&mut events);
    }
    add(NAME, 2, json!({"action": "allow", "sniHost": "x"}))(&mut events);
    assert_eq!(kinds(&fold(&events).1), [FindingKind::UndeclaredFlow]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-zA-Z]{1,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in fields: nothing panics, and every event is counted or found.
    #[test]
    fn any_values_in_any_fields_are_taken(
        changes in prop::collection::vec((0_usize..9, 0_usize..20, any_json()), 0..6),
        order in any::<u64>(),
    ) {
        let mut events: Vec<_> = well().iter().enumerate().map(|(i, e)| event(i, e)).collect();
        for (index, field, value) in changes {
            let event = &mut events[index];
            let names: Vec<String> = event["data"].as_object().unwrap().keys().cloned().collect();
            if field < names.len() {
                event["data"][&names[field]] = value;
            } else {
                event[["id", "time", "cexsessionid", "cexparenttrace"][field % 4]] = value;
            }
        }
        let at = usize::try_from(order % 9).unwrap();
        events.rotate_left(at);
        let (runs, findings) = fold_values(&events);
        let counted: u64 = runs.iter().map(|run| run.events.total).sum();
        prop_assert!(counted + findings.len() as u64 >= 9 || runs.len() > 1);
        for run in &runs {
            prop_assert!(run.end.is_some() || !run.is_well());
            serde_json::to_string(run).unwrap();
        }
    }
}
