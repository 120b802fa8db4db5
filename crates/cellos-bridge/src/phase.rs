//! How far a dialogue is. Both ends count the same phases, each by what it has sent and received.

use std::fmt;

/// How far a dialogue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing was said yet.
    AwaitingHello,
    /// The guest has booted and waits, perhaps for a long time, to be told what it is to run.
    Parked,
    /// The guest was told and builds the cell.
    Configured,
    /// The workload is parked before its first instruction.
    Ready,
    /// The workload was let go; whether its program could be executed is not known yet.
    Starting,
    /// The workload runs.
    Running,
    /// The workload has ended; its files may be fetched.
    Exited,
    /// The guest could not go on, or could not execute the program.
    Failed,
    /// The host has acknowledged the end; the guest resets the machine.
    Over,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AwaitingHello => "before the guest's hello",
            Self::Parked => "while the guest was parked",
            Self::Configured => "while the guest built the cell",
            Self::Ready => "while the workload was parked",
            Self::Starting => "while the workload was being started",
            Self::Running => "while the workload ran",
            Self::Exited => "after the workload's end",
            Self::Failed => "after the guest had given up",
            Self::Over => "after the acknowledgement",
        })
    }
}
