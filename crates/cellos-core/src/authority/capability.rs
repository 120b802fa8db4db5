//! The order of capabilities: which one contains which.

use crate::document::{AuthorityBundle, AuthorityCapability, EgressRule};

/// What a rule's `protocol` opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NormalizedProtocol {
    /// `tcp`: whatever is said over TCP.
    Tcp,
    /// No protocol at all: TLS or HTTP for the rule's host, over TCP.
    TlsOrHttp,
    /// `tls` or `https`: TLS for the rule's host.
    Tls,
    /// `http`: HTTP for the rule's host.
    Http,
    /// `udp` or `dns-acknowledged`: whatever is said over UDP.
    Udp,
    /// A word without a meaning here, in lower case.
    Other(String),
}

impl NormalizedProtocol {
    /// Whether everything that `narrow` opens is opened by this one too.
    #[must_use]
    pub fn contains(&self, narrow: &Self) -> bool {
        match (self, narrow) {
            (Self::Tcp, Self::TlsOrHttp | Self::Tls | Self::Http)
            | (Self::TlsOrHttp, Self::Tls | Self::Http) => true,
            (one, other) => one == other,
        }
    }
}

/// What a rule's `protocol` opens, ignoring case.
///
/// Comparing the words instead would call two rules different that open the same door, and let a
/// grant for `https` miss a cell that says `tls`. Comparing transports alone would let a cell that is
/// granted `https`, which is checked, take `tcp`, which is not.
#[must_use]
pub fn normalized_protocol(protocol: Option<&str>) -> NormalizedProtocol {
    let Some(word) = protocol else {
        return NormalizedProtocol::TlsOrHttp;
    };
    match word.to_ascii_lowercase().as_str() {
        "tcp" => NormalizedProtocol::Tcp,
        "tls" | "https" => NormalizedProtocol::Tls,
        "http" => NormalizedProtocol::Http,
        "udp" | "dns-acknowledged" => NormalizedProtocol::Udp,
        other => NormalizedProtocol::Other(other.to_owned()),
    }
}

impl AuthorityCapability {
    /// The egress rules and secret names of a document's authority.
    #[must_use]
    pub fn from_bundle(bundle: &AuthorityBundle) -> Self {
        Self {
            egress_rules: bundle.egress_rules.clone().unwrap_or_default(),
            secret_refs: bundle.secret_refs.clone().unwrap_or_default(),
        }
    }

    /// Whether everything that `child` claims is granted here.
    ///
    /// A rule is granted by one with the same host (ignoring ASCII case), the same port and a
    /// [`normalized_protocol`] that contains its own; a secret by the same name. Justifications do not count. There is
    /// no reasoning about wildcards, address blocks or port ranges: `*.example.com` grants the
    /// rule `*.example.com` and nothing else.
    #[must_use]
    pub fn is_superset_of(&self, child: &Self) -> bool {
        let exceeding = exceeding(self, child);
        exceeding.egress_rules.is_empty() && exceeding.secret_refs.is_empty()
    }
}

/// The part of `child` that `parent` does not grant.
#[must_use]
pub fn exceeding(parent: &AuthorityCapability, child: &AuthorityCapability) -> AuthorityCapability {
    AuthorityCapability {
        egress_rules: child
            .egress_rules
            .iter()
            .filter(|rule| !parent.egress_rules.iter().any(|grant| grants(grant, rule)))
            .cloned()
            .collect(),
        secret_refs: child
            .secret_refs
            .iter()
            .filter(|name| !parent.secret_refs.contains(name))
            .cloned()
            .collect(),
    }
}

fn grants(grant: &EgressRule, rule: &EgressRule) -> bool {
    grant.host.eq_ignore_ascii_case(&rule.host)
        && grant.port == rule.port
        && normalized_protocol(grant.protocol.as_deref())
            .contains(&normalized_protocol(rule.protocol.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, port: u16, protocol: Option<&str>) -> EgressRule {
        EgressRule {
            host: host.to_owned(),
            port,
            protocol: protocol.map(str::to_owned),
            dns_egress_justification: None,
        }
    }

    fn capability(rules: &[EgressRule], secrets: &[&str]) -> AuthorityCapability {
        AuthorityCapability {
            egress_rules: rules.to_vec(),
            secret_refs: secrets.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn a_rule_is_granted_by_the_same_destination_only() {
        let granted = rule("api.example.com", 443, Some("https"));
        let cases = [
            (rule("API.example.COM", 443, Some("https")), true),
            (rule("api.example.com", 443, None), false),
            (rule("api.example.com", 443, Some("TCP")), false),
            (rule("api.example.com", 443, Some("TLS")), true),
            (rule("api.example.com", 443, Some("udp")), false),
            (rule("api.example.com", 443, Some("sctp")), false),
            (rule("api.example.com", 443, Some("")), false),
            (rule("api.example.com", 444, Some("https")), false),
            (rule("example.com", 443, Some("https")), false),
            (rule("*", 443, Some("https")), false),
        ];
        for (claimed, expected) in cases {
            let parent = capability(std::slice::from_ref(&granted), &[]);
            let child = capability(std::slice::from_ref(&claimed), &[]);
            assert_eq!(parent.is_superset_of(&child), expected, "{claimed:?}");
        }
    }

    #[test]
    fn a_grant_of_checked_content_is_none_of_everything() {
        let words = [
            Some("tcp"),
            None,
            Some("https"),
            Some("tls"),
            Some("http"),
            Some("udp"),
            Some("dns-acknowledged"),
        ];
        for (granted, claimed) in [
            (
                Some("tcp"),
                &[Some("tcp"), None, Some("https"), Some("tls"), Some("http")][..],
            ),
            (None, &[None, Some("https"), Some("tls"), Some("http")]),
            (Some("https"), &[Some("https"), Some("tls")]),
            (Some("http"), &[Some("http")]),
            (Some("udp"), &[Some("udp"), Some("dns-acknowledged")]),
        ] {
            for word in words {
                let parent = capability(&[rule("a.b", 1, granted)], &[]);
                let child = capability(&[rule("a.b", 1, word)], &[]);
                let expected = claimed.contains(&word);
                assert_eq!(
                    parent.is_superset_of(&child),
                    expected,
                    "{granted:?} grants {word:?}"
                );
            }
        }
    }

    #[test]
    fn a_word_without_meaning_is_equal_to_itself_only() {
        let parent = capability(&[rule("h.example", 1, Some("SCTP"))], &[]);
        assert!(parent.is_superset_of(&capability(&[rule("h.example", 1, Some("sctp"))], &[])));
        assert!(!parent.is_superset_of(&capability(&[rule("h.example", 1, None)], &[])));
    }

    #[test]
    fn secrets_compare_byte_for_byte() {
        let parent = capability(&[], &["KEY"]);
        assert!(parent.is_superset_of(&capability(&[], &["KEY", "KEY"])));
        assert!(!parent.is_superset_of(&capability(&[], &["key"])));
        assert!(parent.is_superset_of(&capability(&[], &[])));
    }

    #[test]
    fn what_exceeds_is_named() {
        let parent = capability(&[rule("a.example", 1, None)], &["A"]);
        let child = capability(
            &[
                rule("a.example", 1, Some("https")),
                rule("b.example", 2, None),
            ],
            &["A", "B"],
        );
        assert_eq!(
            exceeding(&parent, &child),
            capability(&[rule("b.example", 2, None)], &["B"])
        );
    }
}
