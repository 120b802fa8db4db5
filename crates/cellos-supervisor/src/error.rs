//! What can go wrong in a run.

use std::time::Duration;

use cellos_core::{
    CellosError,
    event::{EventKind, Reason},
    ports::workload::{LimitHit, Loss, ReleaseError},
};

use crate::{DeadlineSource, Phase, SupervisorSignal, state::StateError};

/// One failure of a run. The first one decides how the run came out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The record of the run could not be kept.
    #[error("run record: {0}")]
    State(StateError),
    /// The cell could not be created.
    #[error("cell create: {0}")]
    Create(CellosError),
    /// The cell's network could not be had as it is declared.
    #[error("cell network: {0}")]
    Network(NetworkError),
    /// An event could not be written.
    #[error("event {kind}: {source}")]
    Event {
        /// Its type.
        kind: EventKind,
        /// The sink's error.
        source: CellosError,
    },
    /// Events could not be made durable.
    #[error("flush events: {0}")]
    Flush(CellosError),
    /// The isolation of the cell could not be looked at.
    #[error("cell posture: {0}")]
    Posture(CellosError),
    /// The command did not start.
    #[error("command spawn: {0}")]
    Release(ReleaseError),
    /// The command returned another code than 0.
    #[error("command exited with status {code}")]
    Exited {
        /// The code.
        code: i32,
    },
    /// A signal ended the command.
    #[error("command was ended by signal {signal}")]
    Signalled {
        /// Its number.
        signal: i32,
    },
    /// The command was ended for a limit of the cell.
    #[error("command was ended by the kernel: {}", describe_limit(*hit))]
    Limit {
        /// The limit.
        hit: LimitHit,
    },
    /// The command was ended by a deadline.
    #[error("command spawn: {0}")]
    Deadline(DeadlineSource),
    /// The supervisor was asked to stop.
    #[error("stopped by {} in phase {phase}", signal.name())]
    Stopped {
        /// Who asked.
        signal: SupervisorSignal,
        /// When.
        phase: Phase,
    },
    /// The backend's own backstop ended the cell.
    #[error("cell was ended by the backend's backstop")]
    Backstop,
    /// The backend lost sight of the workload.
    #[error("in-VM exit bridge: {source}")]
    Lost {
        /// The backend's error.
        source: CellosError,
        /// What kind of loss it was, where the backend knows.
        loss: Option<Loss>,
    },
    /// The workload could not be signalled.
    #[error("stop command: {0}")]
    Stop(CellosError),
    /// The backend could not say how the workload ended, or contradicted itself.
    #[error("exit report: {0}")]
    ExitReport(CellosError),
    /// An artifact could not be exported.
    #[error("export artifact {name:?}: {reason}")]
    Export {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The cell could not be taken apart.
    #[error("cell destroy: {0}")]
    Destroy(CellosError),
    /// Something of the cell is left.
    #[error("cell left something behind: {}", found.join(", "))]
    Residue {
        /// What was found.
        found: Vec<String>,
    },
}

/// Why a cell's network could not be had as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// There are egress rules, and nobody who enforces them.
    #[error(
        "spec.authority.egressRules: backend `{backend}` does not enforce them, and no egress \
         gateway serves its cells"
    )]
    NobodyEnforces {
        /// The backend.
        backend: String,
    },
    /// The gateway cannot enforce the document.
    #[error(transparent)]
    Spec(CellosError),
    /// The backend has no sockets for the gateway.
    #[error("spec.authority.egressRules: no sockets from backend `{backend}`: {source}")]
    NoSockets {
        /// The backend.
        backend: String,
        /// Why.
        source: CellosError,
    },
    /// The gateway could not begin to serve the cell.
    #[error("open the egress gateway: {0}")]
    Open(CellosError),
    /// The gateway did not end in time. Its flows were broken off without a report.
    #[error("close the egress gateway: {0}; flows were broken off without a report")]
    NotClosed(String),
    /// What writes the reports ended before its time.
    #[error("reports of the network were lost")]
    ReportsLost,
}

impl RunError {
    /// The reason code of the contract, where there is one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Limit {
                hit: LimitHit::Memory { .. },
            } => Reason::Oom,
            Self::Deadline(source) => source.reason(),
            Self::Signalled { .. } => Reason::SignalKilled,
            Self::Stopped { .. } => Reason::SupervisorSignal,
            Self::Backstop => Reason::BackstopFired,
            Self::Lost {
                loss: Some(loss), ..
            } => match loss {
                Loss::MachineCrashed => Reason::VmmCrashed,
                Loss::GuestCrashed => Reason::InitCrashed,
                Loss::GuestSilent => Reason::GuestSilent,
                Loss::BridgeBroken => Reason::BridgeBroken,
                Loss::ExitForged => Reason::ExitForged,
            },
            Self::Release(
                ReleaseError::CommandNotFound { .. } | ReleaseError::NotExecutable { .. },
            ) => Reason::CommandRefused,
            _ => return None,
        })
    }
}

/// A limit that was hit, for people: the field of the document, its value, and what came of it.
#[must_use]
pub fn describe_limit(hit: LimitHit) -> String {
    match hit {
        LimitHit::Memory { limit_bytes, kills } => format!(
            "run.limits.memoryMaxBytes {limit_bytes} was reached, {kills} process(es) killed"
        ),
        LimitHit::Pids { limit, refusals } => {
            format!("run.limits.pidsMax {limit} was reached, {refusals} process(es) refused")
        }
    }
}

/// The port did not answer in time.
pub(crate) fn no_answer(what: &str, bound: Duration) -> String {
    format!("{what} did not answer within {} s", bound.as_secs())
}
