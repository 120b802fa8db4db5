//! `spec.authority.authorityDerivation`: what can be said of a token without keys.

use super::{EgressHost, EgressProtocol, report::Report, shown};
use crate::{
    document::{AuthorityBundle, EgressRule},
    source::ProblemCode,
};

/// The one algorithm of grantor signatures.
const ALGORITHM: &str = "ed25519";

pub(super) fn check(authority: &AuthorityBundle, report: &mut Report) {
    let Some(token) = &authority.authority_derivation else {
        return;
    };
    let base = "spec.authority.authorityDerivation";
    let rules = authority.egress_rules.as_deref().unwrap_or_default();
    for (index, leaf) in token.leaf_capability.egress_rules.iter().enumerate() {
        if !rules.iter().any(|rule| covers(rule, leaf)) {
            let message = format!(
                "leafCapability grants `{}` port {}, which spec.authority does not ask for",
                shown(&leaf.host),
                leaf.port
            );
            let path = format!("{base}.leafCapability.egressRules[{index}]");
            report.refuse(ProblemCode::BeyondAuthority, path, message);
        }
    }
    let secrets = authority.secret_refs.as_deref().unwrap_or_default();
    for (index, leaf) in token.leaf_capability.secret_refs.iter().enumerate() {
        if !secrets.contains(leaf) {
            let message = format!(
                "leafCapability grants secret `{}`, which spec.authority does not ask for",
                shown(leaf)
            );
            let path = format!("{base}.leafCapability.secretRefs[{index}]");
            report.refuse(ProblemCode::BeyondAuthority, path, message);
        }
    }
    if token.grantor_signature.algorithm != ALGORITHM {
        let found = shown(&token.grantor_signature.algorithm);
        let message = format!("`{found}` is not verified by anybody, only `{ALGORITHM}`");
        let path = format!("{base}.grantorSignature.algorithm");
        report.refuse(ProblemCode::UnknownValue, path, message);
    }
}

/// Whether a rule of the document allows everything that a rule of the token does.
fn covers(rule: &EgressRule, leaf: &EgressRule) -> bool {
    let hosts = match (
        rule.host.parse::<EgressHost>(),
        leaf.host.parse::<EgressHost>(),
    ) {
        (Ok(rule), Ok(leaf)) => rule.covers(&leaf),
        _ => false,
    };
    let protocols = (
        EgressProtocol::of(rule.protocol.as_deref()),
        EgressProtocol::of(leaf.protocol.as_deref()),
    );
    let same = matches!(protocols, (Some(rule), Some(leaf)) if rule == leaf);
    hosts && same && rule.port == leaf.port
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn token(rules: Value, secrets: Value, leaf: Value, algorithm: &str) -> Value {
        json!({"authority": {"egressRules": rules, "secretRefs": secrets, "authorityDerivation": {
            "roleRoot": "r", "leafCapability": leaf,
            "grantorSignature": {"algorithm": algorithm, "bytes": ""},
        }}})
    }

    #[test]
    fn the_leaf_lies_inside_the_document() {
        let rule = |host: &str, port: u16, protocol: Value| json!([{"host": host, "port": port, "protocol": protocol}]);
        for (rules, leaf) in [
            (rule("A.b", 1, json!(null)), rule("a.B", 1, json!(null))),
            (rule("a.b", 1, json!(null)), rule("a.b", 1, json!("https"))),
            (rule("*.b", 1, json!("udp")), rule("a.b", 1, json!("UDP"))),
            (rule("a.b", 1, json!(null)), json!([])),
        ] {
            admitted(token(
                rules,
                json!([]),
                json!({"egressRules": leaf}),
                ALGORITHM,
            ));
        }
        for (rules, leaf) in [
            (rule("a.b", 1, json!(null)), rule("c.b", 1, json!(null))),
            (rule("a.b", 1, json!(null)), rule("a.b", 2, json!(null))),
            (rule("a.b", 1, json!("udp")), rule("a.b", 1, json!(null))),
            (rule("a.b", 1, json!(null)), rule("*.b", 1, json!(null))),
            (json!([]), rule("a.b", 1, json!(null))),
        ] {
            refused(
                token(rules, json!([]), json!({"egressRules": leaf}), ALGORITHM),
                "spec.authority.authorityDerivation.leafCapability.egressRules[0]",
                ProblemCode::BeyondAuthority,
            );
        }
        refused(
            token(
                json!([]),
                json!(["a"]),
                json!({"secretRefs": ["A"]}),
                ALGORITHM,
            ),
            "spec.authority.authorityDerivation.leafCapability.secretRefs[0]",
            ProblemCode::BeyondAuthority,
        );
    }

    #[test]
    fn another_algorithm_is_refused() {
        refused(
            token(json!([]), json!([]), json!({}), "rsa"),
            "spec.authority.authorityDerivation.grantorSignature.algorithm",
            ProblemCode::UnknownValue,
        );
    }
}
