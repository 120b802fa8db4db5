//! `spec.authority.dnsAuthority` and `cdnAuthority`.

use std::collections::HashSet;

use super::{
    EgressHost, MAX_RESOLVERS, ResolverEndpoint, ResolverEndpointError, grammar, portable_id,
    report::Report, shown,
};
use crate::{
    document::{AuthorityBundle, CdnAuthority, DnsAuthority, DnsResolver, DnssecPolicy},
    source::ProblemCode,
};

pub(super) fn check(authority: &AuthorityBundle, report: &mut Report) {
    if let Some(dns) = &authority.dns_authority {
        check_dns(dns, report);
    }
    if let Some(cdn) = &authority.cdn_authority {
        check_cdn(cdn, report);
    }
}

fn check_dns(dns: &DnsAuthority, report: &mut Report) {
    let base = "spec.authority.dnsAuthority";
    let mut ids = HashSet::new();
    if dns.resolvers.len() > MAX_RESOLVERS {
        report.refuse(
            ProblemCode::OutOfRange,
            format!("{base}.resolvers"),
            format!(
                "names {} resolvers, and there can be {MAX_RESOLVERS}",
                dns.resolvers.len()
            ),
        );
    }
    for (index, resolver) in dns.resolvers.iter().enumerate() {
        let path = format!("{base}.resolvers[{index}]");
        portable_id(&format!("{path}.resolverId"), &resolver.resolver_id, report);
        unique(
            &mut ids,
            &resolver.resolver_id,
            &format!("{path}.resolverId"),
            report,
        );
        check_endpoint(&path, resolver, report);
        if let Some(dnssec) = &resolver.dnssec {
            check_dnssec(&format!("{path}.dnssec"), dnssec, report);
        }
        if let Some(kid) = &resolver.trust_kid {
            portable_id(&format!("{path}.trustKid"), kid, report);
        }
    }
    for (index, name) in dns.hostname_allowlist.iter().enumerate() {
        host_pattern(&format!("{base}.hostnameAllowlist[{index}]"), name, report);
    }
    if let Some(refresh) = dns.refresh_policy
        && let (Some(min), Some(max)) = (refresh.min_ttl_seconds, refresh.max_stale_seconds)
        && min > max
    {
        let message = format!("minTtlSeconds {min} is longer than maxStaleSeconds {max}");
        report.refuse(
            ProblemCode::OutOfRange,
            format!("{base}.refreshPolicy.minTtlSeconds"),
            message,
        );
    }
    if let Some(rebinding) = &dns.rebinding_policy {
        for (index, entry) in rebinding.response_ip_allowlist.iter().enumerate() {
            if !is_response_entry(entry) {
                report.refuse_with(
                    ProblemCode::InvalidHost,
                    format!("{base}.rebindingPolicy.responseIpAllowlist[{index}]"),
                    format!("`{}` allows no address", shown(entry)),
                    "write `hostname:address` or `hostname:block`, such as `a.example:203.0.113.0/24`",
                );
            }
        }
    }
}

fn check_endpoint(path: &str, resolver: &DnsResolver, report: &mut Report) {
    let Err(error) = ResolverEndpoint::parse(resolver.protocol, &resolver.endpoint) else {
        return;
    };
    let quoted = || format!("`{}` {error}", shown(&resolver.endpoint));
    let (field, code, message) = match error {
        ResolverEndpointError::Empty => ("endpoint", ProblemCode::Empty, error.to_string()),
        ResolverEndpointError::TooLong => ("endpoint", ProblemCode::TooMany, error.to_string()),
        ResolverEndpointError::Plain | ResolverEndpointError::Tls => {
            ("endpoint", ProblemCode::InvalidHost, quoted())
        }
        ResolverEndpointError::Https => ("endpoint", ProblemCode::InvalidUrl, quoted()),
        // Without the text, which has them.
        ResolverEndpointError::Credentials => {
            ("endpoint", ProblemCode::CredentialsInUrl, error.to_string())
        }
        ResolverEndpointError::Quic => {
            let message = "`doq` is DNS over QUIC, which nobody here speaks".to_owned();
            ("protocol", ProblemCode::NotEnforced, message)
        }
    };
    report.refuse_with(code, format!("{path}.{field}"), message, error.mend());
}

fn check_dnssec(path: &str, dnssec: &DnssecPolicy, report: &mut Report) {
    if dnssec.fail_closed && !dnssec.validate {
        report.refuse_with(
            ProblemCode::NotEnforced,
            format!("{path}.failClosed"),
            "is true while validate is false: what is not validated cannot fail",
            "set validate to true, or leave failClosed out",
        );
    }
    if let Some(anchors) = &dnssec.trust_anchors_path
        && (!anchors.starts_with('/') || anchors.contains('\0'))
    {
        report.refuse_with(
            ProblemCode::InvalidPath,
            format!("{path}.trustAnchorsPath"),
            format!("`{}` is no absolute path", shown(anchors)),
            "write the whole path of the file on the host, or leave it out for IANA's anchors",
        );
    }
}

/// `hostname:ip-or-cidr`.
fn is_response_entry(entry: &str) -> bool {
    entry.split_once(':').is_some_and(|(name, addresses)| {
        grammar::is_fqdn_or_wildcard(name)
            && matches!(
                addresses.parse(),
                Ok(EgressHost::Ip(_) | EgressHost::Cidr(_))
            )
    })
}

fn check_cdn(cdn: &CdnAuthority, report: &mut Report) {
    let mut ids = HashSet::new();
    for (index, provider) in cdn.providers.iter().enumerate() {
        let path = format!("spec.authority.cdnAuthority.providers[{index}]");
        portable_id(&format!("{path}.providerId"), &provider.provider_id, report);
        unique(
            &mut ids,
            &provider.provider_id,
            &format!("{path}.providerId"),
            report,
        );
        host_pattern(
            &format!("{path}.hostnamePattern"),
            &provider.hostname_pattern,
            report,
        );
    }
}

fn unique<'a>(seen: &mut HashSet<&'a str>, name: &'a str, path: &str, report: &mut Report) {
    if !seen.insert(name) {
        report.refuse(
            ProblemCode::Duplicate,
            path,
            format!("duplicates value `{}`", shown(name)),
        );
    }
}

fn host_pattern(path: &str, text: &str, report: &mut Report) {
    if !grammar::is_fqdn_or_wildcard(text) {
        let message = format!("`{}` is not a host name pattern", shown(text));
        report.refuse_with(
            ProblemCode::InvalidHost,
            path,
            message,
            grammar::HOST_PATTERN_RULE,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn dns(dns: Value) -> Value {
        json!({"authority": {"dnsAuthority": dns}})
    }

    #[test]
    fn resolvers() {
        let resolver = |id: &str, endpoint: &str, kid: &str| json!({"resolverId": id, "endpoint": endpoint, "protocol": "dot", "trustKid": kid});
        let path = |field: &str| format!("spec.authority.dnsAuthority.resolvers[0].{field}");
        admitted(dns(
            json!({"resolvers": [resolver("a", "e", "k"), resolver("b", "e", "k")]}),
        ));
        let many = |count: usize| -> Vec<Value> {
            (0..count)
                .map(|index| resolver(&format!("r{index}"), "e", "k"))
                .collect()
        };
        admitted(dns(json!({"resolvers": many(MAX_RESOLVERS)})));
        refused(
            dns(json!({"resolvers": many(MAX_RESOLVERS + 1)})),
            "spec.authority.dnsAuthority.resolvers",
            ProblemCode::OutOfRange,
        );
        for (bad, field, code) in [
            (
                json!({"endpoint": "a.b:53", "protocol": "do53-udp"}),
                "endpoint",
                ProblemCode::InvalidHost,
            ),
            (
                json!({"endpoint": "a b", "protocol": "dot"}),
                "endpoint",
                ProblemCode::InvalidHost,
            ),
            (
                json!({"endpoint": "a.b", "protocol": "doh"}),
                "endpoint",
                ProblemCode::InvalidUrl,
            ),
            (
                json!({"endpoint": "https://u:p@a.b", "protocol": "doh"}),
                "endpoint",
                ProblemCode::CredentialsInUrl,
            ),
            (
                json!({"endpoint": "a.b:853", "protocol": "doq"}),
                "protocol",
                ProblemCode::NotEnforced,
            ),
            (
                json!({"endpoint": "a.b", "protocol": "dot", "dnssec": {"validate": false, "failClosed": true}}),
                "dnssec.failClosed",
                ProblemCode::NotEnforced,
            ),
            (
                json!({"endpoint": "a.b", "protocol": "dot", "dnssec": {"trustAnchorsPath": "anchors"}}),
                "dnssec.trustAnchorsPath",
                ProblemCode::InvalidPath,
            ),
            (
                json!({"endpoint": "a.b", "protocol": "dot", "dnssec": {"trustAnchorsPath": ""}}),
                "dnssec.trustAnchorsPath",
                ProblemCode::InvalidPath,
            ),
        ] {
            let mut bad = bad;
            bad["resolverId"] = json!("a");
            refused(dns(json!({"resolvers": [bad]})), &path(field), code);
        }
        for dnssec in [
            json!({"failClosed": true, "trustAnchorsPath": "/etc/anchors"}),
            json!({"validate": false}),
        ] {
            let good = json!({"resolverId": "a", "endpoint": "9.9.9.9:53", "protocol": "do53-tcp", "dnssec": dnssec});
            admitted(dns(json!({"resolvers": [good]})));
        }
        for (bad, field, code) in [
            (
                resolver("", "e", "k"),
                "resolverId",
                ProblemCode::InvalidName,
            ),
            (resolver("a", "", "k"), "endpoint", ProblemCode::Empty),
            (
                resolver("a", "e", "k k"),
                "trustKid",
                ProblemCode::InvalidName,
            ),
        ] {
            refused(dns(json!({"resolvers": [bad]})), &path(field), code);
        }
        refused(
            dns(json!({"resolvers": [resolver("a", "e", "k"), resolver("a", "f", "k")]})),
            "spec.authority.dnsAuthority.resolvers[1].resolverId",
            ProblemCode::Duplicate,
        );
    }

    #[test]
    fn allowlist() {
        admitted(dns(json!({"hostnameAllowlist": ["a.b", "a.b", "*.com"]})));
        for bad in ["localhost", "_x.example.com", "1.2.3.4", ""] {
            let path = "spec.authority.dnsAuthority.hostnameAllowlist[0]";
            refused(
                dns(json!({"hostnameAllowlist": [bad]})),
                path,
                ProblemCode::InvalidHost,
            );
        }
    }

    #[test]
    fn refresh_and_rebinding() {
        admitted(dns(
            json!({"refreshPolicy": {"minTtlSeconds": 2, "maxStaleSeconds": 2}}),
        ));
        refused(
            dns(json!({"refreshPolicy": {"minTtlSeconds": 2, "maxStaleSeconds": 1}})),
            "spec.authority.dnsAuthority.refreshPolicy.minTtlSeconds",
            ProblemCode::OutOfRange,
        );
        admitted(dns(json!({"rebindingPolicy": {"maxNovelIpsPerHostname": 0,
            "responseIpAllowlist": ["a.b:203.0.113.0/24", "a.b:2001:db8::1"]}})));
        for bad in ["", "a.b", "a.b:", "a.b:c.d", "localhost:1.2.3.4", "a.b:*"] {
            refused(
                dns(json!({"rebindingPolicy": {"responseIpAllowlist": [bad]}})),
                "spec.authority.dnsAuthority.rebindingPolicy.responseIpAllowlist[0]",
                ProblemCode::InvalidHost,
            );
        }
    }

    #[test]
    fn providers() {
        let cdn =
            |providers: Value| json!({"authority": {"cdnAuthority": {"providers": providers}}});
        let provider =
            |id: &str, pattern: &str| json!({"providerId": id, "hostnamePattern": pattern});
        admitted(cdn(json!([provider("a", "*.b.c"), provider("b", "*.b.c")])));
        let path = |index: usize, field: &str| {
            format!("spec.authority.cdnAuthority.providers[{index}].{field}")
        };
        refused(
            cdn(json!([provider("", "a.b")])),
            &path(0, "providerId"),
            ProblemCode::InvalidName,
        );
        refused(
            cdn(json!([provider("a", "b")])),
            &path(0, "hostnamePattern"),
            ProblemCode::InvalidHost,
        );
        refused(
            cdn(json!([provider("a", "a.b"), provider("a", "a.b")])),
            &path(1, "providerId"),
            ProblemCode::Duplicate,
        );
    }
}
