//! `spec.authority.dnsAuthority` and `cdnAuthority`: how names are resolved and fronted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::PORTABLE_ID;

/// How names are resolved for a cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsAuthority {
    /// Resolvers to ask, each id once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<DnsResolver>,
    /// Record types the cell may ask for; empty means A, AAAA, CNAME and HTTPS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_query_types: Vec<DnsQueryType>,
    /// Names the cell may resolve: exact, or `*.` and a domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostname_allowlist: Vec<String>,
    /// When answers are refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_policy: Option<DnsRefreshPolicy>,
    /// What happens when a name moves to new addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebinding_policy: Option<DnsRebindingPolicy>,
    /// Drop port 53 except to declared resolvers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block_direct_workload_dns: bool,
    /// Drop UDP port 853 except to declared resolvers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block_udp_doq: bool,
    /// Drop UDP port 443 except to declared resolvers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block_udp_http3: bool,
}

/// One resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsResolver {
    /// Name of the resolver.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub resolver_id: String,
    /// `host:port` for plain DNS, a URL for the others.
    #[schemars(length(min = 1))]
    pub endpoint: String,
    /// Transport.
    pub protocol: DnsResolverProtocol,
    /// Key id that vouches for the resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub trust_kid: Option<String>,
    /// DNSSEC validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dnssec: Option<DnssecPolicy>,
}

/// Transport of a resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DnsResolverProtocol {
    /// Plain DNS over UDP.
    Do53Udp,
    /// Plain DNS over TCP.
    Do53Tcp,
    /// DNS over TLS, RFC 7858.
    Dot,
    /// DNS over HTTPS, RFC 8484.
    Doh,
    /// DNS over QUIC, RFC 9250.
    Doq,
}

/// DNSSEC validation of a resolver's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnssecPolicy {
    /// Validate signatures.
    #[serde(default = "enabled")]
    pub validate: bool,
    /// Refuse answers that do not validate.
    #[serde(default)]
    pub fail_closed: bool,
    /// Trust anchors file; IANA's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_anchors_path: Option<String>,
}

fn enabled() -> bool {
    true
}

/// A DNS record type that a cell may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum DnsQueryType {
    A,
    Aaaa,
    Cname,
    Txt,
    Mx,
    Srv,
    Ns,
    Ptr,
    Https,
    Svcb,
}

/// When answers are refreshed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsRefreshPolicy {
    /// Shortest time an answer is kept, in seconds; at most `maxStaleSeconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ttl_seconds: Option<u32>,
    /// Longest time an answer is used, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stale_seconds: Option<u32>,
    /// Strategy; `ttl-honor` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<DnsRefreshStrategy>,
}

/// Refresh strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DnsRefreshStrategy {
    /// Refresh when the record's time to live has passed.
    TtlHonor,
    /// Refresh at a fixed interval.
    FixedInterval,
    /// Never refresh on its own.
    Manual,
}

/// What happens when a name moves to new addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsRebindingPolicy {
    /// Addresses that may answer for a name, as `hostname:ip-or-cidr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_ip_allowlist: Vec<String>,
    /// Most new addresses a name may take on.
    #[serde(default = "default_novel_ips")]
    pub max_novel_ips_per_hostname: u32,
    /// Refuse answers outside the policy.
    #[serde(default)]
    pub reject_on_rebind: bool,
}

fn default_novel_ips() -> u32 {
    4
}

/// Content delivery networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdnAuthority {
    /// Providers, each id once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<CdnProvider>,
}

/// One content delivery network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdnProvider {
    /// Name of the provider.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub provider_id: String,
    /// Host names it serves: exact, or `*.` and a domain.
    pub hostname_pattern: String,
    /// Accept a TLS server name that differs from the name asked for.
    #[serde(default)]
    pub accept_fronting: bool,
}
