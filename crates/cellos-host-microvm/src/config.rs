//! What the operator of a host decides.

use std::path::PathBuf;

use cellos_core::signing::{RevokedKids, TrustVerifyKeys};

/// Settings of the backend. Nothing in it comes from a document.
#[derive(Debug, Clone)]
pub struct MicrovmConfig {
    /// What machines boot from.
    pub boot: BootFiles,
    /// Whether and by whom the manifest has to be signed.
    pub trust: ManifestTrust,
    /// Which monitor runs the machines.
    pub driver: DriverChoice,
    /// A private folder for sockets and records of live machines. Short, since the address of a
    /// Unix socket has at most 107 bytes.
    pub run_folder: PathBuf,
    /// The control group that monitors are put in; found by looking when absent.
    pub cgroup_parent: Option<PathBuf>,
    /// Bounds on the disk and network traffic of each machine.
    pub rates: RateLimits,
    /// Machines kept parked; 0 for none. For processes that run many cells.
    pub pool_size: u16,
}

/// What machines boot from.
#[derive(Debug, Clone)]
pub enum BootFiles {
    /// A folder with kernel, initrd, base and manifest, as `cellos vm prepare` makes it. Its guest
    /// speaks our bridge.
    Bundle(PathBuf),
    /// Files as the published backend is given them, for a guest of the published contract.
    Published {
        /// The kernel image, absolute.
        kernel: PathBuf,
        /// The root file system with its init, absolute.
        rootfs: PathBuf,
        /// The manifest, absolute. Absent only where the operator said twice that none is wanted:
        /// digests are then taken and recorded, and compared with nothing.
        manifest: Option<PathBuf>,
    },
}

/// Whether and by whom a manifest has to be signed.
#[derive(Debug, Clone)]
pub enum ManifestTrust {
    /// By one of these keys.
    Keys {
        /// The trusted keys.
        keys: TrustVerifyKeys,
        /// Ids of those that do not count any more, whenever they signed.
        revoked: RevokedKids,
    },
    /// Nobody: the operator said so in as many words, or the manifest is a published one, which
    /// knows no signature. Digests are compared all the same.
    Unsigned,
}

/// Which monitor runs the machines.
#[derive(Debug, Clone)]
pub enum DriverChoice {
    /// QEMU's `microvm` machine, with KVM or emulated.
    Qemu(QemuConfig),
    /// Firecracker, which needs KVM.
    Firecracker(FirecrackerConfig),
}

/// Settings of the QEMU driver.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// `qemu-system-x86_64`, absolute.
    pub program: PathBuf,
    /// What may execute the guest.
    pub accelerators: Accelerators,
}

/// What may execute a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerators {
    /// KVM where it was seen to run a guest, else emulation.
    Best,
    /// KVM or nothing.
    KvmOnly,
    /// Emulation.
    Emulation,
}

/// Settings of the Firecracker driver.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// The `firecracker` program, absolute.
    pub program: PathBuf,
    /// Whether each machine gets a jail.
    pub jail: Jail,
}

/// Whether Firecracker runs in a jail of its jailer.
#[derive(Debug, Clone)]
pub enum Jail {
    /// Each machine in a jail of its own, under a user id of its own.
    Jailer {
        /// The `jailer` program, absolute.
        program: PathBuf,
        /// Where jails are made, absolute.
        chroot_base: PathBuf,
        /// First user and group id of the pool.
        first_id: u32,
        /// How many ids the pool has.
        ids: u32,
    },
    /// None: the operator said so in as many words.
    None,
}

/// Bounds on what one machine may read, write and send. `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Bytes a second from and to disks.
    pub disk_bytes_per_second: Option<u64>,
    /// Operations a second on disks.
    pub disk_operations_per_second: Option<u64>,
    /// Bytes a second over the network, each way.
    pub network_bytes_per_second: Option<u64>,
}
