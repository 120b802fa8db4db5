//! Bounds of single fields, the same for who sends and who receives.

use std::time::Duration;

use cellos_core::ports::workload::WorkloadEnd;

use super::{FileRefusedBody, InputCreditBody, OutputClosedBody, OutputCreditBody, TerminateBody};
use crate::{
    BodyProblem, Config, Exit, Fetch, FileEnd, Hello, MAX_CREDIT_BYTES, MAX_HEARTBEAT_INTERVAL,
    MAX_PATH_BYTES, MAX_TEXT_BYTES, MIN_HEARTBEAT_INTERVAL, NotStarted, Ready, Refused,
    StandardStream, Started, Telemetry,
};

/// Largest number of a signal on Linux, `SIGRTMAX` of signal(7).
const MAX_SIGNAL: i32 = 64;

/// Longest time that a cell can have used: more than any has, and sums of such times are far from
/// the end of the type.
const MAX_USED_TIME: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// A value whose fields have bounds that its type does not show.
pub(crate) trait Bounded {
    /// Finds the first field that is out of bounds.
    fn check(&self) -> Result<(), BodyProblem> {
        Ok(())
    }
}

impl Bounded for Started {}
impl Bounded for Telemetry {}
impl Bounded for FileEnd {}
impl Bounded for TerminateBody {}

impl Bounded for InputCreditBody {
    /// Credit of nothing could be given for ever, and each grant is something to keep.
    fn check(&self) -> Result<(), BodyProblem> {
        rule(self.bytes > 0, "bytes", "must be at least 1")
    }
}

impl Bounded for Exit {
    /// What an end can be on Linux, so that nobody who counts with it has to fear an overflow.
    fn check(&self) -> Result<(), BodyProblem> {
        match self.report.end {
            WorkloadEnd::Exited { code } => rule(
                (0..=255).contains(&code),
                "report.end.code",
                "must be 0 to 255",
            )?,
            WorkloadEnd::Signalled { signal } => rule(
                (1..=MAX_SIGNAL).contains(&signal),
                "report.end.signal",
                "must be 1 to 64",
            )?,
            WorkloadEnd::Backstop => {}
        }
        let usage = &self.report.usage;
        for (field, time) in [
            ("report.usage.wall", Some(usage.wall)),
            ("report.usage.cpuUser", usage.cpu_user),
            ("report.usage.cpuSystem", usage.cpu_system),
        ] {
            rule(
                time.unwrap_or_default() <= MAX_USED_TIME,
                field,
                "must be at most a thousand years",
            )?;
        }
        Ok(())
    }
}

impl Bounded for Hello {
    fn check(&self) -> Result<(), BodyProblem> {
        text("guestVersion", &self.guest_version)?;
        text("kernelRelease", &self.kernel_release)?;
        text("architecture", &self.architecture)
    }
}

impl Bounded for Ready {
    fn check(&self) -> Result<(), BodyProblem> {
        path("workingFolder", &self.working_folder)?;
        rule(
            self.working_folder.starts_with('/'),
            "workingFolder",
            "must be an absolute path",
        )
    }
}

impl Bounded for Refused {
    fn check(&self) -> Result<(), BodyProblem> {
        match self {
            Self::InvalidDocument { reason } => text("reason", reason),
            Self::GuestFailure { operation, reason } => {
                text("operation", operation)?;
                text("reason", reason)
            }
        }
    }
}

impl Bounded for NotStarted {
    fn check(&self) -> Result<(), BodyProblem> {
        match self {
            Self::CommandNotFound { program } => text("program", program),
            Self::NotExecutable { program, reason } => {
                text("program", program)?;
                text("reason", reason)
            }
            Self::GuestFailure { operation, reason } => {
                text("operation", operation)?;
                text("reason", reason)
            }
        }
    }
}

impl Bounded for FileRefusedBody {
    fn check(&self) -> Result<(), BodyProblem> {
        text("reason", &self.reason)
    }
}

impl Bounded for OutputCreditBody {
    fn check(&self) -> Result<(), BodyProblem> {
        output_stream(self.stream)
    }
}

impl Bounded for OutputClosedBody {
    fn check(&self) -> Result<(), BodyProblem> {
        output_stream(self.stream)
    }
}

impl Bounded for Fetch {
    fn check(&self) -> Result<(), BodyProblem> {
        path("path", &self.path)?;
        rule(
            self.path
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..")),
            "path",
            "must be relative, without empty parts, `.` and `..`",
        )
    }
}

impl Bounded for Config {
    fn check(&self) -> Result<(), BodyProblem> {
        id("runId", &self.run_id)?;
        id("cellId", &self.cell_id)?;
        interval(self.heartbeat_interval)?;
        credit("stdoutCreditBytes", self.stdout_credit_bytes)?;
        credit("stderrCreditBytes", self.stderr_credit_bytes)
    }
}

fn output_stream(stream: StandardStream) -> Result<(), BodyProblem> {
    rule(
        stream != StandardStream::Stdin,
        "stream",
        "must be an output stream",
    )
}

fn id(field: &'static str, value: &str) -> Result<(), BodyProblem> {
    rule(
        cellos_core::admission::is_portable_id(value),
        field,
        "must be a portable id",
    )
}

fn interval(value: Duration) -> Result<(), BodyProblem> {
    rule(
        (MIN_HEARTBEAT_INTERVAL..=MAX_HEARTBEAT_INTERVAL).contains(&value)
            && value.subsec_nanos().is_multiple_of(1_000_000),
        "heartbeatIntervalMs",
        "must be whole milliseconds from 10 to 60000",
    )
}

fn credit(field: &'static str, value: u32) -> Result<(), BodyProblem> {
    rule(value <= MAX_CREDIT_BYTES, field, "must be at most 1048576")
}

fn text(field: &'static str, value: &str) -> Result<(), BodyProblem> {
    rule(
        value.len() <= MAX_TEXT_BYTES,
        field,
        "must be at most 4096 bytes",
    )
}

fn path(field: &'static str, value: &str) -> Result<(), BodyProblem> {
    rule(
        (1..=MAX_PATH_BYTES).contains(&value.len()),
        field,
        "must be 1 to 4095 bytes",
    )?;
    rule(!value.contains('\0'), field, "must have no zero byte")
}

fn rule(holds: bool, field: &'static str, rule: &'static str) -> Result<(), BodyProblem> {
    if holds {
        return Ok(());
    }
    Err(BodyProblem::Field { field, rule })
}
