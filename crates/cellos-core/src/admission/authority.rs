//! `spec.authority`: secret names, egress rules, and what nobody enforces.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{
    EgressHost, EgressHostError, EgressProtocol, filesystem, portable_id, report::Report, shown,
};
use crate::{
    document::{AuthorityBundle, EgressRule},
    ports::network::{NAME_POOL_V4, NAME_POOL_V6},
    source::ProblemCode,
};

/// Most different ports in the egress rules of a document, TCP and UDP counted apart. Each is a
/// socket inside the cell, which the gateway holds too.
pub const MAX_EGRESS_PORTS: usize = 1024;

pub(super) fn check_secret_refs(authority: &AuthorityBundle, report: &mut Report) {
    for (index, name) in authority.secret_refs.iter().flatten().enumerate() {
        if !super::is_portable_id(name) {
            portable_id(&format!("spec.authority.secretRefs[{index}]"), name, report);
        }
    }
}

pub(super) fn check(authority: &AuthorityBundle, report: &mut Report) {
    if let Some(filesystem) = &authority.filesystem {
        filesystem::check(filesystem, report);
    }
    if authority.network.as_ref().is_some_and(is_populated) {
        report.refuse_with(
            ProblemCode::NotEnforced,
            "spec.authority.network",
            "is free-form and enforced by nobody",
            "declare destinations in spec.authority.egressRules",
        );
    }
    for (index, rule) in authority.egress_rules.iter().flatten().enumerate() {
        check_rule(
            &format!("spec.authority.egressRules[{index}]"),
            rule,
            report,
        );
    }
    let rules = authority.egress_rules.iter().flatten();
    let ports: BTreeSet<_> = rules
        .map(|rule| (rule.port, EgressProtocol::of(rule.protocol.as_deref())))
        .collect();
    if ports.len() > MAX_EGRESS_PORTS {
        report.refuse_with(
            ProblemCode::TooMany,
            "spec.authority.egressRules",
            format!(
                "names {} different ports; each is a socket, and there can be {MAX_EGRESS_PORTS}",
                ports.len()
            ),
            "name the ports that the workload uses, or split the work over several cells",
        );
    }
}

fn is_populated(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

fn check_rule(path: &str, rule: &EgressRule, report: &mut Report) {
    match rule.host.parse::<EgressHost>() {
        Ok(host) => check_reachable(path, &host, report),
        Err(error) => {
            let (code, message) = match error {
                EgressHostError::Empty => (ProblemCode::Empty, error.to_string()),
                _ => (
                    ProblemCode::InvalidHost,
                    format!("`{}` {error}", shown(&rule.host)),
                ),
            };
            let mend = "write one destination per rule, without port and scheme";
            report.refuse_with(code, format!("{path}.host"), message, mend);
        }
    }
    if rule.port == 0 {
        let message = "0 is no port; there is none for \"every port\"";
        report.refuse(ProblemCode::OutOfRange, format!("{path}.port"), message);
    }
    if EgressProtocol::of(rule.protocol.as_deref()).is_none() {
        let found = shown(rule.protocol.as_deref().unwrap_or_default());
        let known: Vec<&str> = EgressProtocol::SPELLINGS
            .iter()
            .map(|(name, _)| *name)
            .collect();
        report.refuse_with(
            ProblemCode::UnknownValue,
            format!("{path}.protocol"),
            format!("`{found}` is not a known protocol"),
            format!("known: {}", known.join(", ")),
        );
    }
}

/// Refuses addresses that no cell can reach, whatever a rule says.
fn check_reachable(path: &str, host: &EgressHost, report: &mut Report) {
    let (first, prefix) = match host {
        EgressHost::Ip(address) => (*address, if address.is_ipv4() { 32 } else { 128 }),
        EgressHost::Cidr(block) => (block.network(), block.prefix()),
        EgressHost::Any | EgressHost::Name(_) | EgressHost::Wildcard(_) => return,
    };
    let (message, mend) = match first {
        IpAddr::V4(first) if first.octets()[0] == 0 && prefix >= 8 => (
            "is no destination: it stands for \"this host\"",
            "name the address itself, such as 127.0.0.1",
        ),
        IpAddr::V6(first) if first.is_unspecified() && prefix == 128 => (
            "is no destination: it stands for \"this host\"",
            "name the address itself, such as ::1",
        ),
        _ if in_name_pool(first, prefix) => (
            "lies in a block that stands for names inside a cell, so it cannot be connected to there",
            "declare the name; where it resolves to such an address, list that in \
             dnsAuthority.rebindingPolicy.responseIpAllowlist",
        ),
        _ => return,
    };
    let message = format!("`{host}` {message}");
    report.refuse_with(
        ProblemCode::NotEnforced,
        format!("{path}.host"),
        message,
        mend,
    );
}

fn in_name_pool(first: IpAddr, prefix: u8) -> bool {
    match first {
        IpAddr::V4(first) => {
            let (pool, bits) = NAME_POOL_V4;
            let differ = first.to_bits() ^ pool.to_bits();
            prefix >= bits && differ.leading_zeros() >= u32::from(bits)
        }
        IpAddr::V6(first) => prefix >= 48 && first.segments()[..3] == NAME_POOL_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::json;

    #[test]
    fn secret_names_are_portable_and_may_repeat() {
        admitted(json!({"authority": {"secretRefs": ["A", "MY.KEY-1", "A"]}}));
        for bad in ["", "a/b", "a b"] {
            let path = "spec.authority.secretRefs[1]";
            refused(
                json!({"authority": {"secretRefs": ["A", bad]}}),
                path,
                ProblemCode::InvalidName,
            );
        }
    }

    #[test]
    fn egress_rules() {
        for (host, port, protocol) in [
            ("*", 443, json!(null)),
            ("a", 1, json!("tls")),
            ("10.0.0.0/8", 65535, json!("UDP")),
            ("[::1]", 8080, json!("dns-acknowledged")),
        ] {
            let rule = json!({"host": host, "port": port, "protocol": protocol});
            admitted(json!({"authority": {"egressRules": [rule]}}));
        }
        for (host, port, protocol, field, code) in [
            ("", 1, "tcp", "host", ProblemCode::Empty),
            ("$x", 1, "tcp", "host", ProblemCode::InvalidHost),
            ("@set", 1, "tcp", "host", ProblemCode::InvalidHost),
            ("a;b", 1, "tcp", "host", ProblemCode::InvalidHost),
            ("a,b", 1, "tcp", "host", ProblemCode::InvalidHost),
            ("a", 0, "tcp", "port", ProblemCode::OutOfRange),
            ("a", 1, "", "protocol", ProblemCode::UnknownValue),
            ("a", 1, "sctp", "protocol", ProblemCode::UnknownValue),
        ] {
            let rule = json!({"host": host, "port": port, "protocol": protocol});
            let path = format!("spec.authority.egressRules[0].{field}");
            refused(json!({"authority": {"egressRules": [rule]}}), &path, code);
        }
    }

    #[test]
    fn what_no_cell_can_reach_is_refused() {
        let rule = |host: &str| json!({"authority": {"egressRules": [{"host": host, "port": 1}]}});
        for host in [
            "0.0.0.0",
            "0.1.2.0/24",
            "0.0.0.0/8",
            "::",
            "::ffff:0.0.0.0",
            "198.18.0.53",
            "198.19.0.0/16",
            "198.18.0.0/15",
            "fd63:656c:6c6f::1",
            "fd63:656c:6c6f::/48",
        ] {
            let path = "spec.authority.egressRules[0].host";
            refused(rule(host), path, ProblemCode::NotEnforced);
        }
        for host in [
            "0.0.0.0/0",
            "::/0",
            "::1",
            "127.0.0.1",
            "198.18.0.0/14",
            "198.17.0.0/16",
            "198.20.0.1",
            "fd63:656c:6c6f::/47",
            "fd63:656c:6c70::/48",
        ] {
            admitted(rule(host));
        }
    }

    #[test]
    fn ports_are_counted_once() {
        let rules = |ports: usize, times: usize| {
            let rules: Vec<_> = (1..=ports)
                .flat_map(|port| vec![json!({"host": "a.b", "port": port}); times])
                .collect();
            json!({"authority": {"egressRules": rules}})
        };
        admitted(rules(MAX_EGRESS_PORTS, 2));
        let path = "spec.authority.egressRules";
        refused(rules(MAX_EGRESS_PORTS + 1, 1), path, ProblemCode::TooMany);
    }

    #[test]
    fn free_form_network_authority_is_refused_when_it_says_something() {
        for empty in [json!(null), json!({}), json!([])] {
            admitted(json!({"authority": {"network": empty}}));
        }
        for said in [
            json!({"a": 1}),
            json!([1]),
            json!(""),
            json!(false),
            json!(0),
        ] {
            let path = "spec.authority.network";
            refused(
                json!({"authority": {"network": said}}),
                path,
                ProblemCode::NotEnforced,
            );
        }
    }
}
