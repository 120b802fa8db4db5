//! Payloads of the lifecycle events.

use serde::{Deserialize, Serialize};

use super::{
    Declared, EgressRecord, EndedBy, EventData, EventKind, LimitRecord, OutputRecord,
    ResidueRecord, UsageRecord,
};
use crate::{ExecutionCellSpec, document::PlacementSpec};

/// `spec.placement`, `None` when nothing in it is set.
#[must_use]
pub fn placement(spec: &ExecutionCellSpec) -> Option<PlacementSpec> {
    spec.placement
        .clone()
        .filter(|placement| *placement != PlacementSpec::default())
}

/// Data of `lifecycle.v1.started`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: u64,
    /// Whether a derivation token was verified; absent without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derivation_verified: Option<bool>,
    /// Role the token was derived from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_root: Option<String>,
    /// Run the token was derived for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_run_id: Option<String>,
    /// SHA-256 of the document's bytes, bare hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// SHA-256 of the guest kernel, bare hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_digest_sha256: Option<String>,
    /// SHA-256 of the guest root file system, bare hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_digest_sha256: Option<String>,
    /// SHA-256 of the virtual machine monitor, bare hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firecracker_digest_sha256: Option<String>,
    /// `spec.placement`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// Copy of `correlation.tenantId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Name of the backend that made the cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What the document grants; ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<Box<Declared>>,
}

impl EventData for Started {
    const KIND: EventKind = EventKind::Started;
}

/// Whether every phase of a run succeeded, the command's code included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All did.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// How the end of a workload that the backend runs is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TerminalState {
    /// The backend delivered the workload's own end.
    Clean,
    /// The cell was killed, or its end was not seen.
    Forced,
}

/// What kind of remains a cell left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidueClass {
    /// It was looked for and nothing was found.
    None,
    /// Something stays for a documented reason.
    DocumentedException,
}

/// Reasons with a code of their own; everything else is free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Killed for memory.
    Oom,
    /// `lifetime.ttlSeconds` was over.
    TtlExceeded,
    /// `run.timeoutMs` or the operator's cap was over.
    TimeoutExceeded,
    /// A signal that CellOS did not send.
    SignalKilled,
    /// The supervisor was asked to stop.
    SupervisorSignal,
    /// The backend's backstop acted.
    BackstopFired,
    /// The command is not there or cannot be executed.
    CommandRefused,
    /// The supervisor disappeared.
    SupervisorLost,
    /// The virtual machine monitor ended before an exit code came.
    VmmCrashed,
    /// The guest's kernel or PID 1 crashed.
    InitCrashed,
    /// The guest said nothing for too long.
    GuestSilent,
    /// The guest broke the protocol of the bridge.
    BridgeBroken,
    /// An exit code came that could not be authenticated.
    ExitForged,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Oom,
        Self::TtlExceeded,
        Self::TimeoutExceeded,
        Self::SignalKilled,
        Self::SupervisorSignal,
        Self::BackstopFired,
        Self::CommandRefused,
        Self::SupervisorLost,
        Self::VmmCrashed,
        Self::InitCrashed,
        Self::GuestSilent,
        Self::BridgeBroken,
        Self::ExitForged,
    ];

    /// The code as it stands in `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::TtlExceeded => "ttl_exceeded",
            Self::TimeoutExceeded => "timeout_exceeded",
            Self::SignalKilled => "signal_killed",
            Self::SupervisorSignal => "supervisor_signal",
            Self::BackstopFired => "backstop_fired",
            Self::CommandRefused => "command_refused",
            Self::SupervisorLost => "supervisor_lost",
            Self::VmmCrashed => "vmm_crashed",
            Self::InitCrashed => "init_crashed",
            Self::GuestSilent => "guest_silent",
            Self::BridgeBroken => "bridge_broken",
            Self::ExitForged => "exit_forged",
        }
    }
}

/// Data of `lifecycle.v1.destroyed`. From `exit_code` on the fields are ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destroyed {
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: u64,
    /// How the run as a whole came out.
    pub outcome: Outcome,
    /// Why it failed: a code of [`Reason`], or free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the end of the workload is known; absent where the supervisor ran it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal_state: Option<TerminalState>,
    /// URN of an evidence bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_bundle_ref: Option<String>,
    /// What kind of remains; absent where nobody looked or something unexplained was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residue_class: Option<ResidueClass>,
    /// Copy of `correlation.tenantId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Text of the first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_detail: Option<String>,
    /// Texts of the errors after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later_errors: Vec<String>,
    /// Who or what ended the run.
    pub ended_by: EndedBy,
    /// The command's code as a shell gives it: 128 plus the number for a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What the workload used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageRecord>,
    /// Limits that were hit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits_hit: Vec<LimitRecord>,
    /// Bytes that the command wrote; absent where it did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRecord>,
    /// What was left of the cell; absent where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residue: Option<ResidueRecord>,
    /// What it did with its network; absent where it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressRecord>,
}

impl EventData for Destroyed {
    const KIND: EventKind = EventKind::Destroyed;
}

/// Data of `lifecycle.v1.failed`: the cell could not be created. The published contract reserves
/// the name and gives it no content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: u64,
    /// Name of the backend.
    pub backend: String,
    /// The backend's error.
    pub reason: String,
    /// SHA-256 of the document's bytes, bare hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// `spec.placement`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// Copy of `correlation.tenantId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

impl EventData for Failed {
    const KIND: EventKind = EventKind::Failed;
}
