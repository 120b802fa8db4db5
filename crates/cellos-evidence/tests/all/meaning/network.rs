//! What the gateway tells of a run, and what of it cannot be.

use super::*;

/// A flow that rule 0 (`api.example.com:443`) let through.
fn allowed() -> Value {
    json!({"decisionId": "f1", "decision": "allow", "direction": "egress", "dstAddr": "192.0.2.7",
        "dstPort": 443, "protocol": "tcp", "reasonCode": "egress_rule_match",
        "nftRuleRef": "authority.egressRules[0]", "requestedName": "api.example.com",
        "bytesOut": 10, "bytesIn": 20, "byteCount": 30, "durationMs": 5, "endedBy": "closed"})
}

/// A run with that flow, a refusal that sums up three, a refused query, and its record.
fn run() -> Vec<Short> {
    let mut events = well();
    let refused = json!({"decisionId": "f2", "decision": "deny", "direction": "egress",
        "dstAddr": "192.0.2.9", "dstPort": 25, "reasonCode": "undeclared_port", "count": 3});
    let query = json!({"queryId": "q1", "queryName": "evil.example", "queryType": "A",
        "decision": "deny", "reasonCode": "denied_not_in_allowlist"});
    add(FLOW, 2, allowed())(&mut events);
    add(FLOW, 3, refused)(&mut events);
    add("observability.v1.dns_query", 3, query)(&mut events);
    let record = json!({"declaredRules": 2, "exercisedRules": [0], "flowsAllowed": 1,
        "flowsRefused": 3, "queriesRefused": 1, "bytesOut": 10, "bytesIn": 20, "summedUp": 2,
        "learning": false});
    set("destroyed", "egress", record)(&mut events);
    events
}

#[test]
fn what_the_gateway_tells_agrees_with_the_document_and_the_end() {
    let (runs, findings) = fold(&run());
    assert_eq!(findings, []);
    let network = &runs[0].network;
    let sums = (network.allowed, network.refused, network.queries_refused);
    assert_eq!(sums, (1, 3, 1));
    assert_eq!(runs[0].flows.items[0].ended_by.as_deref(), Some("closed"));
}

#[test]
fn flows_that_their_rule_does_not_cover_and_ends_that_miscount_are_found() {
    use FindingKind as K;
    let cases: Vec<(&str, Value, &[K])> = vec![
        (
            "decision_flow.requestedName",
            json!("evil.example"),
            &[K::UndeclaredFlow],
        ),
        (
            "decision_flow.requestedName",
            json!(null),
            &[K::UndeclaredFlow],
        ),
        ("decision_flow.dstPort", json!(444), &[K::UndeclaredFlow]),
        ("decision_flow.protocol", json!("udp"), &[K::UndeclaredFlow]),
        (
            "decision_flow.nftRuleRef",
            json!("authority.egressRules[1]"),
            &[K::UndeclaredFlow, K::NetworkMismatch],
        ),
        (
            "decision_flow.reasonCode",
            json!("learned"),
            &[K::UndeclaredFlow],
        ),
        (
            "destroyed.egress.flowsAllowed",
            json!(2),
            &[K::NetworkMismatch],
        ),
        (
            "destroyed.egress.flowsRefused",
            json!(1),
            &[K::NetworkMismatch],
        ),
        (
            "destroyed.egress.queriesRefused",
            json!(0),
            &[K::NetworkMismatch],
        ),
        (
            "destroyed.egress.exercisedRules",
            json!([0, 1]),
            &[K::NetworkMismatch],
        ),
        (
            "destroyed.egress.declaredRules",
            json!(1),
            &[K::NetworkMismatch],
        ),
        ("destroyed.egress.bytesOut", json!(9), &[K::NetworkMismatch]),
    ];
    for (path, value, expected) in cases {
        let mut events = run();
        match path.strip_prefix("decision_flow.") {
            Some(name) => {
                let flow = events.iter_mut().find(|(ty, ..)| *ty == FLOW).unwrap();
                flow.2[name] = value.clone();
            }
            None => {
                let (_, name) = path.split_once('.').unwrap();
                let (_, field) = name.split_once('.').unwrap();
                of(&mut events, "destroyed").2["egress"][field] = value.clone();
            }
        }
        assert_eq!(kinds(&fold(&events).1), expected, "{path} {value}");
    }
}

#[test]
fn a_run_that_learns_says_so_once_and_needs_no_rule() {
    for marked_at in ["lifecycle.v1.started", "destroyed"] {
        let mut events = run();
        let flow = events.iter_mut().find(|(ty, ..)| *ty == FLOW).unwrap();
        flow.2["reasonCode"] = json!("learned");
        flow.2["nftRuleRef"] = json!(null);
        flow.2["requestedName"] = json!("elsewhere.example");
        set("destroyed", "egress.exercisedRules", json!([]))(&mut events);
        match marked_at {
            "destroyed" => set("destroyed", "egress.learning", json!(true))(&mut events),
            ty => set(ty, "declared.networkMode", json!("learn"))(&mut events),
        }
        assert_eq!(kinds(&fold(&events).1), [FindingKind::LearnedNetwork]);
    }
}

#[test]
fn connections_into_the_cell_need_no_rule() {
    let mut events = run();
    let flow = events.iter_mut().find(|(ty, ..)| *ty == FLOW).unwrap();
    flow.2["direction"] = json!("ingress");
    flow.2["reasonCode"] = json!("published_port");
    flow.2["nftRuleRef"] = json!(null);
    flow.2["requestedName"] = json!(null);
    set("destroyed", "egress.exercisedRules", json!([]))(&mut events);
    assert_eq!(fold(&events).1, []);
}
