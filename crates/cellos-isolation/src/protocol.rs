//! What backend, launcher and cell init say to each other. All three are one program, so the
//! messages carry no version.

use cellos_core::ports::workload::{ExitReport, Posture, Residue, StopSignal};
use serde::{Deserialize, Serialize};

use crate::plan::CellPlan;

/// A cell's number within one launcher; never used twice.
pub type CellKey = u64;

/// Backend to launcher. Each request gets exactly one [`Reply`] with its number.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Build a cell and park its workload.
    Create(Box<CellPlan>),
    /// Let the workload run. Carries its three standard streams.
    Release(CellKey),
    /// Ask the workload to end, or end it.
    Stop(CellKey, Stop),
    /// End the cell; a cell that has ended is taken apart already.
    Destroy(CellKey),
}

/// [`StopSignal`] as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// SIGTERM to the workload.
    Terminate,
    /// SIGKILL to everything in the cell.
    Kill,
}

impl From<StopSignal> for Stop {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Terminate => Self::Terminate,
            StopSignal::Kill => Self::Kill,
        }
    }
}

/// The first word of a launcher that was told to begin a cell at once, before any request. Whoever
/// starts the launcher waits for it.
pub(crate) const BEGUN: &[u8] = b"b";

/// A numbered request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Given by whoever asks; its answer has it again.
    pub number: u64,
    /// What is asked.
    pub request: Request,
}

/// Launcher to backend.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The answer to a request.
    Reply {
        /// Of the request.
        number: u64,
        /// What came of it.
        reply: Reply,
    },
    /// Sockets of the network of the cell that the `Create` with this number is about to be
    /// answered with. Carries them, in this order; a cell has as many of these as it takes.
    Network {
        /// Of the request.
        number: u64,
        /// What each descriptor is.
        sockets: Vec<NetworkSocket>,
    },
    /// A cell's workload has ended, and with it everything in the cell; what the cell had on the
    /// host has been removed. The launcher knows the cell no more.
    Ended {
        /// Which one.
        cell: CellKey,
        /// How.
        ended: Ended,
    },
}

/// What a socket of a cell's network is
/// ([`CellNetwork`](cellos_core::ports::network::CellNetwork)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkSocket {
    /// Listens on this TCP port.
    Tcp(u16),
    /// Receives on this UDP port.
    Udp(u16),
    /// TCP, not connected. For each connection there is one for IPv4 and, where the host has it,
    /// one for IPv6.
    Inbound,
    /// Sees what the kernel refuses.
    Refusals,
}

/// The end of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How the workload ended; why nobody knows otherwise.
    pub end: Result<ExitReport, String>,
    /// What was found of the cell after it had been removed.
    pub residue: Residue,
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The cell is parked. Carries its working folder as an open directory.
    Created(Box<Created>),
    /// The workload's program has been executed.
    Released {
        /// Process id as the launcher sees it.
        pid: u32,
    },
    /// The stop was passed on, or there was nothing to stop.
    Stopped,
    /// The cell has ended, which its `Ended` said before, or there is no such cell.
    Destroyed,
    /// The request failed; after a failed `Create` nothing of the cell is left.
    Failed(Failure),
}

/// A parked cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created {
    /// By which later requests name it.
    pub cell: CellKey,
    /// What the kernel says of the parked process.
    pub posture: Posture,
    /// Its control group, where it has one.
    pub cgroup_path: Option<std::path::PathBuf>,
    /// Path in the cell.
    pub working_folder: String,
    /// How many sockets of its network came before; fewer have arrived where a limit on open files
    /// was in the way.
    pub network_sockets: usize,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The document asks for something that is not there or not allowed.
    InvalidSpec(String),
    /// The host refused.
    Host(String),
    /// `argv[0]` does not exist in the cell.
    CommandNotFound {
        /// `argv[0]`.
        program: String,
    },
    /// `argv[0]` cannot be executed.
    NotExecutable {
        /// `argv[0]`.
        program: String,
        /// The kernel's reason.
        reason: String,
    },
}

/// Cell init to launcher, on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// Sockets of the cell's network. Carries them, in this order.
    Network(Vec<NetworkSocket>),
    /// It waits for the network card of the machine.
    CardWanted,
    /// Isolation is complete. Carries the working folder as an open directory.
    Ready {
        landlock_abi: u32,
        /// How many sockets were sent before.
        network_sockets: usize,
        /// CPU time that building the cell took, to be left out of the workload's.
        setup_cpu_micros: (u64, u64),
    },
    /// Setting up failed; init has exited.
    Failed(SetupFailure),
    /// The main process of the workload has ended.
    Exited {
        /// Status word of wait(2).
        status: i32,
        /// Largest resident set of a collected process, in bytes.
        max_rss_bytes: u64,
    },
}

/// A step of building a cell that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetupFailure {
    /// What was attempted: `mount /proc`.
    pub(crate) step: String,
    /// The kernel's error number.
    pub(crate) errno: i32,
    /// Whether the document is at fault (a path that is not there) and not the host.
    pub(crate) invalid_spec: bool,
}

/// What a cell's init is told once its document is known.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) plan: CellPlan,
    /// For each declared mount, whether its source is a folder and not a file.
    pub(crate) sources_are_folders: Vec<bool>,
    /// Whether each source follows as a mount that is mapped to the cell's identity.
    pub(crate) mounts_follow: bool,
}

/// Launcher to cell init, on the control socket. Between the first two words comes the cell's
/// [`Assignment`].
pub(crate) mod to_init {
    /// The identity is mapped: build what every cell has.
    pub(crate) const GO: &[u8] = b"g";
    /// One declared mount, mapped to the cell's user. Carries the detached mount.
    pub(crate) const MOUNT: &[u8] = b"m";
    /// The machine's network card is in the cell's network namespace.
    pub(crate) const CARD: &[u8] = b"c";
    /// Forward SIGTERM to the workload.
    pub(crate) const TERMINATE: &[u8] = b"t";
}

/// Parked workload process to launcher, and back, on the workload socket.
pub(crate) mod workload {
    /// The process exists and waits; the sender's credentials tell its id.
    pub(crate) const PARKED: &[u8] = b"p";
    /// Run now. Carries the standard streams.
    pub(crate) const RUN: &[u8] = b"r";
}
