//! Virtual machine monitors: what the backend needs of one, whichever it is.
//!
//! A driver knows how to start its monitor, how to configure and boot a machine, and what is left
//! of one on the host. It knows nothing of documents, of what PID 1 says over the bridge, or of the
//! evidence.

pub(crate) mod firecracker;
pub(crate) mod process;
pub(crate) mod qemu;

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use async_trait::async_trait;
use cellos_core::ports::{
    network::{CellNetwork, NetworkNeeds},
    workload::GuestExecution,
};
use tokio::net::UnixStream;

use crate::{artifacts::Artifacts, place::Record, plan::MachineShape};

/// The vsock port on which the host listens for the guest's PID 1.
pub(crate) const BRIDGE_PORT: u32 = 9010;

/// A virtual machine monitor that can be started again and again.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    /// What it is, for evidence.
    fn facts(&self) -> MonitorFacts;

    /// Starts a monitor in a place of its own, has it make a machine and boots that. Returns when
    /// the machine runs; its PID 1 need not have spoken yet.
    ///
    /// # Errors
    /// [`VmmError`]. Nothing of the machine is left then but what the place's record names.
    async fn boot(&self, order: BootOrder<'_>) -> Result<Box<dyn Machine>, VmmError>;

    /// Restores a machine from a snapshot of a parked one, into a place of its own.
    ///
    /// # Errors
    /// [`VmmError`], as [`Driver::boot`].
    async fn restore(
        &self,
        order: BootOrder<'_>,
        snapshot: &Snapshot,
    ) -> Result<Box<dyn Machine>, VmmError>;

    /// How this monitor keeps machines ready.
    fn parking(&self) -> Parking;
}

/// What a machine is booted with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootOrder<'a> {
    /// Its name on the host: 1 to 20 lower-case letters and digits, never used twice.
    pub(crate) name: &'a str,
    pub(crate) shape: MachineShape,
    pub(crate) artifacts: &'a Artifacts,
    /// A folder of the machine's own, mode 0700, that is removed with it.
    pub(crate) folder: &'a std::path::Path,
    /// Where everything is noted before it is acquired, and each process as soon as it has a
    /// number. What a dropped boot leaves is undone from there.
    pub(crate) record: &'a Record,
    /// The control groups that the monitor has to be in.
    pub(crate) limits: MonitorLimits,
    /// The sockets that answer what the machine sends; without, it has no network card.
    pub(crate) network: Option<&'a NetworkNeeds>,
    /// What is appended to the kernel's command line. Nothing secret, ever: the guest can read it.
    pub(crate) extra_boot_arguments: &'a str,
}

/// Limits on a monitor as a process of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MonitorLimits {
    /// Memory in bytes: the machine's and the monitor's own.
    pub(crate) memory_bytes: Option<u64>,
    /// Quota and period in microseconds.
    pub(crate) cpu_max: Option<(u64, u64)>,
}

/// How a monitor keeps machines ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parking {
    /// Booted machines wait, each its own process.
    Live,
    /// One parked machine is written to files, from which others are restored.
    Snapshot,
}

/// What a monitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MonitorFacts {
    /// `qemu` or `firecracker`.
    pub(crate) name: &'static str,
    /// As it says itself.
    pub(crate) version: String,
    pub(crate) execution: GuestExecution,
}

/// A machine that runs, and everything it has on the host. Dropping it kills the monitor.
#[async_trait]
pub(crate) trait Machine: Send + Sync {
    /// Process id of the monitor on the host.
    fn pid(&self) -> u32;

    /// The monitor's control group, where it has one.
    fn cgroup(&self) -> Option<PathBuf>;

    /// The next connection of the guest's PID 1. A machine that was restored dials again.
    ///
    /// # Errors
    /// [`VmmError`] when no connection can come any more. Waits as long as the machine runs.
    async fn bridge(&self) -> Result<UnixStream, VmmError>;

    /// Hands over the sockets that answer what the machine sends, once.
    fn network(&self) -> Option<CellNetwork> {
        None
    }

    /// Waits until the monitor has ended, for whatever reason; answers every caller.
    async fn ended(&self) -> MonitorEnd;

    /// What the guest wrote to its console last, for messages about failures: bounded, and
    /// nothing that a terminal would act on.
    fn console_tail(&self) -> String;

    /// Asks a guest that takes no requests over a bridge to end, as the keys Ctrl, Alt and Del do: its
    /// kernel restarts, which ends the machine, or tells its init.
    ///
    /// # Errors
    /// [`VmmError`] when the monitor has no keyboard or does not answer: nobody was asked.
    async fn ask_to_end(&self) -> Result<(), VmmError>;

    /// Pauses a parked machine and writes it to files in its folder; the machine ends by that.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] where the monitor parks machines live.
    async fn snapshot(&self) -> Result<Snapshot, VmmError>;

    /// Kills the monitor, waits for its end, removes what the machine has on the host and looks
    /// for what is left: one line for each thing that could not be removed. Doing it twice is
    /// harmless.
    async fn remove(&self) -> Vec<String>;
}

/// A parked machine in files.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// State of devices and processors.
    pub(crate) state: PathBuf,
    /// The guest's memory.
    pub(crate) memory: PathBuf,
    /// SHA-256 of both files, in this order.
    pub(crate) sha256: [String; 2],
    pub(crate) shape: MachineShape,
}

/// How a monitor ended. Its code alone never proves anything about the workload: a real one was
/// seen to end with 0 after an internal error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MonitorEnd(pub(crate) Option<ExitStatus>);

/// What a driver can fail at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmmError {
    /// The monitor cannot be had on this host.
    #[error("{monitor} cannot be used: {why}")]
    Unusable {
        /// Its name.
        monitor: &'static str,
        /// What is missing and how to mend it.
        why: String,
    },
    /// A step on the host failed.
    #[error("{step}: {source}")]
    Host {
        /// What was attempted, with its object.
        step: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The monitor refused a request.
    #[error("{monitor} refused {request}: {answer}")]
    Refused {
        /// Its name.
        monitor: &'static str,
        /// Method and path, or command.
        request: String,
        /// Status and message, bounded.
        answer: String,
    },
    /// The monitor said something that is not its protocol.
    #[error("{monitor} gave an answer to {request} that cannot be read: {why}")]
    Unreadable {
        /// Its name.
        monitor: &'static str,
        /// Method and path, or command.
        request: String,
        /// What was wrong.
        why: String,
    },
    /// The monitor did not answer in time.
    #[error("{monitor} did not answer {request} within {bound:?}")]
    Timeout {
        /// Its name.
        monitor: &'static str,
        /// Method and path, or what was waited for.
        request: String,
        /// How long.
        bound: Duration,
    },
    /// The monitor ended meanwhile.
    #[error("{monitor} ended ({end}) during {during}: {said}")]
    Ended {
        /// Its name.
        monitor: &'static str,
        /// How.
        end: String,
        /// What was going on.
        during: String,
        /// The last of what it wrote to its standard error, bounded.
        said: String,
    },
    /// It failed, and taking back what was done until then failed too.
    #[error("{source}; left behind: {residue}")]
    LeftBehind {
        /// What is still there.
        residue: String,
        /// The first failure.
        source: Box<VmmError>,
    },
    /// The monitor cannot do this.
    #[error("{monitor} cannot {what}")]
    Unsupported {
        /// Its name.
        monitor: &'static str,
        /// What was asked.
        what: &'static str,
    },
}
