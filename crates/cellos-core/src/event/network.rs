//! Payloads about connections and name queries that a cell tried to make.

use serde::{Deserialize, Serialize};

use super::{EventData, EventKind, Scope};

/// `schemaVersion` of the payloads in this module.
pub const NETWORK_SCHEMA_VERSION: &str = "1.0.0";

/// Whether something was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkVerdict {
    /// It was.
    Allow,
    /// It was not.
    Deny,
}

/// How strict the gateway of a cell is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// It lets through what the document declares, and nothing else.
    #[default]
    Enforce,
    /// It lets through whatever the cell asks for, to learn what a document would have to declare.
    Learn,
}

/// Which way a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowDirection {
    /// Out of the cell.
    Egress,
    /// Into the cell, through a published port.
    Ingress,
}

/// Transport of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Why a flow was let through or refused. Names that begin with `l7_` are the published ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowReason {
    /// Allowed: a rule of the document covers it.
    EgressRuleMatch,
    /// Allowed: the operator published the port.
    PublishedPort,
    /// Allowed: nothing was refused, since the run was there to learn what it needs.
    Learned,
    /// No rule covers this destination on this port.
    NoRule,
    /// Nothing listens on this port inside the cell, so the kernel refused it at once.
    UndeclaredPort,
    /// An address of the names' pool that stands for no name.
    UnknownAddress,
    /// The name could not be resolved.
    ResolveFailed,
    /// The name resolved to nothing but private, loopback, link-local, multicast, metadata or
    /// otherwise special addresses, which no rule names.
    AddressForbidden,
    /// The name resolved to addresses outside the document's rebinding policy.
    RebindRejected,
    /// The answer's DNSSEC signatures do not hold, or there are none where they are demanded.
    DnssecFailed,
    /// The destination, or the proxy before it, did not take the connection.
    ConnectFailed,
    /// Nobody answered in time.
    ConnectTimeout,
    /// The upstream proxy refused the connection.
    ProxyRefused,
    /// TLS without a server name.
    L7SniMissing,
    /// TLS with a server name other than the one behind the address.
    L7SniAllowlistMiss,
    /// TLS whose true server name is encrypted.
    TlsEncryptedHello,
    /// What began as TLS is none.
    TlsMalformed,
    /// HTTP without a host.
    L7HttpHostMissing,
    /// HTTP for a host other than the one behind the address.
    L7HttpHostAllowlistMiss,
    /// What began as HTTP is none, or can be read in two ways.
    HttpMalformed,
    /// HTTP/2 without TLS, which is let through under `protocol: tcp` only.
    Http2Cleartext,
    /// Neither TLS nor HTTP where the rule asks for one of them.
    L7UnknownProtocol,
    /// The first bytes did not come in time.
    L7PeekTimeout,
    /// The cell has as many flows as it may have.
    TooManyFlows,
    /// A datagram that is too large to be passed on.
    DatagramTooLarge,
    /// The document forbids this kind of traffic outright: `blockDirectWorkloadDns`,
    /// `blockUdpDoq`, `blockUdpHttp3`.
    BlockedByDnsAuthority,
}

/// How an allowed flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowEnd {
    /// Both sides closed.
    Closed,
    /// One side broke it off.
    Reset,
    /// Nothing was said for too long.
    Idle,
    /// A later request on the connection was refused.
    Refused,
    /// The cell ended first.
    CellEnded,
}

/// Data of `observability.v1.network_flow_decision`: one flow, told at its end, or one refusal, told
/// at once. From `requested_name` on the fields are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkFlowDecision {
    /// `1.0.0`.
    pub schema_version: String,
    /// Id of the flow, unique.
    pub decision_id: String,
    /// Which way.
    pub direction: FlowDirection,
    /// Whether it was let through.
    pub decision: NetworkVerdict,
    /// Why.
    pub reason_code: FlowReason,
    /// The rule that decided: `authority.egressRules[3]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nft_rule_ref: Option<String>,
    /// The address outside that was dialled, or that a name may not lead to; of other refusals the one
    /// that the cell dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_addr: Option<String>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// The transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<FlowProtocol>,
    /// Bytes both ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_count: Option<u64>,
    /// When it was decided, or when the flow ended; RFC 3339.
    pub observed_at: String,
    /// The name that the cell asked for, where it asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_name: Option<String>,
    /// What the cell said that it wants instead: the server name, the host header. Cut, and harmless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presented_name: Option<String>,
    /// Bytes out of the cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// Bytes into the cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// From its acceptance to its end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<FlowEnd>,
    /// The declared resolver that said where the name leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_resolver_id: Option<String>,
    /// More about the reason, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many refusals of this kind this event stands for, where it sums up more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl EventData for NetworkFlowDecision {
    const KIND: EventKind = EventKind::NetworkFlowDecision;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Why a name query was answered or refused, as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryReason {
    /// The name is declared.
    AllowedByAllowlist,
    /// The name is not declared.
    DeniedNotInAllowlist,
    /// The record type is not declared.
    DeniedQueryType,
    /// It could not be read.
    MalformedQuery,
    /// The resolver outside did not answer.
    UpstreamFailure,
    /// The answer's DNSSEC signatures do not hold.
    DeniedDnssec,
    /// Every name that fits was refused, because the cell asked for too many different ones; ours.
    TooManyNames,
}

/// Data of `observability.v1.dns_query`. `count` is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsQuery {
    /// `1.0.0`.
    pub schema_version: String,
    /// Id of the query, unique.
    pub query_id: String,
    /// The name, lower case, without the last dot; `(unknown)` when it could not be read.
    pub query_name: String,
    /// The record type as a word, `TYPE123` for others.
    pub query_type: String,
    /// Whether it was answered.
    pub decision: NetworkVerdict,
    /// Why.
    pub reason_code: QueryReason,
    /// Response code of DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_rcode: Option<u16>,
    /// The declared resolver that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_resolver_id: Option<String>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_latency_ms: Option<u64>,
    /// How many records were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_target_count: Option<u32>,
    /// When; RFC 3339.
    pub observed_at: String,
    /// How many queries of this kind this event stands for, where it sums up more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl EventData for DnsQuery {
    const KIND: EventKind = EventKind::DnsQuery;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// What DNSSEC said of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecStatus {
    /// Every signature holds, up to a trust anchor.
    Validated,
    /// One does not.
    ValidationFailed,
    /// The zone is provably not signed.
    Unsigned,
    /// Nobody looked.
    NotAttempted,
}

/// Data of `observability.v1.dns_authority_drift`: a name leads to other addresses than before.
/// Targets are addresses as they were answered, before they were judged; sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsAuthorityDrift {
    /// `1.0.0`.
    pub schema_version: String,
    /// The declared resolver that was asked; `host` for the host's own.
    pub resolver_id: String,
    /// The name.
    pub hostname: String,
    /// Where it led before.
    pub previous_targets: Vec<String>,
    /// Where it leads now.
    pub current_targets: Vec<String>,
    /// Only in the new ones.
    pub added_targets: Vec<String>,
    /// Only in the old ones.
    pub removed_targets: Vec<String>,
    /// SHA-256 over the old targets, joined by line feeds; `empty` the first time.
    pub previous_digest: String,
    /// SHA-256 over the new ones, likewise.
    pub current_digest: String,
    /// How long the answer says that it holds, in seconds.
    pub ttl_seconds: u32,
    /// How long the old answer was kept, in seconds.
    pub stale_seconds: u32,
    /// What DNSSEC said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dnssec_status: Option<DnssecStatus>,
    /// `trustKid` of that resolver, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_kid: Option<String>,
    /// When; RFC 3339.
    pub observed_at: String,
}

impl EventData for DnsAuthorityDrift {
    const KIND: EventKind = EventKind::DnsAuthorityDrift;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Data of `observability.v1.dns_authority_rebind_threshold`: a name has led to more addresses over
/// the cell's life than the rebinding policy allows. `rejected` is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsAuthorityRebindThreshold {
    /// `1.0.0`.
    pub schema_version: String,
    /// The name.
    pub hostname: String,
    /// The address that was one too many.
    pub novel_ip: String,
    /// How many addresses the name had led to before.
    pub previous_ip_count: u32,
    /// How many with this one.
    pub cumulative_ip_count: u32,
    /// How many the policy allows.
    pub max_novel_ips_per_hostname: u32,
    /// SHA-256 of the rebinding policy, canonical JSON (RFC 8785).
    pub policy_digest: String,
    /// The declared resolver that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver_id: Option<String>,
    /// Whether the address was refused, or only told of.
    pub rejected: bool,
    /// `trustKid` of that resolver, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_kid: Option<String>,
    /// When; RFC 3339.
    pub observed_at: String,
}

impl EventData for DnsAuthorityRebindThreshold {
    const KIND: EventKind = EventKind::DnsAuthorityRebindThreshold;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Data of `observability.v1.dns_authority_rebind_rejected`: a name led to an address outside of
/// those that the rebinding policy lists for it. `rejected` is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsAuthorityRebindRejected {
    /// `1.0.0`.
    pub schema_version: String,
    /// The name.
    pub hostname: String,
    /// The address.
    pub novel_ip: String,
    /// How many addresses the name had led to before.
    pub previous_ip_count: u32,
    /// How many with this one.
    pub cumulative_ip_count: u32,
    /// What the policy lists for this name.
    pub response_ip_allowlist: Vec<String>,
    /// SHA-256 of the rebinding policy, canonical JSON (RFC 8785).
    pub policy_digest: String,
    /// The declared resolver that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver_id: Option<String>,
    /// Whether the address was refused, or only told of.
    pub rejected: bool,
    /// `trustKid` of that resolver, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_kid: Option<String>,
    /// When; RFC 3339.
    pub observed_at: String,
}

impl EventData for DnsAuthorityRebindRejected {
    const KIND: EventKind = EventKind::DnsAuthorityRebindRejected;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Why an answer is not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecFailure {
    /// A signature does not hold, is missing where there has to be one, or is out of its time.
    ValidationFailed,
    /// The zone is not signed.
    UnsignedZone,
    /// There is no trust anchor to begin with.
    TrustAnchorMissing,
    /// It could not be found out.
    ValidatorInternal,
}

/// What an answer was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecSource {
    /// To keep what is known of a name fresh.
    ResolverRefresh,
    /// A connection or a query of the cell.
    Dataplane,
}

/// Data of `observability.v1.dns_authority_dnssec_failed`: an answer is not validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsAuthorityDnssecFailed {
    /// `1.0.0`.
    pub schema_version: String,
    /// The declared resolver that was asked.
    pub resolver_id: String,
    /// The name.
    pub hostname: String,
    /// Why.
    pub reason: DnssecFailure,
    /// Whether answers without signatures are refused, too.
    pub fail_closed: bool,
    /// `iana-default`, or the file's name.
    pub trust_anchor_source: String,
    /// What it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<DnssecSource>,
    /// `trustKid` of that resolver, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_kid: Option<String>,
    /// When; RFC 3339.
    pub observed_at: String,
}

impl EventData for DnsAuthorityDnssecFailed {
    const KIND: EventKind = EventKind::DnsAuthorityDnssecFailed;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// What a cell did with the network it was given; part of `destroyed`, ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRecord {
    /// How many rules are declared.
    pub declared_rules: usize,
    /// Indices of the rules that let something through.
    pub exercised_rules: Vec<usize>,
    /// Flows that were let through.
    pub flows_allowed: u64,
    /// Flows that were refused, those of suppressed events included.
    pub flows_refused: u64,
    /// Name queries that were refused.
    pub queries_refused: u64,
    /// Bytes out of the cell.
    pub bytes_out: u64,
    /// Bytes into the cell.
    pub bytes_in: u64,
    /// Refusals that have no event of their own, but are counted in one that sums up.
    pub summed_up: u64,
    /// Whether the gateway let everything through, to learn what the cell needs.
    pub learning: bool,
}
