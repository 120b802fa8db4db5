//! The execution-cell document as typed values, one module per block.
//!
//! The order of fields is the order of the published document, and so is what an unset field
//! serialises to (`null` or nothing): the typed specification hash is taken over exactly this form.
//! Fields that are ours are omitted when unset, so that they never change the hash of a document
//! that does not use them.

mod authority;
mod dns;
mod environment;
mod export;
mod identity;
mod labels;
mod patterns;
mod run;
mod telemetry;

pub use authority::{
    AuthorityBundle, AuthorityCapability, AuthorityDerivationToken, DerivationStep, EgressRule,
    FilesystemAuthority, GrantorSignature, Mount, MountAccess,
};
pub use dns::{
    CdnAuthority, CdnProvider, DnsAuthority, DnsQueryType, DnsRebindingPolicy, DnsRefreshPolicy,
    DnsRefreshStrategy, DnsResolver, DnsResolverProtocol, DnssecPolicy,
};
pub use environment::{EnvironmentSpec, GitIngress, Ingress, OciImageIngress};
pub use export::{ExportArtifact, ExportChannels, ExportTarget};
pub use identity::{WorkloadIdentity, WorkloadIdentityKind};
pub use labels::{Correlation, PlacementSpec, PolicyRef};
pub use run::{Lifetime, RunCpuMax, RunLimits, RunSpec, RunUser, SecretDeliveryMode};
pub use telemetry::{TelemetryFields, TelemetryRateLimits, TelemetrySpec};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The only `apiVersion` there is.
pub const API_VERSION: &str = "cellos.io/v1";
/// The `kind` of an execution-cell document.
pub const KIND_EXECUTION_CELL: &str = "ExecutionCell";

/// One execution cell: what runs, with which authority, for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecutionCellDocument {
    /// Exactly `cellos.io/v1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// Exactly `ExecutionCell`.
    #[schemars(extend("const" = KIND_EXECUTION_CELL))]
    pub kind: String,
    /// The cell itself.
    pub spec: ExecutionCellSpec,
}

/// Everything a cell is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecutionCellSpec {
    /// The cell's name: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or a
    /// digit, without `..`.
    #[schemars(length(min = 1, max = 128), regex(pattern = patterns::PORTABLE_ID))]
    pub id: String,
    /// Where the request for this cell came from.
    pub correlation: Option<Correlation>,
    /// Inputs to fetch into the working folder before the cell starts.
    pub ingress: Option<Ingress>,
    /// The image the cell's root file system is made from.
    pub environment: Option<EnvironmentSpec>,
    /// Where the cell may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// The policy pack this document was written against, as a label.
    pub policy: Option<PolicyRef>,
    /// A cloud identity to obtain for the workload.
    pub identity: Option<WorkloadIdentity>,
    /// The command. A cell without one is created and taken apart again.
    pub run: Option<RunSpec>,
    /// What the cell may reach. `{}` is no authority at all.
    pub authority: AuthorityBundle,
    /// How long the cell may live.
    pub lifetime: Lifetime,
    /// What leaves the cell after the run.
    pub export: Option<ExportChannels>,
    /// Telemetry expected from a guest agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetrySpec>,
}
