//! The grammars of names, used all over the document.

/// Longest portable id, in bytes.
pub const MAX_PORTABLE_ID_BYTES: usize = 128;
/// Longest DNS label, in bytes; RFC 1035.
pub const MAX_DNS_LABEL_BYTES: usize = 63;
/// Longest DNS name as text, in bytes; RFC 1035.
pub const MAX_DNS_NAME_BYTES: usize = 253;
/// Longest control group leaf made from a cell's id, in characters.
pub const MAX_CGROUP_LEAF_CHARS: usize = 64;

/// What a portable id is, for messages.
pub(super) const PORTABLE_ID_RULE: &str =
    "use 1 to 128 of `A-Z a-z 0-9 . _ -`, first a letter or digit, without `..`";
/// What a host name pattern is, for messages.
pub(super) const HOST_PATTERN_RULE: &str =
    "use a DNS name of at least two labels, optionally with one leading `*.`";

/// A name that is safe in file names, subjects and control group names: ASCII, first an alphanumeric,
/// then `[A-Za-z0-9._-]`, 1 to 128 bytes, without `..`.
#[must_use]
pub fn is_portable_id(text: &str) -> bool {
    text.len() <= MAX_PORTABLE_ID_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

/// A host name label: 1 to 63 letters, digits and hyphens, first and last no hyphen; RFC 1123.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_DNS_LABEL_BYTES
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A fully qualified host name or `*.` and at least one label: no address, no trailing dot, at most
/// 253 bytes.
#[must_use]
pub fn is_fqdn_or_wildcard(text: &str) -> bool {
    let (labels, least) = match text.strip_prefix("*.") {
        Some(rest) => (rest, 1),
        None => (text, 2),
    };
    text.len() <= MAX_DNS_NAME_BYTES
        && labels.split('.').all(is_dns_label)
        && labels.split('.').count() >= least
        && !labels
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `sha256:` and exactly 64 lower-case hexadecimal digits.
#[must_use]
pub fn is_sha256_ref(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A Kubernetes namespace: a lower-case [DNS label](is_dns_label).
#[must_use]
pub fn is_kubernetes_namespace(text: &str) -> bool {
    is_dns_label(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `MAJOR.MINOR.PATCH` of digits without leading zeros, optionally `-` and `[A-Za-z0-9.-]`.
#[must_use]
pub fn is_agent_version(text: &str) -> bool {
    let (core, suffix) = match text.split_once('-') {
        Some((core, suffix)) => (core, Some(suffix)),
        None => (text, None),
    };
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    core.split('.').count() == 3
        && core.split('.').all(number)
        && suffix.is_none_or(|suffix| {
            !suffix.is_empty()
                && suffix
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        })
}

/// Whether a host name is on an allowlist of exact names and `*.domain` patterns, which stand for one
/// or more labels before the domain and never for the domain itself. ASCII case is ignored; the
/// caller cuts a port and a trailing dot.
#[must_use]
pub fn matches_allowlist(host: &str, allowlist: &[String]) -> bool {
    allowlist
        .iter()
        .any(|pattern| matches_host_pattern(host, pattern))
}

/// Whether a host name is the pattern or, for `*.domain`, lies below the domain.
#[must_use]
pub fn matches_host_pattern(host: &str, pattern: &str) -> bool {
    if host.is_empty() {
        return false;
    }
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') => {
            let Some(start) = host.len().checked_sub(suffix.len()) else {
                return false;
            };
            start > 0
                && host.is_char_boundary(start)
                && host[start..].eq_ignore_ascii_case(suffix)
                && host[..start]
                    .split('.')
                    .all(|label| !label.is_empty() && label != "*")
        }
        _ => host.eq_ignore_ascii_case(pattern),
    }
}

/// A cell's id as the name of a control group: every character outside `[A-Za-z0-9_-]` becomes `_`,
/// the first 64 characters are kept, and nothing becomes `cell`. Different ids may collide.
#[must_use]
pub fn sanitize_cgroup_leaf_segment(id: &str) -> String {
    let leaf: String = id
        .chars()
        .take(MAX_CGROUP_LEAF_CHARS)
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
                c
            } else {
                '_'
            }
        })
        .collect();
    if leaf.is_empty() {
        "cell".to_owned()
    } else {
        leaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(grammar: fn(&str) -> bool, yes: &[&str], no: &[&str]) {
        for text in yes {
            assert!(grammar(text), "{text:?} is refused");
        }
        for text in no {
            assert!(!grammar(text), "{text:?} is admitted");
        }
    }

    #[test]
    fn portable_id() {
        let (longest, longer) = ("a".repeat(128), "a".repeat(129));
        table(
            is_portable_id,
            &["a", "0", "a.", "a-", "a_", "A.b-c_d", &longest],
            &[
                "", ".a", "-a", "_a", "a..b", "a/b", "a b", "é", "a\0", "a\n", &longer,
            ],
        );
    }

    #[test]
    fn dns_label() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        table(
            is_dns_label,
            &["a", "A", "1", "a-b", &longest],
            &["", "-a", "a-", "a_b", "a.b", "é", &longer],
        );
    }

    #[test]
    fn fqdn_or_wildcard() {
        let label = "a".repeat(63);
        let (longest, longer) = (
            [label.as_str(), &label, &label, &"a".repeat(61)].join("."),
            [label.as_str(), &label, &label, &"a".repeat(62)].join("."),
        );
        table(
            is_fqdn_or_wildcard,
            &[
                "a.b",
                "A.B",
                "*.com",
                "*.a.b",
                "1.2.3.a",
                "xn--bcher-kva.example",
                &longest,
            ],
            &[
                "",
                "localhost",
                "*",
                "*.",
                "a.b.",
                ".a.b",
                "a..b",
                "*.*.a",
                "a.*.b",
                "1.2.3.4",
                "a_b.c",
                "_x.example.com",
                "a b.c",
                &longer,
            ],
        );
    }

    #[test]
    fn sha256_ref() {
        let hex = "ab".repeat(32);
        let (good, upper, short) = (
            format!("sha256:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
        );
        table(
            is_sha256_ref,
            &[&good],
            &["", "sha256:", &hex, &upper, &short, "zzz"],
        );
    }

    #[test]
    fn kubernetes_namespace() {
        table(
            is_kubernetes_namespace,
            &["a", "cells-blue", "1"],
            &["", "A", "a.b", "-a", "a-"],
        );
    }

    #[test]
    fn agent_version() {
        table(
            is_agent_version,
            &[
                "1.0.0",
                "0.4.1-rc.2",
                "1.0.0-a-b.c",
                "99999999999999999999999.0.0",
            ],
            &[
                "",
                "1.0",
                "01.0.0",
                "1.0.0.0",
                "1.0.0-",
                "1.0.0+b",
                "1.0.0-a+b",
                "v1.0.0",
                "1..0",
            ],
        );
    }

    #[test]
    fn allowlist_wildcards_stand_for_labels_and_never_for_the_domain() {
        let list = ["api.example.com".to_owned(), "*.cdn.example".to_owned()];
        for host in [
            "api.example.com",
            "API.example.COM",
            "a.cdn.example",
            "a.b.CDN.example",
        ] {
            assert!(matches_allowlist(host, &list), "{host}");
        }
        for host in [
            "",
            "cdn.example",
            ".cdn.example",
            "*.cdn.example",
            "xcdn.example",
            "example.com",
            "a..cdn.example",
        ] {
            assert!(!matches_allowlist(host, &list), "{host}");
        }
        assert!(!matches_allowlist("a", &[]));
        assert!(!matches_allowlist("é.b", &["*.\u{e9}.b".to_owned()]));
    }

    #[test]
    fn control_group_leaf() {
        for (id, leaf) in [
            ("", "cell"),
            ("a.b", "a_b"),
            ("../x", "___x"),
            ("a-b_C1", "a-b_C1"),
            ("é", "_"),
        ] {
            assert_eq!(sanitize_cgroup_leaf_segment(id), leaf);
        }
        assert_eq!(sanitize_cgroup_leaf_segment(&"a".repeat(100)).len(), 64);
    }
}
