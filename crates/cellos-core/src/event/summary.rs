//! Payloads that sum a run up.

use serde::{Deserialize, Serialize};

use super::{EventData, EventKind, lifecycle::placement};
use crate::{
    ExecutionCellSpec,
    document::{PlacementSpec, SecretDeliveryMode},
};

/// Data of `compliance.v1.summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComplianceSummary {
    /// `lifetime.ttlSeconds`.
    pub lifetime_ttl_seconds: u64,
    /// How many egress rules are declared.
    pub egress_rule_count: usize,
    /// Whether `run.limits` is set.
    pub resource_limits_present: bool,
    /// How secrets are delivered; `env` without a command.
    pub secret_delivery_mode: SecretDeliveryMode,
    /// How many export targets are declared.
    pub export_target_count: usize,
    /// `policy.packId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_pack_id: Option<String>,
    /// `policy.packVersion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_pack_version: Option<String>,
    /// `policy.bundleDigest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_bundle_digest: Option<String>,
    /// `spec.placement`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// The command's code as in `command.v1.completed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_exit_code: Option<i32>,
}

impl ComplianceSummary {
    /// What this document declares, with the code its command ended with.
    #[must_use]
    pub fn of(spec: &ExecutionCellSpec, command_exit_code: Option<i32>) -> Self {
        let policy = spec.policy.clone().unwrap_or_default();
        Self {
            lifetime_ttl_seconds: spec.lifetime.ttl_seconds,
            egress_rule_count: spec.authority.egress_rules.as_ref().map_or(0, Vec::len),
            resource_limits_present: spec.run.as_ref().is_some_and(|run| run.limits.is_some()),
            secret_delivery_mode: spec
                .run
                .as_ref()
                .map_or(SecretDeliveryMode::Env, |run| run.secret_delivery),
            export_target_count: spec
                .export
                .as_ref()
                .and_then(|export| export.targets.as_ref())
                .map_or(0, Vec::len),
            policy_pack_id: policy.pack_id,
            policy_pack_version: policy.pack_version,
            policy_bundle_digest: policy.bundle_digest,
            placement: placement(spec),
            command_exit_code,
        }
    }
}

impl EventData for ComplianceSummary {
    const KIND: EventKind = EventKind::ComplianceSummary;
}

/// The published code for egress that nobody counted.
const EGRESS_NOT_COUNTED: &str = "telemetry_pending_L2-04";

/// Data of `authority.v1.homeostasis`: declared authority against exercised authority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Homeostasis {
    /// `sha256:` and the hash of the typed specification.
    pub spec_hash: String,
    /// How many egress rules are declared.
    pub declared_egress_rules: usize,
    /// Connections that were made; `null` where nobody counts.
    pub exercised_egress_connections: Option<u64>,
    /// Why nobody counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exercised_egress_reason: Option<String>,
    /// How many mounts are declared.
    pub declared_mount_paths: usize,
    /// How many of them were seen in use.
    pub accessed_mount_paths: usize,
    /// Whether somebody watched the mounts; ours.
    pub accessed_mount_paths_observed: bool,
    /// How many secrets are declared.
    pub declared_secret_count: usize,
    /// Exercised part of the declared authority, 0 to 1; 1 where it cannot be told.
    pub authority_efficiency: f64,
    /// Authority that could be taken away.
    pub recommended_removals: Vec<String>,
}

impl Homeostasis {
    /// What this document declares, where nothing counted what was exercised.
    #[must_use]
    pub fn uncounted(spec: &ExecutionCellSpec, spec_hash: String) -> Self {
        let authority = &spec.authority;
        Self {
            spec_hash,
            declared_egress_rules: authority.egress_rules.as_ref().map_or(0, Vec::len),
            exercised_egress_connections: None,
            exercised_egress_reason: Some(EGRESS_NOT_COUNTED.into()),
            declared_mount_paths: authority
                .filesystem
                .as_ref()
                .map_or(0, |filesystem| filesystem.mounts.len()),
            accessed_mount_paths: 0,
            accessed_mount_paths_observed: false,
            declared_secret_count: authority.secret_refs.as_ref().map_or(0, Vec::len),
            authority_efficiency: 1.0,
            recommended_removals: Vec::new(),
        }
    }
}

impl EventData for Homeostasis {
    const KIND: EventKind = EventKind::Homeostasis;
}
