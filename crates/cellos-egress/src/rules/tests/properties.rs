//! The index against the definition, and `*` against the special addresses.

use proptest::prelude::*;

use super::*;

/// How narrow a host is, the narrowest first; the definition that the index is held against.
fn width(host: &EgressHost) -> u8 {
    match host {
        EgressHost::Name(_) | EgressHost::Ip(_) => 0,
        EgressHost::Wildcard(domain) => 255 - u8::try_from(domain.len()).unwrap(),
        EgressHost::Cidr(block) => index::address_bits(block.network()) - block.prefix(),
        EgressHost::Any => 255,
    }
}

fn naive<'r>(
    rules: &'r Rules,
    to: &EgressHost,
    port: u16,
    transport: FlowProtocol,
) -> Option<&'r Rule> {
    rules
        .all()
        .iter()
        .filter(|rule| rule.port == port && rule.transport == transport && rule.host.covers(to))
        .min_by_key(|rule| (width(&rule.host), rule.index))
}

const NAMES: [&str; 7] = ["a", "b.a", "c.b.a", "d.c.b.a", "xb.a", "b", "c.b"];
// Public all, so that only the choice of the rule is looked at.
const ADDRESSES: [&str; 6] = [
    "8.8.8.8",
    "8.8.8.9",
    "8.8.9.9",
    "9.9.9.9",
    "2606:4700::1",
    "2606:4701::1",
];

fn any_host() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&NAMES[..]);
    let address = prop::sample::select(&ADDRESSES[..]);
    prop_oneof![
        Just("*".to_owned()),
        name.clone().prop_map(str::to_owned),
        name.clone()
            .prop_map(|name| format!("{}.", name.to_uppercase())),
        name.prop_map(|name| format!("*.{name}")),
        address.clone().prop_map(str::to_owned),
        (address, 0..=128u8).prop_map(|(address, prefix)| {
            let most = index::address_bits(ip(address));
            format!("{address}/{}", prefix.min(most))
        }),
    ]
}

proptest! {
    #[test]
    fn the_index_finds_what_walking_through_all_rules_finds(
        all in prop::collection::vec((any_host(), 1..3u16, prop::sample::select(vec!["", "tcp", "tls", "udp"])), 0..24),
    ) {
        let all: Vec<_> = all.iter().map(|(host, port, protocol)| (host.as_str(), *port, *protocol)).collect();
        let rules = rules(&all);
        for port in 1..3 {
            for transport in [Tcp, Udp] {
                for name in NAMES {
                    let expected = naive(&rules, &EgressHost::Name(name.into()), port, transport);
                    prop_assert_eq!(rules.for_name(name, port, transport), expected);
                }
                for address in ADDRESSES {
                    let expected = naive(&rules, &EgressHost::Ip(ip(address)), port, transport);
                    prop_assert_eq!(rules.for_address(ip(address), port, transport), expected);
                }
            }
        }
        for name in NAMES {
            let expected = rules.all().iter().any(|rule| rule.host.matches(name));
            prop_assert_eq!(rules.knows_name(name), expected);
        }
    }

    #[test]
    fn nothing_special_is_reached_by_what_reaches_everything(bits in any::<u128>(), v4 in any::<u32>()) {
        let rules = rules(&[("*", 1, ""), ("0.0.0.0/0", 1, ""), ("::/0", 1, "")]);
        for address in [IpAddr::V6(bits.into()), IpAddr::V4(v4.into())] {
            let expected = crate::ranges::special(address).is_none();
            prop_assert_eq!(rules.for_address(address, 1, Tcp).is_some(), expected);
            prop_assert_eq!(rules.forbidden("a.b", address, 1, Tcp).is_none(), expected);
        }
    }
}
