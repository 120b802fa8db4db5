//! The event types.

use std::fmt;

/// The types of the events that are built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A cell exists and its workload is about to run.
    Started,
    /// A cell is gone; the last event of every run.
    Destroyed,
    /// A cell could not be created.
    Failed,
    /// What a machine would have booted from is not what the manifest says.
    ManifestFailed,
    /// The warm pool was asked for a machine.
    PoolCheckout,
    /// The workload ended, or did not start.
    CommandCompleted,
    /// The document was admitted.
    AdmissionAllowed,
    /// The document was refused.
    AdmissionRejected,
    /// A derivation token that is good for any run was accepted.
    UniversalTokenAccepted,
    /// A policy pack rejected the document.
    PolicyRejected,
    /// An authorization policy rejected the document.
    AuthzRejected,
    /// How much network authority the document declares.
    NetworkScope,
    /// The workload's process was seen in a network of its own.
    NetworkPolicy,
    /// What stood between the workload and the network.
    NetworkEnforcement,
    /// The workload's program has been executed.
    ProcessSpawned,
    /// Isolation of the workload's process as the kernel reports it.
    ContainerSecurity,
    /// A file of the cell was opened for export.
    FsTouch,
    /// An artifact was stored.
    ExportCompleted,
    /// An artifact was not stored.
    ExportFailed,
    /// What the document asked for, in figures.
    ComplianceSummary,
    /// A connection that ended or was refused.
    NetworkFlowDecision,
    /// A name query.
    DnsQuery,
    /// A name leads to other addresses than before.
    DnsAuthorityDrift,
    /// A name has led to more addresses than it may.
    DnsAuthorityRebindThreshold,
    /// A name led to an address that is not listed for it.
    DnsAuthorityRebindRejected,
    /// An answer is not validated by DNSSEC.
    DnsAuthorityDnssecFailed,
    /// Declared authority against exercised authority.
    Homeostasis,
}

impl EventKind {
    /// The full type string.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "dev.cellos.events.cell.lifecycle.v1.started",
            Self::Destroyed => "dev.cellos.events.cell.lifecycle.v1.destroyed",
            Self::Failed => "dev.cellos.events.cell.lifecycle.v1.failed",
            Self::ManifestFailed => "dev.cellos.events.cell.lifecycle.v1.manifest-failed",
            Self::PoolCheckout => "dev.cellos.events.cell.firecracker.v1.pool_checkout",
            Self::CommandCompleted => "dev.cellos.events.cell.command.v1.completed",
            Self::AdmissionAllowed => "dev.cellos.events.cell.admission.v1.allowed",
            Self::AdmissionRejected => "dev.cellos.events.cell.admission.v1.rejected",
            Self::UniversalTokenAccepted => {
                "dev.cellos.events.cell.identity.v1.universal_token_accepted_in_permissive_mode"
            }
            Self::PolicyRejected => "dev.cellos.events.cell.policy.v1.rejected",
            Self::AuthzRejected => "dev.cellos.events.cell.authz.v1.rejected",
            Self::NetworkScope => "dev.cellos.events.cell.observability.v1.network_scope",
            Self::NetworkPolicy => "dev.cellos.events.cell.observability.v1.network_policy",
            Self::NetworkEnforcement => {
                "dev.cellos.events.cell.observability.v1.network_enforcement"
            }
            Self::ProcessSpawned => "dev.cellos.events.cell.observability.v1.process_spawned",
            Self::ContainerSecurity => "dev.cellos.events.cell.observability.v1.container_security",
            Self::FsTouch => "dev.cellos.events.cell.observability.v1.fs_touch",
            Self::ExportCompleted => "dev.cellos.events.cell.export.v2.completed",
            Self::ExportFailed => "dev.cellos.events.cell.export.v2.failed",
            Self::ComplianceSummary => "dev.cellos.events.cell.compliance.v1.summary",
            Self::NetworkFlowDecision => {
                "dev.cellos.events.cell.observability.v1.network_flow_decision"
            }
            Self::DnsQuery => "dev.cellos.events.cell.observability.v1.dns_query",
            Self::DnsAuthorityDrift => {
                "dev.cellos.events.cell.observability.v1.dns_authority_drift"
            }
            Self::DnsAuthorityRebindThreshold => {
                "dev.cellos.events.cell.observability.v1.dns_authority_rebind_threshold"
            }
            Self::DnsAuthorityRebindRejected => {
                "dev.cellos.events.cell.observability.v1.dns_authority_rebind_rejected"
            }
            Self::DnsAuthorityDnssecFailed => {
                "dev.cellos.events.cell.observability.v1.dns_authority_dnssec_failed"
            }
            Self::Homeostasis => "dev.cellos.events.cell.authority.v1.homeostasis",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
