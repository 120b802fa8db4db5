//! `spec.authority`: what a cell may reach.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::{ABSOLUTE_PATH, PORTABLE_ID};

use super::{CdnAuthority, DnsAuthority};

/// What a cell may reach. Everything that is not named here does not exist inside the cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityBundle {
    /// Host folders and files that appear inside the cell.
    pub filesystem: Option<FilesystemAuthority>,
    /// Free-form in the published contract and enforced by nobody; a populated value is refused.
    pub network: Option<serde_json::Value>,
    /// Network destinations.
    pub egress_rules: Option<Vec<EgressRule>>,
    /// Names of secrets that the workload may obtain.
    #[schemars(inner(regex(pattern = PORTABLE_ID)))]
    pub secret_refs: Option<Vec<String>>,
    /// Signed proof that this authority was derived from a role's.
    pub authority_derivation: Option<AuthorityDerivationToken>,
    /// How names are resolved for the cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_authority: Option<DnsAuthority>,
    /// Content delivery networks and whether fronting through them is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdn_authority: Option<CdnAuthority>,
}

/// Host folders and files that appear inside the cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilesystemAuthority {
    /// One entry per folder or file.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub mounts: Vec<Mount>,
}

/// A host folder or file at a place inside the cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Absolute path on the host, without `.` or `..` parts. Symbolic links in it are refused.
    #[schemars(regex(pattern = ABSOLUTE_PATH))]
    pub source: String,
    /// Absolute path inside the cell, without `.` or `..` parts; each target once.
    #[schemars(regex(pattern = ABSOLUTE_PATH))]
    pub target: String,
    /// Whether the workload may change what is there.
    pub access: MountAccess,
}

/// Whether the workload may change what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MountAccess {
    /// Read-only.
    Ro,
    /// Read and write.
    Rw,
}

/// One network destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Host name, `*.` and a domain, IP address or CIDR block.
    #[schemars(length(min = 1))]
    pub host: String,
    /// Port, 1 to 65535.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// `tcp`, `tls`, `http` or `https` (all TCP), `udp` or `dns-acknowledged` (both UDP); TCP when
    /// absent. Case is ignored.
    pub protocol: Option<String>,
    /// Why plain DNS is needed, for policy packs that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_egress_justification: Option<String>,
}

/// Egress rules and secret names, as compared by derivation tokens and ceilings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityCapability {
    /// Network destinations.
    #[serde(default)]
    pub egress_rules: Vec<EgressRule>,
    /// Names of secrets.
    #[serde(default)]
    pub secret_refs: Vec<String>,
}

/// Signed proof that an authority was derived from a role's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityDerivationToken {
    /// The role, a name in the role keys file.
    pub role_root: String,
    /// The run that handed its authority on.
    pub parent_run_id: Option<String>,
    /// The narrowing steps, oldest first.
    #[serde(default)]
    pub derivation_steps: Vec<DerivationStep>,
    /// The authority that was granted.
    pub leaf_capability: AuthorityCapability,
    /// Signature by the role's key.
    pub grantor_signature: GrantorSignature,
}

/// One narrowing step of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DerivationStep {
    /// Authority before the step.
    pub from_capability: AuthorityCapability,
    /// Authority after the step.
    pub to_capability: AuthorityCapability,
}

/// A detached signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantorSignature {
    /// `ed25519`.
    pub algorithm: String,
    /// 64 bytes in padded standard base64.
    pub bytes: String,
}
