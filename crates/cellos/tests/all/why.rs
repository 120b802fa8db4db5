//! `cellos why` and the network of `cellos explain`.

use cellos_testkit::require;
use serde_json::{Value, json};

use crate::program::Place;

const FLOW: &str = "observability.v1.network_flow_decision";

fn line(number: u64, ty: &str, mut data: Value) -> String {
    data["cellId"] = "cell-1".into();
    data["runId"] = "run-1".into();
    let event = json!({"specversion": "1.0", "id": format!("e{number}"),
        "source": "cellos-supervisor", "time": format!("2026-01-01T00:00:0{}Z", number.min(9)),
        "type": format!("dev.cellos.events.cell.{ty}"), "data": data});
    format!("{event}\n")
}

/// A log of one run with one rule: a connection that went through, and some that did not.
fn log(place: &Place) {
    let refused = |id: &str, reason: &str, more: Value| {
        let mut data = json!({"decisionId": id, "decision": "deny", "direction": "egress",
            "reasonCode": reason, "dstPort": 5432, "protocol": "tcp"});
        for (name, value) in more.as_object().unwrap() {
            data[name] = value.clone();
        }
        data
    };
    let text = [
        line(
            0,
            "lifecycle.v1.started",
            json!({"ttlSeconds": 30, "declared": {"egressRules":
            [{"host": "api.example.com", "port": 443}, {"host": "db.example.com", "port": 5432}]}}),
        ),
        line(
            1,
            FLOW,
            json!({"decisionId": "flow-a", "decision": "allow", "direction": "egress",
            "reasonCode": "egress_rule_match", "nftRuleRef": "authority.egressRules[0]",
            "dstAddr": "192.0.2.7", "dstPort": 443, "protocol": "tcp", "bytesOut": 517,
            "bytesIn": 2048, "durationMs": 12, "endedBy": "closed",
            "requestedName": "api.example.com"}),
        ),
        line(
            2,
            FLOW,
            refused(
                "flow-b",
                "l7_unknown_protocol",
                json!({"requestedName": "db.example.com", "nftRuleRef": "authority.egressRules[1]"}),
            ),
        ),
        line(
            3,
            FLOW,
            refused(
                "flow-c",
                "address_forbidden",
                json!({"requestedName": "db.example.com", "dstAddr": "10.0.0.5"}),
            ),
        ),
        line(
            4,
            FLOW,
            refused(
                "flow-d",
                "no_rule",
                json!({"dstAddr": "192.0.2.9", "count": 7}),
            ),
        ),
        line(
            5,
            FLOW,
            refused(
                "flow-e",
                "l7_sni_allowlist_miss",
                json!({"dstPort": 443,
            "requestedName": "api.example.com", "presentedName": "evil\u{1b}[2J.example"}),
            ),
        ),
        line(
            6,
            "observability.v1.dns_query",
            json!({"queryId": "query-f", "decision": "deny",
            "queryName": "nosuch.example", "queryType": "A",
            "reasonCode": "denied_not_in_allowlist"}),
        ),
        line(
            7,
            "lifecycle.v1.destroyed",
            json!({"outcome": "succeeded", "residueClass": "none"}),
        ),
    ];
    place.file("log.jsonl", text.concat());
}

fn why(place: &Place, flow: &str) -> String {
    why_with(place, &[flow])
}

fn why_with(place: &Place, arguments: &[&str]) -> String {
    let mut command = place.cellos(&["why", "--log", "log.jsonl"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_decision_is_told_with_its_rule_its_reason_and_its_mend() {
    let place = Place::new();
    log(&place);
    for (flow, told) in [
        (
            "flow-a",
            r#"authority.egressRules[0]: - {host: "api.example.com", port: 443}"#,
        ),
        (
            "flow-b",
            r#"- {host: "db.example.com", port: 5432, protocol: tcp}"#,
        ),
        (
            "flow-c",
            r#"responseIpAllowlist: "db.example.com:10.0.0.5""#,
        ),
        (
            "192.0.2.9:5432",
            r#"egressRules: - {host: "192.0.2.9", port: 5432}"#,
        ),
        ("flow-e", "set acceptFronting"),
        (
            "nosuch.example",
            r#"egressRules: - {host: "nosuch.example", port: …}"#,
        ),
    ] {
        let text = why(&place, flow);
        assert!(text.contains(told), "{flow}: {text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    assert!(why(&place, "db.example.com").contains("flow-c"));
    assert!(!why(&place, "db.example.com:5432").contains("flow-d"));
}

#[test]
fn what_the_log_does_not_tell_is_an_error() {
    let place = Place::new();
    log(&place);
    let output = place
        .cellos(&["why", "--log", "log.jsonl", "flow-z"])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("flow-z"));
}

#[test]
fn explain_shows_rules_connections_and_refusals() {
    let place = Place::new();
    log(&place);
    let output = place
        .cellos(&["explain", "--log", "log.jsonl", "run-1"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for told in [
        "rule 0: api.example.com port 443 (TLS or HTTP): exercised",
        "rule 1: db.example.com port 5432 (TLS or HTTP): not exercised",
        "allowed api.example.com port 443 at 192.0.2.7, 517 B out, 2.0 KiB in, 12.0 ms, closed",
        "refused 192.0.2.9 port 5432: no_rule, 7 times",
        "refused name nosuch.example: denied_not_in_allowlist",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn the_beginning_of_several_ids_is_refused_with_them() {
    let place = Place::new();
    log(&place);
    let output = place
        .cellos(&["why", "log.jsonl", "flow-"])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("flow-a, flow-b, flow-c, flow-d, flow-e"),
        "{said}"
    );
    // The beginning of one is as good as the id.
    assert!(why(&place, "query").contains("nosuch.example"));
}

#[test]
fn a_decision_far_back_in_a_log_is_found() {
    let place = Place::new();
    log(&place);
    let mut text = std::fs::read_to_string(place.path().join("log.jsonl")).unwrap();
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    let end = text.split_off(end);
    for number in 10..1010 {
        text += &line(
            number,
            FLOW,
            json!({"decisionId": format!("many-{number}"), "decision": "deny",
                "direction": "egress", "reasonCode": "no_rule", "dstAddr": "192.0.2.77",
                "dstPort": number, "protocol": "tcp"}),
        );
    }
    text += &line(
        2000,
        FLOW,
        json!({"decisionId": "last", "decision": "allow", "direction": "egress",
            "reasonCode": "learned", "dstAddr": "192.0.2.78", "dstPort": 443,
            "protocol": "tcp"}),
    );
    place.file("log.jsonl", text + &end);
    assert!(why(&place, "many-1009").contains("port: 1009"));
    assert!(why(&place, "192.0.2.77:900").contains("many-900"));
    let all = why(&place, "192.0.2.77");
    assert_eq!(all.matches("refused: ").count(), 16, "{all}");
    assert!(all.contains("There are more"), "{all}");
    // What was let through to learn needs no mend.
    assert!(!why(&place, "last").contains("mend"));
}

#[test]
fn the_answer_is_json_where_that_is_asked_for() {
    let place = Place::new();
    log(&place);
    let text = why_with(&place, &["--json", "flow-b"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["format"], "cellos.why/1");
    assert_eq!(answer["more"], false);
    let told = &answer["decisions"][0];
    assert_eq!(told["runId"], "run-1");
    assert_eq!(told["flow"]["reasonCode"], "l7_unknown_protocol");
    assert_eq!(
        told["mend"],
        r#"if it may carry anything: - {host: "db.example.com", port: 5432, protocol: tcp}"#
    );
}

#[test]
fn the_chained_log_of_a_run_is_asked() {
    require!("userns");
    let place = Place::new();
    let script = "exec 3<>/dev/tcp/192.0.2.9/81";
    let log = place.path().join("log.jsonl");
    place
        .cellos(&["run", "--allow", "a.example:443", "--events"])
        .arg(&log)
        .args(["--", "bash", "-c", script])
        .output()
        .unwrap();
    let text = why(&place, "192.0.2.9:81");
    assert!(text.contains("undeclared_port"), "{text}");
    assert!(
        text.contains(r#"egressRules: - {host: "192.0.2.9", port: 81}"#),
        "{text}"
    );
}

#[test]
fn explain_tells_of_the_network_in_every_form() {
    let place = Place::new();
    log(&place);
    for format in ["terminal", "markdown", "html", "json"] {
        let output = place
            .cellos(&["explain", "--log", "log.jsonl", "--format", format, "run-1"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for told in [
            "db.example.com",
            "not exercised",
            "no_rule, 7 times",
            "nosuch.example",
        ] {
            // Markdown escapes what would be its own marks.
            let plain = text.replace('\\', "");
            assert!(plain.contains(told), "{format}: {told}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{format}: {text}");
    }
}
