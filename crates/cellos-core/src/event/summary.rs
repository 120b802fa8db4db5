//! Payloads that sum a run up.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Declared, DeclaredEgress, EgressRecord, EventData, EventKind, lifecycle::placement};
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
    /// Connections that were let through; `null` where nobody counts. There can be more than rules.
    pub exercised_egress_connections: Option<u64>,
    /// Egress rules that let something through; absent where nobody counts; ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exercised_egress_rules: Option<usize>,
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
    /// Exercised part of the declared egress rules, 0 to 1; 1 where it cannot be told.
    pub authority_efficiency: f64,
    /// Authority that could be taken away, as far as this run tells.
    pub recommended_removals: Vec<RecommendedRemoval>,
}

/// Declared authority that a run did not exercise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum RecommendedRemoval {
    /// A rule of `authority.egressRules`.
    EgressRule(DeclaredEgress),
    /// A secret.
    SecretRef {
        /// Its name.
        name: String,
    },
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
            exercised_egress_rules: None,
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

    /// The same where a gateway counted what was exercised of the egress rules.
    #[must_use]
    pub fn counted(spec: &ExecutionCellSpec, spec_hash: String, egress: &EgressRecord) -> Self {
        let declared = Declared::of(spec).egress_rules;
        let exercised = egress
            .exercised_rules
            .iter()
            .filter(|index| **index < declared.len())
            .collect::<BTreeSet<_>>();
        Self {
            exercised_egress_connections: Some(egress.flows_allowed),
            exercised_egress_rules: Some(exercised.len()),
            exercised_egress_reason: None,
            authority_efficiency: efficiency(exercised.len(), declared.len()),
            recommended_removals: declared
                .iter()
                .enumerate()
                .filter(|(index, _)| !exercised.contains(index))
                .map(|(_, rule)| RecommendedRemoval::EgressRule(rule.clone()))
                .collect(),
            ..Self::uncounted(spec, spec_hash)
        }
    }
}

/// Which part of the rules was exercised. Nothing is not exercised of nothing.
fn efficiency(exercised: usize, declared: usize) -> f64 {
    // Documents are too small for counts that 32 bits do not hold.
    let count = |number| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    match declared {
        0 => 1.0,
        _ => count(exercised) / count(declared),
    }
}

impl EventData for Homeostasis {
    const KIND: EventKind = EventKind::Homeostasis;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_that_let_nothing_through_are_recommended_for_removal() {
        let spec: ExecutionCellSpec = serde_json::from_value(json!({
            "id": "c", "lifetime": {"ttlSeconds": 5},
            "authority": {"egressRules": [
                {"host": "a.example", "port": 443},
                {"host": "b.example", "port": 5432, "protocol": "tcp"}]}
        }))
        .unwrap();
        let egress = EgressRecord {
            declared_rules: 2,
            // One that the document does not have counts for nothing.
            exercised_rules: vec![0, 0, 7],
            flows_allowed: 3,
            ..EgressRecord::default()
        };
        let event =
            serde_json::to_value(Homeostasis::counted(&spec, "sha256:0".into(), &egress)).unwrap();
        assert_eq!(event["exercisedEgressConnections"], 3);
        assert_eq!(event["exercisedEgressRules"], 1);
        assert_eq!(event["authorityEfficiency"], 0.5);
        assert_eq!(event.get("exercisedEgressReason"), None);
        assert_eq!(
            event["recommendedRemovals"],
            json!([{"kind": "egressRule", "host": "b.example", "port": 5432, "protocol": "tcp"}])
        );
    }

    #[test]
    fn a_document_without_rules_exercises_all_of_them() {
        let spec: ExecutionCellSpec = serde_json::from_value(
            json!({"id": "c", "lifetime": {"ttlSeconds": 5}, "authority": {}}),
        )
        .unwrap();
        let event = Homeostasis::counted(&spec, String::new(), &EgressRecord::default());
        assert!((event.authority_efficiency - 1.0).abs() < f64::EPSILON);
        assert_eq!(event.recommended_removals, []);
    }
}
