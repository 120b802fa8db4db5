//! What a backend that runs the workload itself offers beyond the published port.
//!
//! A cell is created with its workload parked: isolation is complete, the process that will
//! become the workload exists, and it waits for its streams before its first instruction. So the
//! supervisor can look at the isolation that the kernel reports, make the `started` event
//! durable, and only then let it run.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    CellHandle, TeardownReport,
    network::{CellNetwork, NetworkNeeds},
};
use crate::CellosError;

/// Control over workloads that a backend runs itself.
#[async_trait]
pub trait WorkloadControl: Send + Sync {
    /// What the kernel reports about the parked or running workload process.
    ///
    /// # Errors
    /// [`CellosError::Host`] when the cell is unknown or its process cannot be looked at.
    async fn posture(&self, cell_id: &str) -> Result<Posture, CellosError>;

    /// Gives the workload its streams and lets it run. Returns when its program has been
    /// executed.
    ///
    /// # Errors
    /// [`ReleaseError`]; the cell then has no running workload and only waits to be destroyed.
    async fn release(&self, cell_id: &str, streams: Streams) -> Result<Released, ReleaseError>;

    /// Asks the workload to end, or ends it. Unknown cells and ended workloads are not an error.
    ///
    /// # Errors
    /// [`CellosError::Host`] when the request could not be passed on.
    async fn stop(&self, cell_id: &str, how: StopSignal) -> Result<(), CellosError>;

    /// How the workload ended, in full. Call after
    /// [`wait_for_in_vm_exit`](super::CellBackend::wait_for_in_vm_exit) has answered.
    ///
    /// # Errors
    /// [`CellosError::Host`] when the cell is unknown, still runs, or was lost.
    async fn exit_report(&self, cell_id: &str) -> Result<ExitReport, CellosError>;

    /// The working folder as an open directory, where artifacts are read from. It stays readable
    /// until the descriptor is closed, also after the workload has ended.
    ///
    /// # Errors
    /// [`CellosError::Host`] when the cell is unknown.
    async fn working_folder(&self, cell_id: &str) -> Result<WorkingFolder, CellosError>;

    /// [`destroy`](super::CellBackend::destroy), and what was found by looking afterwards.
    ///
    /// # Errors
    /// [`CellosError::Host`] when something of the cell could not be removed.
    async fn destroy_and_measure(
        &self,
        handle: &CellHandle,
    ) -> Result<(TeardownReport, Residue), CellosError>;

    /// Has the cell that is created next under this id get a network with these sockets. Without
    /// this call a cell has none.
    ///
    /// # Errors
    /// [`CellosError::Host`] where the backend cannot give its cells a network, which is the default.
    async fn prepare_network(&self, cell_id: &str, needs: NetworkNeeds) -> Result<(), CellosError> {
        let _ = needs;
        Err(CellosError::Host(format!(
            "this backend cannot give cell {cell_id:?} a network"
        )))
    }

    /// Hands the sockets of a created cell over, once.
    ///
    /// # Errors
    /// [`CellosError::Host`] when there are none, or no more.
    async fn network(&self, cell_id: &str) -> Result<CellNetwork, CellosError> {
        Err(CellosError::Host(format!(
            "cell {cell_id:?} has no network"
        )))
    }

    /// What the backend has to put on record about a cell since it was last asked, in the order in
    /// which it happened; also about one whose creation failed.
    fn take_notices(&self, cell_id: &str) -> Vec<Notice> {
        let _ = cell_id;
        Vec::new()
    }

    /// How many bytes an ended workload wrote, where the backend carried every one of them.
    fn output_bytes(&self, cell_id: &str) -> Option<OutputBytes> {
        let _ = cell_id;
        None
    }

    /// How sight of the workload was lost, when
    /// [`wait_for_in_vm_exit`](super::CellBackend::wait_for_in_vm_exit) answered with an error.
    fn loss(&self, cell_id: &str) -> Option<Loss> {
        let _ = cell_id;
        None
    }
}

/// Something about a cell that belongs into its record and that only the backend knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A file that the machine would have booted from is not what the manifest says. Nothing was
    /// booted.
    ManifestFailed {
        /// What the file is for: `kernel`, `rootfs`, `initrd`, `firecracker`, …
        role: String,
        /// SHA-256 in the manifest, 64 lower-case hexadecimal digits.
        expected_sha256: String,
        /// SHA-256 of the file.
        actual_sha256: String,
        /// The manifest.
        manifest_path: String,
    },
    /// The warm pool was asked for a machine.
    PoolCheckout {
        /// What came of it.
        outcome: PoolOutcome,
        /// Machines that were ready before.
        available: u32,
        /// How long it took to have a machine that waits for its document, from the pool or
        /// booted.
        took: Duration,
    },
}

/// Whether a warm pool had a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolOutcome {
    /// It had one.
    Hit,
    /// It had none that fits; one was booted.
    Miss,
}

/// How sight of a workload in a machine of its own was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The virtual machine monitor ended.
    MachineCrashed,
    /// The guest ended the conversation: its kernel or its PID 1 crashed.
    GuestCrashed,
    /// The guest said nothing for too long.
    GuestSilent,
    /// The guest broke the protocol.
    BridgeBroken,
    /// An exit code came that its sender could not authenticate.
    ExitForged,
}

/// Isolation as the kernel reports it for one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Posture {
    /// Process id on the host.
    pub pid: u32,
    /// User id outside the cell.
    pub host_uid: u32,
    /// Inode numbers of the namespaces by kind (`user`, `mnt`, `pid`, `net`, `ipc`, `uts`,
    /// `cgroup`).
    pub namespaces: BTreeMap<String, u64>,
    /// The same for the process that created the cell, to compare with.
    pub host_namespaces: BTreeMap<String, u64>,
    /// Capability sets, 16 hexadecimal digits each, as in `/proc/PID/status`.
    pub cap_inh: String,
    /// Permitted capabilities.
    pub cap_prm: String,
    /// Effective capabilities.
    pub cap_eff: String,
    /// Bounding set.
    pub cap_bnd: String,
    /// Ambient capabilities.
    pub cap_amb: String,
    /// `NoNewPrivs` of `/proc/PID/status`.
    pub no_new_privs: bool,
    /// `Seccomp` of `/proc/PID/status`: 0 off, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// `Seccomp_filters`: how many filters are stacked.
    pub seccomp_filters: u32,
    /// Landlock ABI in force, 0 where the kernel has none.
    pub landlock_abi: u32,
    /// Control groups the process is in, by hierarchy, as in `/proc/PID/cgroup`.
    pub cgroups: BTreeMap<String, String>,
    /// The virtual machine around it. Everything above is then what the guest's kernel says, but
    /// for `pid`, which is the monitor's on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// The virtual machine that a workload runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The monitor: `qemu`, `firecracker`.
    pub monitor: String,
    /// Its version as it says.
    pub monitor_version: String,
    /// SHA-256 of its program, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor_digest_sha256: Option<String>,
    /// What executes the guest's instructions.
    pub execution: GuestExecution,
    /// SHA-256 of the initial RAM disk, which holds the guest's PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_digest_sha256: Option<String>,
    /// Release of the guest's kernel, as in `uname(2)`.
    pub guest_kernel: String,
    /// Release of what runs as PID 1 in the guest.
    pub guest_version: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory of the machine in bytes; the cell inside gets less.
    pub memory_bytes: u64,
    /// Whether it was booted for this cell or came parked from the warm pool.
    pub origin: MachineOrigin,
    /// From the start of the monitor, or the checkout, to a PID 1 that has spoken.
    pub ready_after: Duration,
    /// How an exit code of this machine is known to be the guest's.
    pub exit_authentication: ExitAuthentication,
}

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GuestExecution {
    /// The processor, by KVM.
    Kvm,
    /// A program that emulates one.
    Emulated,
    /// Nothing did: the guest is an ordinary process behind a fake monitor, for tests.
    Fake,
}

/// Where a machine comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MachineOrigin {
    /// Booted for this cell.
    Booted,
    /// Taken from the warm pool, where it was parked.
    Parked,
    /// Restored from a snapshot of a parked machine.
    Restored,
}

/// How an exit code is known to come from the guest's PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitAuthentication {
    /// By a MAC over run, nonces and the whole conversation, under a key that only PID 1 and the
    /// host ever had in memory.
    Session,
    /// By the published 36-byte frame, whose key stands on the guest's kernel command line where
    /// the workload may read it: weaker.
    PublishedFrame,
}

impl Posture {
    /// Namespaces that are the cell's own, by kind.
    pub fn private_namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces
            .iter()
            .filter(|(kind, inode)| self.host_namespaces.get(*kind) != Some(inode))
            .map(|(kind, _)| kind.as_str())
    }
}

/// Standard streams of a workload.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// A workload whose program has been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// Process id on the host.
    pub pid: u32,
}

/// Why a workload did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// There is no such program in the cell.
    #[error("command not found in the cell: {program:?}")]
    CommandNotFound {
        /// `argv[0]`.
        program: String,
    },
    /// The program exists and cannot be executed.
    #[error("command cannot be executed: {program:?}: {reason}")]
    NotExecutable {
        /// `argv[0]`.
        program: String,
        /// The kernel's reason.
        reason: String,
    },
    /// Anything else.
    #[error(transparent)]
    Backend(#[from] CellosError),
}

/// How to end a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// `SIGTERM` to the workload, which may ignore it.
    Terminate,
    /// `SIGKILL` to everything in the cell.
    Kill,
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitReport {
    /// How the main process ended.
    pub end: WorkloadEnd,
    /// What it used.
    pub usage: Usage,
    /// Limits that were hit while it ran.
    pub limits_hit: Vec<LimitHit>,
}

/// How the main process of a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum WorkloadEnd {
    /// It returned a code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signalled {
        /// Signal number.
        signal: i32,
    },
    /// The backend's own backstop ended the cell, because the supervisor did not.
    Backstop,
}

impl WorkloadEnd {
    /// The code as a shell would give it: 128 plus the number for a signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Exited { code } => code,
            Self::Signalled { signal } => 128 + signal,
            Self::Backstop => 128 + 9,
        }
    }
}

/// What a workload used. `None` where nothing measures it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// From the workload's first instruction to its end.
    pub wall: Duration,
    /// CPU time in user mode, all processes of the cell.
    pub cpu_user: Option<Duration>,
    /// CPU time in kernel mode, all processes of the cell.
    pub cpu_system: Option<Duration>,
    /// Highest memory use of the whole cell in bytes, from its control group.
    pub memory_peak_bytes: Option<u64>,
    /// Largest resident set of any one process in bytes.
    pub max_rss_bytes: Option<u64>,
    /// Processes killed for memory.
    pub oom_kills: Option<u64>,
    /// Most processes and threads at once.
    pub pids_peak: Option<u64>,
}

/// How many bytes a workload wrote into its streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputBytes {
    /// Into standard output.
    pub stdout: u64,
    /// Into standard error.
    pub stderr: u64,
}

/// A limit that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum LimitHit {
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

/// The working folder of a cell.
#[derive(Debug)]
pub struct WorkingFolder {
    /// The folder, open for reading.
    pub directory: OwnedFd,
    /// Its path inside the cell.
    pub path: PathBuf,
}

/// What of a cell is left after its teardown, found by looking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Residue {
    /// Kinds of things that were looked for: `processes`, `cgroups`, `files`, …
    pub looked_for: Vec<String>,
    /// What was found, one line each. Empty means nothing is left.
    pub found: Vec<String>,
}
