//! What an event says about its run, by its type.

/// What all types of cells begin with.
pub(super) const PREFIX: &str = "dev.cellos.events.";

/// What an event means for its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Admitted,
    Refused,
    Scope,
    Started,
    Posture,
    Spawned,
    Completed,
    Touched,
    Exported,
    ExportedOld,
    ExportFailed,
    Summary,
    Homeostasis,
    Destroyed,
    Failed,
    ManifestFailed,
    PoolCheckout,
    Materialized,
    Revoked,
    IdentityFailed,
    Flow,
    Name,
    Query,
    Resolution,
    /// A side task of the published implementation.
    Side,
    /// Some other event of the run.
    Other,
}

impl Step {
    /// The step of a type; `None` where an event of it belongs to no run.
    pub(super) fn of(ty: &str) -> Option<Self> {
        Some(match ty.strip_prefix(PREFIX)?.strip_prefix("cell.")? {
            "admission.v1.allowed" => Self::Admitted,
            "admission.v1.rejected" => Self::Refused,
            "observability.v1.network_scope" => Self::Scope,
            "lifecycle.v1.started" => Self::Started,
            "observability.v1.container_security" => Self::Posture,
            "observability.v1.process_spawned" => Self::Spawned,
            "command.v1.completed" => Self::Completed,
            "observability.v1.fs_touch" => Self::Touched,
            "export.v2.completed" => Self::Exported,
            "export.v1.completed" => Self::ExportedOld,
            "export.v2.failed" => Self::ExportFailed,
            "compliance.v1.summary" => Self::Summary,
            "authority.v1.homeostasis" => Self::Homeostasis,
            "lifecycle.v1.destroyed" => Self::Destroyed,
            "lifecycle.v1.failed" => Self::Failed,
            "lifecycle.v1.manifest-failed" => Self::ManifestFailed,
            "firecracker.v1.pool_checkout" => Self::PoolCheckout,
            "identity.v1.materialized" => Self::Materialized,
            "identity.v1.revoked" => Self::Revoked,
            "identity.v1.failed" => Self::IdentityFailed,
            "observability.v1.network_flow_decision" => Self::Flow,
            "observability.v1.l7_egress_decision" => Self::Name,
            "observability.v1.dns_query" => Self::Query,
            "observability.v1.dns_resolution" => Self::Resolution,
            "observability.v1.dns_target_set"
            | "observability.v1.dns_authority_drift"
            | "observability.v1.dns_authority_rebind_threshold"
            | "observability.v1.dns_authority_rebind_rejected"
            | "observability.v1.dns_authority_dnssec_failed" => Self::Side,
            other if is_of_no_run(other) => return None,
            _ => Self::Other,
        })
    }

    /// Whether a run may begin with it.
    pub(super) fn opens(self) -> bool {
        matches!(
            self,
            Self::Scope
                | Self::Started
                | Self::Failed
                | Self::ManifestFailed
                | Self::PoolCheckout
                | Self::Materialized
                | Self::IdentityFailed
                | Self::Name
                | Self::Resolution
                | Self::Side
        )
    }

    /// Whether it cannot be before the cell has started.
    pub(super) fn needs_start(self) -> bool {
        matches!(
            self,
            Self::Posture
                | Self::Spawned
                | Self::Completed
                | Self::Touched
                | Self::Exported
                | Self::ExportedOld
                | Self::ExportFailed
        )
    }

    /// Whether tasks beside the run report it, which may be late.
    pub(super) fn is_of_a_side_task(self) -> bool {
        matches!(
            self,
            Self::Flow | Self::Name | Self::Query | Self::Resolution | Self::Side
        )
    }

    /// Name of the phase that it ends, where it is one of the run's own steps in time.
    pub(super) fn phase(self) -> Option<&'static str> {
        Some(match self {
            Self::Scope => "created",
            Self::Started => "started",
            Self::Posture => "examined",
            Self::Spawned => "executed",
            Self::Completed => "completed",
            Self::Exported | Self::ExportedOld => "exported",
            Self::ExportFailed => "export-failed",
            Self::Summary => "taken-apart",
            Self::Destroyed => "destroyed",
            Self::Failed => "failed",
            _ => return None,
        })
    }
}

/// Types that name a cell and are no step of its run: about policy, evidence bundles, the trust
/// plane, and the name queries that stand there a second time without their run.
fn is_of_no_run(ty: &str) -> bool {
    [
        "policy.",
        "authz.",
        "admission.",
        "host.",
        "trust.",
        "audit.",
        "evidence_bundle.",
        "evidence.",
        "formation.",
        "cortex.",
        "dns.",
        "observability.v1.evidence_bundle_emitted",
        "authority.v1.homeostasis_violation",
    ]
    .iter()
    .any(|prefix| ty.starts_with(prefix))
}
