use cellos_core::{ExecutionCellDocument, event::FlowProtocol::*};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::rules::{Check, Permit, Rules};

fn named(name: &str) -> Meaning {
    Meaning::Name(name.into())
}

fn literal(address: &str) -> Meaning {
    Meaning::Itself(address.parse().unwrap())
}

fn document(authority: Value) -> ExecutionCellDocument {
    serde_json::from_value(json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {"id": "x", "authority": authority, "lifetime": {"ttlSeconds": 60}},
    }))
    .unwrap()
}

fn completed(learned: &Learned, authority: Value) -> (Value, Vec<String>) {
    let completed = learned.complete(&document(authority));
    let authority = serde_json::to_value(completed.document.spec.authority).unwrap();
    (authority, completed.notes)
}

/// Host, port and protocol of each rule.
fn listed(authority: &Value) -> Vec<(String, u64, Option<String>)> {
    let rules = authority["egressRules"].as_array().unwrap();
    let rule = |rule: &Value| {
        let protocol = rule["protocol"].as_str().map(str::to_owned);
        (
            rule["host"].as_str().unwrap().to_owned(),
            rule["port"].as_u64().unwrap(),
            protocol,
        )
    };
    rules.iter().map(rule).collect()
}

fn entry(host: &str, port: u64, protocol: &str) -> (String, u64, Option<String>) {
    let protocol = (!protocol.is_empty()).then(|| protocol.to_owned());
    (host.to_owned(), port, protocol)
}

#[test]
fn rules_are_by_name_with_a_protocol_where_nothing_could_be_checked() {
    let learned = Learned::new();
    for _ in 0..3 {
        learned.used(&named("api.example"), 443, Tcp, Content::Tls);
    }
    learned.used(&named("api.example"), 80, Tcp, Content::Http);
    learned.used(&named("db.example"), 5432, Tcp, Content::Opaque);
    learned.used(&named("mixed.example"), 443, Tcp, Content::Tls);
    learned.used(&named("mixed.example"), 443, Tcp, Content::Opaque);
    learned.used(&literal("::ffff:8.8.8.8"), 123, Udp, Content::Opaque);
    learned.used(&Meaning::Nothing, 1, Tcp, Content::Tls);
    let (authority, notes) = completed(&learned, json!({}));
    assert_eq!(
        listed(&authority),
        [
            entry("8.8.8.8", 123, "udp"),
            entry("api.example", 80, ""),
            entry("api.example", 443, ""),
            entry("db.example", 5432, "tcp"),
            entry("mixed.example", 443, "tcp"),
        ]
    );
    assert_eq!(notes, [] as [&str; 0]);
    assert_eq!(learned.rules().len(), 5);
}

#[test]
fn what_is_declared_stays_unless_it_would_have_refused() {
    let learned = Learned::new();
    learned.used(&named("a.example"), 443, Tcp, Content::Tls);
    learned.used(&named("b.example"), 443, Tcp, Content::Opaque);
    learned.used(&named("c.wild.example"), 443, Tcp, Content::Opaque);
    learned.used(&named("d.wild.example"), 443, Tcp, Content::Tls);
    learned.used(&named("e.example"), 80, Tcp, Content::Tls);
    let declared = json!({"egressRules": [
        {"host": "a.example", "port": 443},
        {"host": "B.example.", "port": 443, "protocol": "https"},
        {"host": "*.wild.example", "port": 443},
        {"host": "e.example", "port": 80, "protocol": "http"},
        {"host": "unused.example", "port": 1},
    ]});
    let (authority, notes) = completed(&learned, declared);
    assert_eq!(
        listed(&authority),
        [
            entry("a.example", 443, ""),
            entry("B.example.", 443, "tcp"),
            entry("*.wild.example", 443, ""),
            entry("e.example", 80, ""),
            entry("unused.example", 1, ""),
            entry("c.wild.example", 443, "tcp"),
        ]
    );
    assert_eq!(
        notes,
        ["authority.egressRules[4] (unused.example port 1) was not used"]
    );
}

#[test]
fn names_and_query_types_are_declared_where_they_have_to_be() {
    let learned = Learned::new();
    learned.used(&named("a.example"), 443, Tcp, Content::Tls);
    learned.asked("a.example", DnsQueryType::A);
    learned.asked("_srv.example.org", DnsQueryType::A);
    learned.asked("mail.example.org", DnsQueryType::Mx);
    let (authority, notes) = completed(&learned, json!({}));
    let dns = &authority["dnsAuthority"];
    assert_eq!(
        dns["allowedQueryTypes"],
        json!(["A", "AAAA", "CNAME", "HTTPS", "MX"])
    );
    assert_eq!(
        dns["hostnameAllowlist"],
        json!(["a.example", "mail.example.org"])
    );
    assert_eq!(
        notes,
        ["_srv.example.org was asked for, and nothing was connected to there; no rule is for it"]
    );
    let listed = json!({"dnsAuthority": {"hostnameAllowlist": ["b.example"]}});
    let (authority, _) = completed(&learned, listed);
    let names = &authority["dnsAuthority"]["hostnameAllowlist"];
    assert_eq!(
        *names,
        json!(["b.example", "a.example", "mail.example.org"])
    );
}

#[test]
fn what_was_refused_even_so_is_said_with_the_rule_that_would_allow_it() {
    let learned = Learned::new();
    let private = "10.0.0.7".parse().unwrap();
    learned.forbidden(
        &named("db.example"),
        5432,
        Tcp,
        private,
        "private use (RFC 1918)",
    );
    learned.forbidden(
        &literal("10.0.0.7"),
        80,
        Tcp,
        private,
        "private use (RFC 1918)",
    );
    learned.undeclared(&named("odd.example"), 12345, Tcp);
    learned.undeclared(&named("odd.example"), 12345, Tcp);
    learned.undeclared(&literal("10.0.0.8"), 12345, Tcp);
    let (authority, notes) = completed(&learned, json!({}));
    assert_eq!(
        notes,
        [
            "10.0.0.7 port 80 was refused: it is private use (RFC 1918); the rule `host: \"10.0.0.7\", \
             port: 80` names it",
            "db.example port 5432 was refused: it leads to 10.0.0.7, which is private use (RFC 1918); \
             beside a rule for db.example a rule `host: \"10.0.0.7\", port: 5432`, or \
             `db.example:10.0.0.7` in dnsAuthority.rebindingPolicy.responseIpAllowlist, names that \
             network",
            "10.0.0.8 port 12345 was refused: a run that learns does not listen on this port, and the \
             address is private use (RFC 1918); the rule `host: \"10.0.0.8\", port: 12345` names it",
            "odd.example port 12345 was refused, since a run that learns does not listen on this port; \
             the document has a rule for it with `protocol: tcp`, which can be left out where it is TLS \
             or HTTP",
        ]
    );
    assert_eq!(
        listed(&authority),
        [entry("odd.example", 12345, "tcp")],
        "what is private has to be declared by somebody who knows"
    );
}

#[test]
fn what_a_cell_makes_up_is_bounded_and_the_rest_is_said() {
    let learned = Learned::new();
    for n in 0..MAX_DESTINATIONS + 10 {
        let name = format!("n{n}.example");
        learned.used(&named(&name), 443, Tcp, Content::Tls);
        learned.asked(&name, DnsQueryType::A);
        learned.undeclared(&named(&name), 1, Tcp);
    }
    assert_eq!(learned.rules().len(), MAX_DESTINATIONS);
    let seen = learned.seen();
    assert_eq!(
        (seen.asked.len(), seen.notes.len()),
        (MAX_DESTINATIONS, MAX_NOTES)
    );
    let (_, notes) = completed(&learned, json!({}));
    let dropped = 10 + 10 + MAX_DESTINATIONS + 10 - MAX_NOTES;
    let last = notes.last().unwrap();
    assert!(
        last.starts_with(&format!("{dropped} more things were seen")),
        "{last}"
    );
    assert!(notes.len() <= 2 * MAX_NOTES + 1);
}

proptest! {
    #[test]
    fn the_completed_document_would_have_sufficed(
        declared in prop::collection::vec((
            prop::sample::select(vec!["*", "*.b", "a.b", "A.B.", "c.b", "8.8.8.8", "8.8.0.0/16", "0.0.0.0/0"]),
            1..3u16,
            prop::sample::select(vec![None, Some("tcp"), Some("tls"), Some("http"), Some("udp")]),
        ), 0..8),
        listed in any::<bool>(),
        used in prop::collection::vec((
            prop::sample::select(vec!["a.b", "c.b", "d.e", "8.8.8.8", "8.8.9.9", "9.9.9.9"]),
            1..3u16,
            prop::sample::select(vec![Tcp, Udp]),
            prop::sample::select(vec![Content::Tls, Content::Http, Content::Opaque]),
        ), 0..12),
    ) {
        let rules: Vec<Value> = declared
            .iter()
            .map(|(host, port, protocol)| json!({"host": host, "port": port, "protocol": protocol}))
            .collect();
        let mut authority = json!({"egressRules": rules});
        if listed {
            authority["dnsAuthority"] = json!({"hostnameAllowlist": ["a.b"]});
        }
        let meaning = |host: &str| match host.parse() {
            Ok(address) => Meaning::Itself(address),
            Err(_) => named(host),
        };
        let learned = Learned::new();
        for (host, port, transport, content) in &used {
            learned.used(&meaning(host), *port, *transport, *content);
        }
        let document = learned.complete(&document(authority)).document;
        let rules = Rules::of(&document.spec.authority).unwrap();
        for (host, port, transport, content) in used {
            let to = meaning(host);
            let Ok(Permit::By(rule)) = rules.decide(&to, port, transport) else {
                panic!("{host} {port} {transport:?} is refused")
            };
            let checked = match rule.check {
                Check::Opaque => true,
                Check::TlsOrHttp => content != Content::Opaque,
                Check::Tls => content == Content::Tls,
                Check::Http => content == Content::Http,
            };
            prop_assert!(checked, "{} {} {:?} by {:?}", host, port, content, rule);
            if let Meaning::Name(name) = to {
                prop_assert!(rules.knows_name(&name));
            }
        }
        // Once more adds nothing.
        prop_assert_eq!(&learned.complete(&document).document, &document);
    }
}
