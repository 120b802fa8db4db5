//! Special addresses and this host's own: what opens them, given as such and as answers for names.

use super::*;

#[test]
fn special_addresses_need_a_rule_for_their_network() {
    for (host, address, open) in [
        ("*", "127.0.0.1", false),
        ("*", "10.0.0.1", false),
        ("*", "169.254.169.254", false),
        ("*", "8.8.8.8", true),
        ("0.0.0.0/0", "10.0.0.1", false),
        ("0.0.0.0/0", "8.8.8.8", true),
        ("8.0.0.0/6", "10.0.0.1", false),
        ("::/0", "::1", false),
        ("10.0.0.0/8", "10.0.0.1", true),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("10.1.0.0/16", "10.1.0.1", true),
        ("10.0.0.1", "10.0.0.1", true),
        ("127.0.0.0/8", "127.0.0.53", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1", "::1", false),
        ("::1", "::1", true),
        ("169.254.0.0/16", "169.254.1.1", true),
        // Who names the link does not mean the credentials on it.
        ("169.254.0.0/16", "169.254.169.254", false),
        ("169.254.169.254", "169.254.169.254", true),
        ("fc00::/7", "fd12::1", true),
        ("fc00::/7", "fd00:ec2::254", false),
        ("64:ff9b::/96", "64:ff9b::a00:1", false),
        ("64:ff9b::a00:0/104", "64:ff9b::a00:1", true),
        ("64:ff9b::/96", "64:ff9b::808:808", true),
        ("2002::/16", "2002:7f00:1::1", false),
        // The unspecified address means this host; nothing names it.
        ("0.0.0.0", "0.0.0.0", false),
        ("0.0.0.0/8", "0.1.2.3", false),
        ("::", "::", false),
        ("*", "0.0.0.0", false),
        ("64:ff9b::", "64:ff9b::", false),
    ] {
        let rules = rules(&[(host, 80, "")]);
        assert_eq!(
            by_address(&rules, address, 80).is_some(),
            open,
            "{host} {address}"
        );
        if !open
            && rules
                .find_address(ip(address).to_canonical(), 80, Tcp)
                .is_some()
        {
            let denial = rules.decide(&literal(address), 80, Tcp).unwrap_err();
            assert_eq!(denial.reason, FlowReason::AddressForbidden);
            assert_eq!(denial.rule.map(|rule| rule.index), Some(0));
        }
    }
    let rules = rules(&[("*", 80, "")]);
    let denial = rules.decide(&literal("10.1.2.3"), 80, Tcp).unwrap_err();
    assert_eq!(
        denial.detail.as_deref(),
        Some(
            "10.1.2.3 is private use (RFC 1918); a rule has to name the address, or a block inside of \
             10.0.0.0/8"
        )
    );
}

#[test]
fn an_address_of_this_host_has_to_be_named_itself() {
    let own: OwnAddresses = [ip("198.51.7.7"), ip("10.0.0.5"), ip("127.0.0.1")]
        .into_iter()
        .collect();
    let own = Arc::new(own);
    for (host, address, open) in [
        ("*", "198.51.7.7", false),
        ("198.51.7.0/24", "198.51.7.7", false),
        ("198.51.7.0/24", "::ffff:198.51.7.7", false),
        ("198.51.7.0/24", "198.51.7.8", true),
        ("198.51.7.7", "198.51.7.7", true),
        ("198.51.7.7/32", "198.51.7.7", true),
        ("10.0.0.0/8", "10.0.0.5", false),
        ("10.0.0.0/8", "10.0.0.6", true),
        ("10.0.0.5", "10.0.0.5", true),
        ("127.0.0.0/8", "127.0.0.1", true),
    ] {
        let rules = rules(&[(host, 80, ""), ("a.example", 80, "")]).on_host(Arc::clone(&own));
        assert_eq!(
            by_address(&rules, address, 80).is_some(),
            open,
            "{host} {address}"
        );
        let answer = rules.forbidden("a.example", ip(address), 80, Tcp);
        assert_eq!(answer.is_none(), open, "{host} {address}");
    }
}

#[test]
fn answers_are_forbidden_unless_their_network_is_named() {
    let rules = of(json!({
        "egressRules": listed(&[
            ("db.example", 5432, "tcp"), ("10.1.0.0/16", 5432, "tcp"), ("*", 5432, ""),
            ("192.168.1.1", 53, "udp"),
        ]),
        "dnsAuthority": {"rebindingPolicy": {"responseIpAllowlist": [
            "git.example.org:10.9.0.0/16", "*.lab.example:fd00::/8", "wide.example.org:0.0.0.0/0",
            "git.example.org:2001:db8::1",
        ]}},
    }));
    for (name, address, port, forbidden) in [
        ("db.example", "93.184.216.34", 5432, None),
        ("db.example", "10.1.2.3", 5432, None),
        ("db.example", "::ffff:10.1.2.3", 5432, None),
        (
            "db.example",
            "10.1.2.3",
            5433,
            Some("private use (RFC 1918)"),
        ),
        (
            "db.example",
            "10.2.2.3",
            5432,
            Some("private use (RFC 1918)"),
        ),
        ("db.example", "127.0.0.1", 5432, Some("loopback (RFC 1122)")),
        (
            "db.example",
            "0.0.0.0",
            5432,
            Some("\"this network\" (RFC 791)"),
        ),
        ("db.example", "169.254.169.254", 80, Some("cloud metadata")),
        (
            "db.example",
            "192.168.1.1",
            53,
            Some("private use (RFC 1918)"),
        ),
        ("GIT.example.org.", "10.9.8.7", 22, None),
        ("git.example.org", "2001:db8::1", 22, None),
        (
            "git.example.org",
            "2001:db8::2",
            22,
            Some("documentation (RFC 3849)"),
        ),
        ("db.example", "10.9.8.7", 22, Some("private use (RFC 1918)")),
        ("a.b.lab.example", "fd12::1", 22, None),
        (
            "lab.example",
            "fd12::1",
            22,
            Some("unique local (RFC 4193)"),
        ),
        (
            "wide.example.org",
            "10.9.8.7",
            22,
            Some("private use (RFC 1918)"),
        ),
    ] {
        let found = rules.forbidden(name, ip(address), port, Tcp);
        assert_eq!(found, forbidden, "{name} {address} {port}");
    }
    let on_udp = rules.forbidden("db.example", ip("192.168.1.1"), 53, Udp);
    assert_eq!(on_udp, None);
    for (name, address, expected) in [
        ("git.example.org", "10.9.0.1", Response::Listed),
        ("git.example.org", "10.8.0.1", Response::Unlisted),
        ("git.example.org", "2001:db8::1", Response::Listed),
        ("x.lab.example", "fd00::1", Response::Listed),
        ("x.lab.example", "8.8.8.8", Response::Unlisted),
        ("db.example", "8.8.8.8", Response::NoList),
    ] {
        assert_eq!(
            rules.response(name, ip(address)),
            expected,
            "{name} {address}"
        );
    }
}
