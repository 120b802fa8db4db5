//! The policy pack as typed values.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::document::PlacementSpec;

/// The `kind` of a policy pack.
pub(super) const KIND_POLICY_PACK: &str = "PolicyPack";

/// An operator's bounds on documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyPackDocument {
    /// Exactly `cellos.io/v1`.
    pub api_version: String,
    /// Exactly `PolicyPack`.
    pub kind: String,
    /// The pack itself.
    pub spec: PolicyPackSpec,
}

/// The pack itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyPackSpec {
    /// Name of the pack: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or a
    /// digit, without `..`.
    pub id: String,
    /// What it is for.
    pub description: Option<String>,
    /// `MAJOR.MINOR.PATCH`, optionally `-` and a pre-release; at least 1.0.0.
    pub version: Option<String>,
    /// Where the pack applies; everywhere when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// The rules; `{}` restricts nothing.
    pub rules: PolicyRules,
}

/// The rules of a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRules {
    /// Longest life of a cell, in seconds; greater than 0.
    pub max_lifetime_ttl_seconds: Option<u64>,
    /// Most memory, in bytes; greater than 0. Also the limit of a document that sets none.
    pub max_memory_max_bytes: Option<u64>,
    /// Longest run, in milliseconds; greater than 0. Also the timeout of a document that sets none.
    pub max_run_timeout_ms: Option<u64>,
    /// At least one egress rule is declared.
    #[serde(default)]
    pub require_egress_declared: bool,
    /// No egress rule is declared.
    #[serde(default)]
    pub forbid_outbound_egress_rules: bool,
    /// Hosts that egress rules may name: exact, `*.` and a domain, `*`, an IP address or a CIDR
    /// block. Any when empty.
    #[serde(default)]
    pub allowed_egress_hosts: Vec<String>,
    /// Secrets of a workload come over the socket and not in its environment.
    #[serde(default)]
    pub require_runtime_secret_delivery: bool,
    /// A workload has a memory and a CPU limit.
    #[serde(default)]
    pub require_resource_limits: bool,
    /// Rules for port 53 use the protocol `dns-acknowledged`.
    pub flag_dns_egress_without_acknowledgment: Option<bool>,
    /// Rules for port 53 with the protocol `dns-acknowledged` say why.
    pub require_dns_egress_justification: Option<bool>,
    /// Which caller may name which secrets. A caller that is not listed may name none.
    pub secret_ref_allowlist: Option<BTreeMap<String, Vec<String>>>,
}

/// The rules by name, as they appear in violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyRule {
    /// `maxLifetimeTtlSeconds`.
    MaxLifetimeTtlSeconds,
    /// `maxMemoryMaxBytes`.
    MaxMemoryMaxBytes,
    /// `maxRunTimeoutMs`.
    MaxRunTimeoutMs,
    /// `requireEgressDeclared`.
    RequireEgressDeclared,
    /// `forbidOutboundEgressRules`.
    ForbidOutboundEgressRules,
    /// `allowedEgressHosts`.
    AllowedEgressHosts,
    /// `requireRuntimeSecretDelivery`.
    RequireRuntimeSecretDelivery,
    /// `requireResourceLimits`.
    RequireResourceLimits,
    /// `flagDnsEgressWithoutAcknowledgment`.
    FlagDnsEgressWithoutAcknowledgment,
    /// `requireDnsEgressJustification`.
    RequireDnsEgressJustification,
    /// `secretRefAllowlist`.
    SecretRefAllowlist,
}

impl PolicyRule {
    /// Every rule.
    pub const ALL: [Self; 11] = [
        Self::MaxLifetimeTtlSeconds,
        Self::MaxMemoryMaxBytes,
        Self::MaxRunTimeoutMs,
        Self::RequireEgressDeclared,
        Self::ForbidOutboundEgressRules,
        Self::AllowedEgressHosts,
        Self::RequireRuntimeSecretDelivery,
        Self::RequireResourceLimits,
        Self::FlagDnsEgressWithoutAcknowledgment,
        Self::RequireDnsEgressJustification,
        Self::SecretRefAllowlist,
    ];

    /// The rule's name in the pack and in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxLifetimeTtlSeconds => "maxLifetimeTtlSeconds",
            Self::MaxMemoryMaxBytes => "maxMemoryMaxBytes",
            Self::MaxRunTimeoutMs => "maxRunTimeoutMs",
            Self::RequireEgressDeclared => "requireEgressDeclared",
            Self::ForbidOutboundEgressRules => "forbidOutboundEgressRules",
            Self::AllowedEgressHosts => "allowedEgressHosts",
            Self::RequireRuntimeSecretDelivery => "requireRuntimeSecretDelivery",
            Self::RequireResourceLimits => "requireResourceLimits",
            Self::FlagDnsEgressWithoutAcknowledgment => "flagDnsEgressWithoutAcknowledgment",
            Self::RequireDnsEgressJustification => "requireDnsEgressJustification",
            Self::SecretRefAllowlist => "secretRefAllowlist",
        }
    }
}

impl Serialize for PolicyRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
