//! Events: the CloudEvents 1.0 envelope of the contract, and the typed payloads that go into it.
//!
//! Building an event is pure: its id and time come in as a [`Stamp`].

mod admission;
mod build;
mod declared;
mod ending;
mod export;
mod kind;
mod lifecycle;
mod machine;
mod network;
mod observation;
mod summary;

pub use admission::{
    AdmissionAllowed, AdmissionCode, AdmissionFacts, AdmissionRejected, AuthzReason, AuthzRejected,
    BackendVerdict, CryptoProvider, PolicyRejected, PolicyViolation, UniversalTokenAccepted,
};
pub use build::{EventData, Lineage, Scope, Stamp, Subject, destroyed, event, started};
pub use declared::{Declared, DeclaredArtifact, DeclaredEgress, DeclaredIngress};
pub use ending::{
    Counted, EndedBy, LimitRecord, OutputRecord, ResidueRecord, StreamRecord, UsageRecord,
};
pub use export::{ExportCompleted, ExportFailed, FsTouch, Provenance};
pub use kind::EventKind;
pub use lifecycle::{
    Destroyed, Failed, Outcome, Reason, ResidueClass, Started, TerminalState, placement,
};
pub use machine::{ManifestFailed, NoticeEvent, PoolCheckout};
pub use network::{
    DnsAuthorityDnssecFailed, DnsAuthorityDrift, DnsAuthorityRebindRejected,
    DnsAuthorityRebindThreshold, DnsQuery, DnssecFailure, DnssecSource, DnssecStatus, EgressRecord,
    FlowDirection, FlowEnd, FlowProtocol, FlowReason, NETWORK_SCHEMA_VERSION, NetworkFlowDecision,
    NetworkMode, NetworkVerdict, QueryReason,
};
pub use observation::{
    CommandCompleted, ContainerSecurity, DeclaredRun, MachineRecord, NetworkEnforcement,
    NetworkPolicy, NetworkScope, ProcessSpawned,
};
pub use summary::{ComplianceSummary, Homeostasis, RecommendedRemoval};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `specversion` of every event.
pub const SPEC_VERSION: &str = "1.0";
/// `source` of every event that the supervisor emits.
pub const SUPERVISOR_SOURCE: &str = "cellos-supervisor";
/// `datacontenttype` of every event with data.
pub const JSON_CONTENT_TYPE: &str = "application/json";

/// One event. The attributes from `datacontenttype` to `traceparent` are written as `null` when
/// unset, because they are part of the bytes that get signed; the `cex` attributes are omitted.
///
/// Attributes the contract does not know must not be added: consumers drop them and a signature
/// over them fails there. Extensions go inside `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudEventV1 {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique id of the event.
    pub id: String,
    /// Program that produced it.
    pub source: String,
    /// Full event type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Media type of `data`.
    #[serde(default)]
    pub datacontenttype: Option<String>,
    /// The payload.
    #[serde(default)]
    pub data: Option<Value>,
    /// When it happened, RFC 3339.
    #[serde(default)]
    pub time: Option<String>,
    /// W3C trace context.
    #[serde(default)]
    pub traceparent: Option<String>,
    /// What kind of authority the event exercises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexauthorityclass: Option<String>,
    /// How far the statement can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cextrustceiling: Option<String>,
    /// Session the event belongs to, a ULID; one per run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexsessionid: Option<String>,
    /// Id of the event that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexparenttrace: Option<String>,
    /// Hash of a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexreceipthash: Option<String>,
    /// Cited rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexdoctrinecite: Option<String>,
    /// Revocation the event refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cexrevocation: Option<String>,
}

#[cfg(test)]
mod tests;
