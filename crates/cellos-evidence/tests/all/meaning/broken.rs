//! Runs that break one rule each.

use super::*;

#[test]
fn what_is_broken_is_found() {
    use FindingKind as K;
    let allow = |host: &str, port: u16| json!({"decision": "allow", "direction": "egress", "dstAddr": host, "dstPort": port});
    let export =
        |name: &str, target: &str| json!({"artifactName": name, "receipt": {"targetName": target}});
    let secret = json!({"identity": {"secretRef": "OTHER"}});
    let cases: Vec<(&str, Change, &[K])> = vec![
        ("no end", Box::new(remove("destroyed")), &[K::NeverEnded]),
        (
            "residue",
            Box::new(|e| {
                set("destroyed", "residue.found", json!(["process 7"]))(e);
                set("destroyed", "residueClass", json!(null))(e);
            }),
            &[K::Residue, K::OutcomeMismatch],
        ),
        (
            "residue denied",
            Box::new(set("destroyed", "residue.found", json!(["x"]))),
            &[K::Residue, K::OutcomeMismatch],
        ),
        (
            "nobody looked",
            Box::new(|e| {
                set("destroyed", "residue", json!(null))(e);
                set("destroyed", "residueClass", json!(null))(e);
            }),
            &[K::ResidueNotMeasured],
        ),
        (
            "looked for nothing",
            Box::new(|e| {
                set("destroyed", "residue.lookedFor", json!([]))(e);
                set("destroyed", "residueClass", json!(null))(e);
            }),
            &[K::ResidueNotMeasured],
        ),
        (
            "documented",
            Box::new(set(
                "destroyed",
                "residueClass",
                json!("documented_exception"),
            )),
            &[K::ResidueDocumented],
        ),
        (
            "class unknown",
            Box::new(|e| {
                set("destroyed", "residue", json!(null))(e);
                set("destroyed", "residueClass", json!("some"))(e);
            }),
            &[K::Malformed],
        ),
        (
            "reaped",
            Box::new(|e| {
                set("destroyed", "endedBy", json!("supervisor-lost"))(e);
                set("destroyed", "reason", json!("supervisor_lost"))(e);
                set("destroyed", "outcome", json!("failed"))(e);
                later("destroyed", 100_000)(e);
            }),
            &[K::SupervisorLost],
        ),
        (
            "late command",
            Box::new(|e| {
                for ty in [
                    "completed",
                    "fs_touch",
                    "export.v2.completed",
                    "summary",
                    "destroyed",
                ] {
                    later(ty, 93)(e);
                }
            }),
            &[K::LifetimeExceeded],
        ),
        (
            "late end",
            Box::new(|e| later("destroyed", 30 + 2 + 60 + 240 + 1200 + 1)(e)),
            &[K::LifetimeExceeded],
        ),
        (
            "much time used",
            Box::new(set("completed", "usage", json!({"wallMicros": 93_000_000}))),
            &[K::LifetimeExceeded],
        ),
        (
            "long command",
            Box::new(set("completed", "durationMs", json!(72_001))),
            &[K::LifetimeExceeded],
        ),
        (
            "after the end",
            Box::new(append("observability.v1.fs_touch", 5, json!({}))),
            &[K::AfterEnd],
        ),
        (
            "unknown type after the end",
            Box::new(append("new.v1.thing", 5, json!({}))),
            &[K::AfterEnd],
        ),
        (
            "late observation",
            Box::new(append(FLOW, 4, json!({"decision": "deny"}))),
            &[K::LateObservation],
        ),
        (
            "observation after the end",
            Box::new(append(
                "observability.v1.dns_query",
                6,
                json!({"decision": "deny"}),
            )),
            &[K::AfterEnd],
        ),
        (
            "ended twice",
            Box::new(append(
                "lifecycle.v1.destroyed",
                5,
                json!({"@": {"cexsessionid": SESSION}}),
            )),
            &[K::EndedTwice],
        ),
        (
            "started again",
            Box::new(append(
                "lifecycle.v1.started",
                5,
                json!({"@": {"cexsessionid": SESSION}, "ttlSeconds": 1}),
            )),
            &[K::AfterEnd, K::NeverEnded],
        ),
        (
            "started twice",
            Box::new(add(
                "lifecycle.v1.started",
                3,
                json!({"@": {"cexsessionid": SESSION}, "ttlSeconds": 30}),
            )),
            &[K::StartedTwice],
        ),
        (
            "completed twice",
            Box::new(add("command.v1.completed", 3, json!({"exitCode": 0}))),
            &[K::CompletedTwice],
        ),
        (
            "undeclared secret",
            Box::new(add("identity.v1.materialized", 2, secret.clone())),
            &[K::UndeclaredSecret],
        ),
        (
            "undeclared secret before the start",
            Box::new(move |e| e.insert(0, ("identity.v1.materialized", 0, secret.clone()))),
            &[K::UndeclaredSecret],
        ),
        (
            "undeclared address",
            Box::new(add(FLOW, 2, allow("11.1.2.3", 53))),
            &[K::UndeclaredFlow],
        ),
        (
            "undeclared port",
            Box::new(add(FLOW, 2, allow("10.1.2.3", 54))),
            &[K::UndeclaredFlow],
        ),
        (
            "no address",
            Box::new(add(FLOW, 2, allow("x", 443))),
            &[K::UndeclaredFlow],
        ),
        (
            "rule that is not there",
            Box::new(add(
                FLOW,
                2,
                json!({"decision": "allow", "nftRuleRef": "authority.egressRules[2]"}),
            )),
            &[K::UndeclaredFlow],
        ),
        (
            "undeclared name",
            Box::new(add(
                NAME,
                2,
                json!({"action": "allow", "sniHost": "evil.example.com"}),
            )),
            &[K::UndeclaredFlow],
        ),
        (
            "address that the name has not",
            Box::new(|e| {
                add(
                    "observability.v1.dns_resolution",
                    2,
                    json!({"fqdn": "api.example.com", "targets": [{"address": "192.0.2.1"}]}),
                )(e);
                add(
                    FLOW,
                    2,
                    json!({"decision": "allow", "dstAddr": "192.0.2.2", "dstPort": 443}),
                )(e);
            }),
            &[K::UndeclaredFlow],
        ),
        (
            "undeclared artifact",
            Box::new(add("export.v2.completed", 3, export("other", "bucket"))),
            &[K::UndeclaredExport],
        ),
        (
            "undeclared target",
            Box::new(add("export.v2.completed", 3, export("out", "elsewhere"))),
            &[K::UndeclaredExport],
        ),
        (
            "undeclared file",
            Box::new(add(
                "observability.v1.fs_touch",
                2,
                json!({"artifactName": "out", "sourcePath": "/etc/shadow"}),
            )),
            &[K::UndeclaredExport],
        ),
        (
            "codes of command and end",
            Box::new(set("destroyed", "exitCode", json!(1))),
            &[K::ExitCodeMismatch],
        ),
        (
            "codes of command and summary",
            Box::new(set("summary", "commandExitCode", json!(1))),
            &[K::ExitCodeMismatch],
        ),
        (
            "code of no command",
            Box::new(remove("command.v1.completed")),
            &[K::ExitCodeMismatch, K::OutcomeMismatch],
        ),
        (
            "signal and code",
            Box::new(set("destroyed", "signal", json!(9))),
            &[K::ExitCodeMismatch],
        ),
        (
            "succeeded with a code",
            Box::new(|e| {
                set("completed", "exitCode", json!(3))(e);
                set("summary", "commandExitCode", json!(3))(e);
                set("destroyed", "exitCode", json!(3))(e);
            }),
            &[K::OutcomeMismatch],
        ),
        (
            "succeeded with a reason",
            Box::new(set("destroyed", "reason", json!("oom"))),
            &[K::OutcomeMismatch],
        ),
        (
            "succeeded with errors",
            Box::new(set("destroyed", "laterErrors", json!(["x"]))),
            &[K::OutcomeMismatch],
        ),
        (
            "failed without a reason",
            Box::new(set("destroyed", "outcome", json!("failed"))),
            &[K::OutcomeMismatch],
        ),
        (
            "ended by two",
            Box::new(set("completed", "endedBy", json!("limit"))),
            &[K::OutcomeMismatch],
        ),
        (
            "outcome unknown",
            Box::new(set("destroyed", "outcome", json!("fine"))),
            &[K::Malformed],
        ),
        (
            "no outcome",
            Box::new(set("destroyed", "outcome", json!(null))),
            &[K::Malformed],
        ),
        (
            "not started",
            Box::new(remove("lifecycle.v1.started")),
            &[
                K::BeforeStart,
                K::BeforeStart,
                K::BeforeStart,
                K::BeforeStart,
                K::OutcomeMismatch,
            ],
        ),
        (
            "other session",
            Box::new(set(
                "destroyed",
                "@.cexsessionid",
                json!("01M85MZESGNAVGKTCRB7XN4ZGT"),
            )),
            &[K::IdentityChanged],
        ),
        (
            "other start",
            Box::new(set("destroyed", "@.cexparenttrace", json!("x"))),
            &[K::IdentityChanged],
        ),
        (
            "other parent",
            Box::new(set("export.v2.completed", "provenance.parent", json!("x"))),
            &[K::IdentityChanged],
        ),
        (
            "other specification",
            Box::new(set("summary", "specId", json!("x"))),
            &[K::IdentityChanged],
        ),
        (
            "other document",
            Box::new(|e| {
                set("started", "documentDigest", json!("sha256:1"))(e);
                set("destroyed", "documentDigest", json!("sha256:2"))(e);
            }),
            &[K::IdentityChanged],
        ),
        (
            "other hash",
            Box::new(set("destroyed", "specHash", json!("cc"))),
            &[K::IdentityChanged],
        ),
        (
            "other tenant",
            Box::new(set("destroyed", "tenantId", json!("x"))),
            &[K::IdentityChanged],
        ),
        (
            "other lifetime",
            Box::new(set("destroyed", "ttlSeconds", json!(31))),
            &[K::IdentityChanged],
        ),
        (
            "other rules",
            Box::new(set("summary", "egressRuleCount", json!(3))),
            &[K::IdentityChanged],
        ),
        (
            "out of order",
            Box::new(later("completed", 0)),
            &[K::TimeDisorder],
        ),
        (
            "id twice",
            Box::new(set("summary", "@", json!({"id": "e0"}))),
            &[K::DuplicateId],
        ),
        (
            "wrong type",
            Box::new(set("summary", "commandExitCode", json!("0"))),
            &[K::Malformed],
        ),
        (
            "no time",
            Box::new(set("summary", "@", json!({"time": "soon"}))),
            &[K::Malformed],
        ),
        (
            "no code",
            Box::new(set("completed", "exitCode", json!(null))),
            &[K::Malformed],
        ),
        (
            "no cell",
            Box::new(set("summary", "cellId", json!(7))),
            &[K::Malformed],
        ),
        (
            "long id",
            Box::new(set(
                "summary",
                "cellId",
                json!("x".repeat(MAX_ID_BYTES + 1)),
            )),
            &[K::Malformed],
        ),
        (
            "no name",
            Box::new(add("export.v2.completed", 3, json!({}))),
            &[K::Malformed],
        ),
        (
            "never made",
            Box::new(|e| {
                *e = vec![
                    e.swap_remove(1),
                    ("lifecycle.v1.failed", 1, json!({"reason": "x"})),
                ]
            }),
            &[K::OutcomeMismatch],
        ),
    ];
    for (name, change, expected) in cases {
        let mut events = well();
        change(&mut events);
        let (_, findings) = fold(&events);
        assert_eq!(kinds(&findings), expected, "{name}: {findings:#?}");
    }
}
