//! A started monitor, by whom it was started.

use std::io;

use rustix::process::Pid;

use super::process::Process;
use crate::vmm::{MonitorEnd, process::Monitor};

/// A started monitor.
#[derive(Debug)]
pub(crate) enum Running {
    /// By its jailer, which is tethered to us, because it changes its user and forks.
    Jailed(Process),
    /// By us, in the confinement that other monitors have.
    Confined(Monitor),
}

impl Running {
    /// Waits for its end.
    pub(crate) async fn ended(&self) -> MonitorEnd {
        match self {
            Self::Jailed(process) => process.ended().await,
            Self::Confined(monitor) => monitor.ended().await,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&self) -> Option<MonitorEnd> {
        match self {
            Self::Jailed(process) => process.has_ended(),
            Self::Confined(monitor) => monitor.end(),
        }
    }

    /// Kills it with everything that its jailer has started; [`Running::ended`] is when that is gone.
    pub(crate) fn kill(&self) {
        match self {
            Self::Jailed(process) => process.kill(),
            // A child of ours can always be killed; whether it is gone is seen by its end.
            Self::Confined(monitor) => drop(monitor.kill()),
        }
    }

    /// The second blow.
    pub(crate) fn kill_again(&self) {
        match self {
            Self::Jailed(process) => process.kill_keeper(),
            Self::Confined(monitor) => drop(monitor.kill()),
        }
    }

    /// Id of the process whose end takes everything along.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Jailed(process) => process.keeper().as_raw_nonzero().get().cast_unsigned(),
            Self::Confined(monitor) => monitor.pid(),
        }
    }

    /// Processes of which one is the monitor, once a jailer has become it.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub(crate) fn candidates(&self) -> io::Result<Vec<Pid>> {
        match self {
            Self::Jailed(process) => process.candidates(),
            Self::Confined(monitor) => {
                let pid = i32::try_from(monitor.pid()).ok().and_then(Pid::from_raw);
                Ok(pid.into_iter().collect())
            }
        }
    }

    /// Waits until what an ended monitor wrote has been read, for its last words.
    pub(crate) async fn drained(&self) {
        match self {
            Self::Jailed(process) => process.drained().await,
            // Its end is told when all was read.
            Self::Confined(_) => {}
        }
    }

    /// The last of what it wrote to its standard output, which the guest's console is part of.
    pub(crate) fn output(&self) -> String {
        match self {
            Self::Jailed(process) => process.output().tail(),
            Self::Confined(monitor) => monitor.console(),
        }
    }

    /// The last of what it wrote to its standard error.
    pub(crate) fn errors(&self) -> String {
        match self {
            Self::Jailed(process) => process.errors().tail(),
            Self::Confined(monitor) => monitor.said(),
        }
    }
}
