//! How a run came out.

use std::fmt;

use cellos_core::{
    event::{EgressRecord, EndedBy, LimitRecord, OutputRecord, ResidueRecord, UsageRecord},
    ports::{
        ExportReceipt, TeardownReport,
        workload::{ExitReport, Posture, ReleaseError, Residue, WorkloadEnd},
    },
};
use serde::Serialize;

use crate::{RunError, SupervisorSignal};

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The record of the run is written.
    Record,
    /// The backend builds the cell.
    Create,
    /// The cell is announced.
    Start,
    /// The isolation of the cell is looked at.
    Inspect,
    /// The command is let run, up to the execution of its program.
    Release,
    /// The command runs.
    Run,
    /// Artifacts leave the cell.
    Export,
    /// The backend takes the cell apart.
    Destroy,
    /// The run is summed up and its record removed.
    Close,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "record",
            Self::Create => "create",
            Self::Start => "start",
            Self::Inspect => "inspect",
            Self::Release => "release",
            Self::Run => "run",
            Self::Export => "export",
            Self::Destroy => "destroy",
            Self::Close => "close",
        })
    }
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTiming {
    /// The phase.
    pub phase: Phase,
    /// Microseconds.
    pub micros: u64,
}

/// An artifact that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredArtifact {
    /// Its name in the document.
    pub name: String,
    /// Where it is.
    #[serde(flatten)]
    pub receipt: ExportReceipt,
    /// SHA-256 of the stored bytes, bare hexadecimal; `None` where the sink does not compute it.
    pub sha256: Option<String>,
}

/// How a run came out.
#[derive(Debug, Clone)]
pub struct RunOutcome {
    /// The run.
    pub run_id: String,
    /// The cell.
    pub cell_id: String,
    /// Who or what ended it.
    pub ended_by: EndedBy,
    /// How the command's process ended, where that is known.
    pub end: Option<WorkloadEnd>,
    /// The signal that asked the supervisor to stop.
    pub stop_signal: Option<SupervisorSignal>,
    /// What the backend reports about the command's end.
    pub exit_report: Option<ExitReport>,
    /// The isolation that the kernel reported.
    pub posture: Option<Posture>,
    /// What taking the cell apart came to.
    pub teardown: Option<TeardownReport>,
    /// What was found afterwards.
    pub residue: Option<Residue>,
    /// Processes of a host command, besides itself, that had to be killed.
    pub left_over_processes: u64,
    /// Bytes that the command wrote, where it ran.
    pub output: Option<OutputRecord>,
    /// What the cell did with its network, where it had one.
    pub egress: Option<EgressRecord>,
    /// Artifacts that were stored.
    pub artifacts: Vec<StoredArtifact>,
    /// How long each phase took, in order.
    pub timings: Vec<PhaseTiming>,
    /// What went wrong first. A command that fails is a failure too.
    pub first_error: Option<RunError>,
    /// What went wrong after that.
    pub later_errors: Vec<RunError>,
}

/// Exit code for a deadline, as of timeout(1).
pub const EXIT_DEADLINE: i32 = 124;
/// Exit code for a failure of CellOS.
pub const EXIT_CELLOS: i32 = 125;
/// Exit code for a command that cannot be executed, as of a shell.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code for a command that is not there, as of a shell.
pub const EXIT_NOT_FOUND: i32 = 127;

impl RunOutcome {
    /// Whether every phase succeeded, the command included.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.first_error.is_none()
    }

    /// The exit code for a shell. The first error decides: the command's own code, 128 plus the
    /// number for a signal, 124 for a deadline, 127 and 126 for a command that could not be
    /// executed, 125 for every other failure.
    #[must_use]
    pub fn shell_exit_code(&self) -> i32 {
        match &self.first_error {
            None => 0,
            Some(RunError::Exited { code }) => *code,
            Some(RunError::Signalled { signal }) => 128 + signal,
            Some(RunError::Limit { .. }) => self.end.map_or(EXIT_CELLOS, WorkloadEnd::shell_code),
            Some(RunError::Stopped { signal, .. }) => 128 + signal.number(),
            Some(RunError::Deadline(_) | RunError::Backstop) => EXIT_DEADLINE,
            Some(RunError::Release(ReleaseError::CommandNotFound { .. })) => EXIT_NOT_FOUND,
            Some(RunError::Release(ReleaseError::NotExecutable { .. })) => EXIT_NOT_EXECUTABLE,
            Some(_) => EXIT_CELLOS,
        }
    }

    /// The result as one record for machines.
    #[must_use]
    pub fn record(&self) -> ResultRecord<'_> {
        ResultRecord {
            format_version: RESULT_FORMAT_VERSION,
            run_id: &self.run_id,
            cell_id: &self.cell_id,
            succeeded: self.succeeded(),
            ended_by: self.ended_by,
            exit_code: self.end.map(WorkloadEnd::shell_code),
            signal: signal_of(self.end),
            stop_signal: self.stop_signal,
            shell_exit_code: self.shell_exit_code(),
            error: self.first_error.as_ref().map(ToString::to_string),
            later_errors: self.later_errors.iter().map(ToString::to_string).collect(),
            usage: self.exit_report.as_ref().map(|r| (&r.usage).into()),
            limits_hit: self
                .exit_report
                .iter()
                .flat_map(|report| report.limits_hit.iter().copied().map(Into::into))
                .collect(),
            posture: self.posture.as_ref(),
            destroyed: self.teardown.as_ref().map(|report| report.destroyed),
            residue: self.residue.as_ref().map(Into::into),
            output: self.output,
            egress: self.egress.as_ref(),
            artifacts: &self.artifacts,
            timings: &self.timings,
        }
    }
}

/// The signal of an end, where there is one.
pub(crate) fn signal_of(end: Option<WorkloadEnd>) -> Option<i32> {
    match end {
        Some(WorkloadEnd::Signalled { signal }) => Some(signal),
        _ => None,
    }
}

/// Version of [`ResultRecord`]; changes when a field changes its meaning or goes away.
pub const RESULT_FORMAT_VERSION: u32 = 1;

/// A run's result for machines.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultRecord<'a> {
    /// [`RESULT_FORMAT_VERSION`].
    pub format_version: u32,
    /// The run.
    pub run_id: &'a str,
    /// The cell.
    pub cell_id: &'a str,
    /// Whether every phase succeeded.
    pub succeeded: bool,
    /// Who or what ended the run.
    pub ended_by: EndedBy,
    /// The command's code as a shell gives it; `null` when it did not run or its end is unknown.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    /// The signal that asked the supervisor to stop.
    pub stop_signal: Option<SupervisorSignal>,
    /// [`RunOutcome::shell_exit_code`].
    pub shell_exit_code: i32,
    /// Text of the first error.
    pub error: Option<String>,
    /// Texts of later errors.
    pub later_errors: Vec<String>,
    /// What the command used.
    pub usage: Option<UsageRecord>,
    /// Limits that were hit.
    pub limits_hit: Vec<LimitRecord>,
    /// The isolation that the kernel reported.
    pub posture: Option<&'a Posture>,
    /// Whether the backend says that it removed the cell; `null` when it gave no answer.
    pub destroyed: Option<bool>,
    /// What was left of the cell; `null` when nobody looked.
    pub residue: Option<ResidueRecord>,
    /// Bytes that the command wrote; `null` when it did not run.
    pub output: Option<OutputRecord>,
    /// What the cell did with its network; `null` when it had none.
    pub egress: Option<&'a EgressRecord>,
    /// Artifacts that were stored.
    pub artifacts: &'a [StoredArtifact],
    /// How long each phase took.
    pub timings: &'a [PhaseTiming],
}
