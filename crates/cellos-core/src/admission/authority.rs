//! `spec.authority`: secret names, egress rules, and what nobody enforces.

use serde_json::Value;

use super::{
    EgressHost, EgressHostError, EgressProtocol, filesystem, portable_id, report::Report, shown,
};
use crate::{
    document::{AuthorityBundle, EgressRule},
    source::ProblemCode,
};

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
    if let Err(error) = rule.host.parse::<EgressHost>() {
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
