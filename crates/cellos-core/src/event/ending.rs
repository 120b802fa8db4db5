//! How a run ended, in the form that events carry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ports::workload::{LimitHit, OutputBytes, Residue, Usage};

/// Who or what ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// The document declares no command.
    NoCommand,
    /// The command returned a code.
    Exited,
    /// A signal that CellOS did not send.
    Signalled,
    /// `lifetime.ttlSeconds` was over.
    DeadlineTtl,
    /// `run.timeoutMs` was over.
    DeadlineTimeout,
    /// The operator's cap on run time was over.
    DeadlineOperator,
    /// The supervisor was asked to stop.
    SupervisorSignal,
    /// The kernel, for a limit of the cell.
    Limit,
    /// The backend's own backstop, because the supervisor did not act.
    Backstop,
    /// The command could not be executed.
    Refused,
    /// A phase before the command failed, so it never ran.
    NotStarted,
    /// The command was killed because its evidence could not be written.
    EvidenceUnwritable,
    /// The backend lost sight of the workload.
    Lost,
    /// The supervisor disappeared; written by the reaper.
    SupervisorLost,
}

impl EndedBy {
    /// Whether a deadline ended the run.
    #[must_use]
    pub fn is_deadline(self) -> bool {
        matches!(
            self,
            Self::DeadlineTtl | Self::DeadlineTimeout | Self::DeadlineOperator
        )
    }
}

/// What a workload used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    /// From the first instruction to the end, in microseconds.
    pub wall_micros: u64,
    /// CPU time in user mode, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_user_micros: Option<u64>,
    /// CPU time in kernel mode, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_system_micros: Option<u64>,
    /// Highest memory use of the cell, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Largest resident set of one process, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// Processes killed for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Most processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_peak: Option<u64>,
}

impl From<&Usage> for UsageRecord {
    fn from(usage: &Usage) -> Self {
        Self {
            wall_micros: micros(usage.wall),
            cpu_user_micros: usage.cpu_user.map(micros),
            cpu_system_micros: usage.cpu_system.map(micros),
            memory_peak_bytes: usage.memory_peak_bytes,
            max_rss_bytes: usage.max_rss_bytes,
            oom_kills: usage.oom_kills,
            pids_peak: usage.pids_peak,
        }
    }
}

/// A limit that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    tag = "kind"
)]
pub enum LimitRecord {
    /// Processes were killed for memory.
    Memory {
        /// The limit in bytes.
        limit_bytes: u64,
        /// How many processes were killed.
        kills: u64,
    },
    /// New processes or threads were refused.
    Pids {
        /// The limit.
        limit: u64,
        /// How many were refused.
        refusals: u64,
    },
}

impl From<LimitHit> for LimitRecord {
    fn from(hit: LimitHit) -> Self {
        match hit {
            LimitHit::Memory { limit_bytes, kills } => Self::Memory { limit_bytes, kills },
            LimitHit::Pids { limit, refusals } => Self::Pids { limit, refusals },
        }
    }
}

/// Bytes that a command wrote into its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// Into standard output.
    pub stdout: StreamRecord,
    /// Into standard error.
    pub stderr: StreamRecord,
}

/// Bytes that went through one stream. Nothing stands between a command and streams that it shares
/// with its caller, so only what the kernel keeps can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRecord {
    /// How many; `null` where nobody counts.
    pub bytes: Option<u64>,
    /// How they were counted, or why they were not.
    pub counted: Counted,
}

/// How the bytes of a stream were counted, or why they were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Counted {
    /// By the backend, which carried every one of them.
    ByBackend,
    /// By how far the position in a file moved. The command can move it by other means.
    FilePosition,
    /// Not: the position in the file went backwards.
    FileRewound,
    /// Not: both streams are one file.
    SharedFile,
    /// Not: it is a pipe.
    Pipe,
    /// Not: it is a socket.
    Socket,
    /// Not: it is a terminal or another device.
    Device,
    /// Not: the kernel does not say what it is.
    Unknown,
}

impl From<OutputBytes> for OutputRecord {
    fn from(bytes: OutputBytes) -> Self {
        let by_backend = |bytes| StreamRecord {
            bytes: Some(bytes),
            counted: Counted::ByBackend,
        };
        Self {
            stdout: by_backend(bytes.stdout),
            stderr: by_backend(bytes.stderr),
        }
    }
}

/// What was left of a cell, found by looking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResidueRecord {
    /// Kinds of things that were looked for.
    pub looked_for: Vec<String>,
    /// What was found.
    pub found: Vec<String>,
}

impl From<&Residue> for ResidueRecord {
    fn from(residue: &Residue) -> Self {
        Self {
            looked_for: residue.looked_for.clone(),
            found: residue.found.clone(),
        }
    }
}

/// Whole microseconds; a time too long for the type is the longest there is.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
