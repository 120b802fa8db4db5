mod addresses;
mod properties;

use std::net::IpAddr;

use cellos_core::{
    document::AuthorityBundle,
    event::{FlowProtocol::*, FlowReason},
    ports::network::NAME_SERVER,
};
use serde_json::{Value, json};

use super::*;

/// The rules of an authority.
fn of(authority: Value) -> Rules {
    let authority: AuthorityBundle = serde_json::from_value(authority).unwrap();
    Rules::of(&authority).unwrap()
}

/// Rules out of `host`, port and protocol (empty for none).
fn rules(all: &[(&str, u16, &str)]) -> Rules {
    of(json!({"egressRules": listed(all)}))
}

fn listed(all: &[(&str, u16, &str)]) -> Value {
    let rule = |(host, port, protocol): &(&str, u16, &str)| {
        let protocol = (!protocol.is_empty()).then_some(*protocol);
        json!({"host": host, "port": port, "protocol": protocol})
    };
    all.iter().map(rule).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn named(name: &str) -> Meaning {
    Meaning::Name(name.into())
}

fn literal(address: &str) -> Meaning {
    Meaning::Itself(ip(address))
}

/// The index of the rule that decides on a name.
fn by_name(rules: &Rules, name: &str, port: u16) -> Option<usize> {
    rules.for_name(name, port, Tcp).map(|rule| rule.index)
}

/// The same for an address.
fn by_address(rules: &Rules, address: &str, port: u16) -> Option<usize> {
    rules.for_address(ip(address), port, Tcp).map(|it| it.index)
}

fn reason(rules: &Rules, to: &Meaning, port: u16, transport: FlowProtocol) -> Option<FlowReason> {
    rules.decide(to, port, transport).err().map(|it| it.reason)
}

#[test]
fn the_narrowest_host_decides_and_then_the_order() {
    let rules = rules(&[
        ("*", 443, "tcp"),
        ("*.example.com", 443, ""),
        ("*.a.example.com", 443, "tls"),
        ("x.a.example.com", 443, "http"),
        ("x.a.example.com", 443, "tcp"),
        ("y.example.com", 443, "tcp"),
        ("y.example.com", 443, ""),
        ("203.0.113.0/24", 443, ""),
        ("8.0.0.0/8", 443, ""),
        ("8.8.0.0/16", 443, "tcp"),
        ("8.8.8.8/32", 443, ""),
        ("8.8.8.8", 443, "tcp"),
    ]);
    for (name, expected) in [
        ("x.a.example.com", 3),
        ("X.A.Example.com.", 3),
        ("z.a.example.com", 2),
        ("a.example.com", 1),
        ("y.example.com", 5),
        ("example.com", 0),
        ("elsewhere.example", 0),
    ] {
        assert_eq!(by_name(&rules, name, 443), Some(expected), "{name}");
    }
    for (address, expected) in [
        ("8.8.8.8", 10),
        ("8.8.9.9", 9),
        ("8.9.9.9", 8),
        ("9.9.9.9", 0),
        ("203.0.113.7", 7),
        ("::ffff:8.8.9.9", 9),
        ("2606:4700::1111", 0),
    ] {
        assert_eq!(
            by_address(&rules, address, 443),
            Some(expected),
            "{address}"
        );
    }
    for name in ["", "*", "*.example.com", "a b", "8.8.8.8", "a..b"] {
        assert_eq!(by_name(&rules, name, 443), None, "{name:?}");
    }
    assert_eq!(by_name(&rules, "x.a.example.com", 444), None);
    assert_eq!(rules.for_name("x.a.example.com", 443, Udp), None);
}

#[test]
fn a_name_is_no_address_and_an_address_no_name() {
    let rules = rules(&[("a.example", 443, ""), ("8.8.8.8", 443, "")]);
    assert_eq!(by_name(&rules, "8.8.8.8", 443), None);
    assert_eq!(by_address(&rules, "8.8.4.4", 443), None);
    assert_eq!(
        reason(&rules, &named("b.example"), 443, Tcp),
        Some(FlowReason::NoRule)
    );
    assert_eq!(
        reason(&rules, &literal("8.8.4.4"), 443, Tcp),
        Some(FlowReason::NoRule)
    );
    assert_eq!(
        reason(&rules, &Meaning::Nothing, 443, Tcp),
        Some(FlowReason::UnknownAddress)
    );
}

#[test]
fn protocols_become_transports_and_checks() {
    for (protocol, transport, check) in [
        ("", Tcp, Check::TlsOrHttp),
        ("TCP", Tcp, Check::Opaque),
        ("tls", Tcp, Check::Tls),
        ("https", Tcp, Check::Tls),
        ("Http", Tcp, Check::Http),
        ("udp", Udp, Check::Opaque),
        ("dns-acknowledged", Udp, Check::Opaque),
    ] {
        let rules = rules(&[("a.example", 1, protocol)]);
        let rule = rules.for_name("a.example", 1, transport).unwrap();
        assert_eq!(
            (rule.transport, rule.check),
            (transport, check),
            "{protocol}"
        );
    }
}

#[test]
fn names_are_those_of_the_allowlist_or_of_the_rules() {
    let from_rules = rules(&[
        ("a.example", 1, ""),
        ("*.b.example", 1, "udp"),
        ("10.0.0.0/8", 1, ""),
    ]);
    for (name, known) in [
        ("a.example", true),
        ("A.EXAMPLE.", true),
        ("x.b.example", true),
        ("y.x.b.example", true),
        ("b.example", false),
        ("x.a.example", false),
        ("10.0.0.1", false),
        ("", false),
    ] {
        assert_eq!(from_rules.knows_name(name), known, "{name}");
    }
    let listed = of(json!({
        "egressRules": listed(&[("a.example", 1, "")]),
        "dnsAuthority": {"hostnameAllowlist": ["c.example", "*.d.example"]},
    }));
    for (name, known) in [
        ("a.example", false),
        ("C.example", true),
        ("x.d.example", true),
        ("d.example", false),
    ] {
        assert_eq!(listed.knows_name(name), known, "{name}");
    }
    assert!(rules(&[("*", 1, "")]).knows_name("anything.example"));
    assert!(!rules(&[]).knows_name("a.example"));
}

#[test]
fn fronting_is_accepted_where_a_provider_says_so() {
    let rules = of(json!({"cdnAuthority": {"providers": [
        {"providerId": "a", "hostnamePattern": "*.cdn.example", "acceptFronting": true},
        {"providerId": "b", "hostnamePattern": "www.example.org"},
    ]}}));
    for (name, accepted) in [
        ("x.cdn.example", true),
        ("X.CDN.example.", true),
        ("cdn.example", false),
        ("www.example.org", false),
        ("other.example", false),
    ] {
        assert_eq!(rules.accepts_fronting(name), accepted, "{name}");
    }
}

#[test]
fn query_types_are_the_four_usual_ones_or_those_declared() {
    let usual = rules(&[]);
    assert!(usual.allows_query(DnsQueryType::Https) && !usual.allows_query(DnsQueryType::Txt));
    let declared = of(json!({"dnsAuthority": {"allowedQueryTypes": ["TXT"]}}));
    assert!(declared.allows_query(DnsQueryType::Txt) && !declared.allows_query(DnsQueryType::A));
}

#[test]
fn dns_authority_closes_ports_except_to_resolvers() {
    let rules = of(json!({
        "egressRules": listed(&[
            ("9.9.9.9", 53, "udp"), ("1.1.1.1", 53, "udp"), ("1.1.1.1", 53, "tcp"), ("*", 853, "udp"),
            ("*", 443, "udp"), ("*", 443, ""), ("*", 853, ""),
        ]),
        "dnsAuthority": {
            "blockDirectWorkloadDns": true, "blockUdpDoq": true, "blockUdpHttp3": true,
            "resolvers": [
                {"resolverId": "a", "endpoint": "9.9.9.9:53", "protocol": "do53-udp"},
                {"resolverId": "b", "endpoint": "https://dns.example.net/dns-query", "protocol": "doh"},
                {"resolverId": "c", "endpoint": "[2620:fe::fe]:853", "protocol": "dot"},
            ],
        },
    }));
    let blocked = Some(FlowReason::BlockedByDnsAuthority);
    for (to, port, transport, expected) in [
        (literal("9.9.9.9"), 53, Udp, None),
        (literal("1.1.1.1"), 53, Udp, blocked),
        (literal("1.1.1.1"), 53, Tcp, blocked),
        // Nobody declared it: ours to answer.
        (literal("8.8.8.8"), 53, Udp, Some(FlowReason::NoRule)),
        (named("a.example"), 853, Udp, blocked),
        (literal("2620:fe::fe"), 853, Udp, None),
        (named("a.example"), 443, Udp, blocked),
        (named("dns.example.net"), 443, Udp, None),
        (named("a.example"), 443, Tcp, None),
        (named("a.example"), 853, Tcp, None),
    ] {
        assert_eq!(
            reason(&rules, &to, port, transport),
            expected,
            "{to:?} {port} {transport:?}"
        );
    }
    let denial = rules.decide(&literal("1.1.1.1"), 53, Udp).unwrap_err();
    assert_eq!(
        denial.detail.as_deref(),
        Some(
            "authority.dnsAuthority.blockDirectWorkloadDns is set, and 1.1.1.1 is no declared resolver for it"
        )
    );
    // It is refused as declared, not answered by us.
    assert!(!rules.dns_is_ours(&literal("1.1.1.1"), Udp));
    assert!(rules.dns_is_ours(&literal("8.8.8.8"), Udp));
}

#[test]
fn dns_is_ours_unless_a_rule_names_the_server() {
    let rules = rules(&[
        ("9.9.9.9", 53, "dns-acknowledged"),
        ("ns.example", 53, "tcp"),
    ]);
    for (to, transport, ours) in [
        (literal("9.9.9.9"), Udp, false),
        (literal("::ffff:9.9.9.9"), Udp, false),
        (literal("9.9.9.9"), Tcp, true),
        (literal("8.8.8.8"), Udp, true),
        (literal("127.0.0.53"), Udp, true),
        (named("ns.example"), Tcp, false),
        (named("ns.example"), Udp, true),
        (Meaning::Nothing, Udp, true),
    ] {
        assert_eq!(
            rules.dns_is_ours(&to, transport),
            ours,
            "{to:?} {transport:?}"
        );
    }
    let all = of(json!({"egressRules": [{"host": "*", "port": 53, "protocol": "udp"}]}));
    assert!(!all.dns_is_ours(&literal("8.8.8.8"), Udp));
    let ours = crate::names::Names::default().meaning(NAME_SERVER.into());
    assert!(all.dns_is_ours(&ours, Udp));
    // What `*` does not reach is answered here, such as a stub resolver that an image names.
    assert!(all.dns_is_ours(&literal("127.0.0.53"), Udp));
    let learning = all.in_mode(Mode::Learn);
    assert!(!learning.dns_is_ours(&literal("8.8.8.8"), Udp));
    assert!(
        Rules::default()
            .in_mode(Mode::Learn)
            .dns_is_ours(&literal("8.8.8.8"), Udp)
    );
}

#[test]
fn learning_lets_everything_public_through() {
    let rules = of(json!({
        "egressRules": listed(&[("a.example", 443, "")]),
        "dnsAuthority": {"blockUdpHttp3": true, "hostnameAllowlist": ["a.example"]},
    }))
    .in_mode(Mode::Learn);
    assert!(rules.knows_name("b.example") && rules.allows_query(DnsQueryType::Srv));
    for (to, port, transport, expected) in [
        (named("b.example"), 22, Tcp, None),
        (literal("8.8.8.8"), 22, Tcp, None),
        (
            literal("10.0.0.1"),
            22,
            Tcp,
            Some(FlowReason::AddressForbidden),
        ),
        (
            literal("0.0.0.0"),
            22,
            Tcp,
            Some(FlowReason::AddressForbidden),
        ),
        (Meaning::Nothing, 22, Tcp, Some(FlowReason::UnknownAddress)),
        (
            named("b.example"),
            443,
            Udp,
            Some(FlowReason::BlockedByDnsAuthority),
        ),
    ] {
        assert_eq!(reason(&rules, &to, port, transport), expected, "{to:?}");
    }
    let permit = rules.decide(&named("a.example"), 443, Tcp).unwrap();
    assert!(matches!(permit, Permit::ToLearn(Some(rule)) if rule.index == 0));
    let needs = rules.needs();
    for port in [1, 443, 1023, 5432, 8080] {
        assert!(needs.tcp_ports.contains(&port), "{port}");
    }
    assert_eq!(
        needs.udp_ports.into_iter().collect::<Vec<_>>(),
        [53, 123, 443]
    );
}

#[test]
fn sockets_are_needed_for_declared_ports() {
    let rules = rules(&[
        ("a.example", 443, ""),
        ("*", 443, "tcp"),
        ("8.8.8.8", 53, "udp"),
        ("b.c", 80, ""),
    ]);
    let needs = rules.needs();
    assert_eq!(needs.tcp_ports.into_iter().collect::<Vec<_>>(), [80, 443]);
    assert_eq!(needs.udp_ports.into_iter().collect::<Vec<_>>(), [53]);
    assert!(rules.wants_network());
    assert!(!Rules::default().wants_network());
    assert!(Rules::default().in_mode(Mode::Learn).wants_network());
    assert!(of(json!({"dnsAuthority": {"hostnameAllowlist": ["a.b"]}})).wants_network());
    assert!(!of(json!({"dnsAuthority": {}})).wants_network());
}

#[test]
fn what_is_not_understood_is_refused_with_its_field() {
    for (authority, path) in [
        (
            json!({"egressRules": [{"host": "a b", "port": 1}]}),
            "spec.authority.egressRules[0].host: ",
        ),
        (
            json!({"egressRules": [{"host": "a", "port": 0}]}),
            "spec.authority.egressRules[0].port: ",
        ),
        (
            json!({"egressRules": [{"host": "a", "port": 1, "protocol": "x"}]}),
            "spec.authority.egressRules[0].protocol: ",
        ),
        (
            json!({"dnsAuthority": {"hostnameAllowlist": ["*"]}}),
            "spec.authority.dnsAuthority.hostnameAllowlist[0]: ",
        ),
        (
            json!({"dnsAuthority": {"rebindingPolicy": {"responseIpAllowlist": ["a.b"]}}}),
            "spec.authority.dnsAuthority.rebindingPolicy.responseIpAllowlist[0]: ",
        ),
        (
            json!({"cdnAuthority": {"providers": [{"providerId": "a", "hostnamePattern": "8.8.8.8"}]}}),
            "spec.authority.cdnAuthority.providers[0].hostnamePattern: ",
        ),
    ] {
        let authority: AuthorityBundle = serde_json::from_value(authority).unwrap();
        let problem = Rules::of(&authority).unwrap_err().to_string();
        assert!(problem.starts_with(path), "{problem}");
    }
}
