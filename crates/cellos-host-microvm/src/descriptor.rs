//! What this backend enforces on this host.

use cellos_core::descriptor::{BackendDescriptor, Feature};
use cellos_isolation::cgroup::{CgroupHost, Controller};
use rustix::fs::{Mode, OFlags};

use crate::config::{BootFiles, DriverChoice, MicrovmConfig};

/// Name as given to `--backend`.
const NAME: &str = "microvm";

pub(crate) fn describe(config: &MicrovmConfig) -> BackendDescriptor {
    match (&config.boot, &config.driver) {
        (BootFiles::Published { .. }, _) => published(),
        (BootFiles::Bundle(_), DriverChoice::Firecracker(_)) => bridged("Firecracker", config),
        (BootFiles::Bundle(_), DriverChoice::Qemu(_)) => bridged("QEMU", config),
    }
}

/// Why machines cannot have a network, and how to mend that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lacking {
    pub(crate) why: &'static str,
    pub(crate) mend: &'static str,
}

/// Whether machines can have a network.
pub(crate) fn network(config: &MicrovmConfig) -> Result<(), Lacking> {
    const LINUX: &str = "use --backend linux, or QEMU's machines";
    let lacking = |why, mend| Err(Lacking { why, mend });
    match (&config.boot, &config.driver) {
        (BootFiles::Published { .. }, _) => lacking(
            "a guest of the published contract has no network card",
            LINUX,
        ),
        (_, DriverChoice::Firecracker(_)) => {
            lacking("machines of Firecracker have no network card yet", LINUX)
        }
        (_, DriverChoice::Qemu(_)) if config.rates.network_bytes_per_second.is_some() => lacking(
            "QEMU's network cards cannot be held to a rate",
            "leave the bound on the network's rate away",
        ),
        (_, DriverChoice::Qemu(_)) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            match rustix::fs::open(TUN, flags, Mode::empty()) {
                Ok(_) => Ok(()),
                Err(_) => lacking(
                    "/dev/net/tun cannot be opened, which makes the TAP devices of machines",
                    "load the kernel's module tun, and allow the use of /dev/net/tun",
                ),
            }
        }
    }
}

/// Makes TAP devices.
const TUN: &str = "/dev/net/tun";

/// A host whose settings make no backend: everything it could give is missing for one reason.
pub(crate) fn unusable(why: &str) -> BackendDescriptor {
    [
        Feature::Filesystem,
        Feature::Processes,
        Feature::Network,
        Feature::User,
        Feature::KernelBoundary,
        Feature::Memory,
        Feature::Cpu,
        Feature::Pids,
    ]
    .into_iter()
    .fold(
        BackendDescriptor::nothing(NAME, "a virtual machine of its own for each cell"),
        |descriptor, feature| {
            descriptor.lacks(
                feature,
                why,
                "cellos vm prepare makes what machines boot; cellos doctor says what this host lacks",
            )
        },
    )
}

fn bridged(monitor: &str, config: &MicrovmConfig) -> BackendDescriptor {
    let descriptor = BackendDescriptor::nothing(
        NAME,
        format!("a virtual machine of its own for each cell, by {monitor}"),
    )
    .enforces(
        Feature::Filesystem,
        "own disk, read-only below a file system in memory; own root inside the guest",
    )
    .enforces(
        Feature::Processes,
        "the machine, and PID and IPC namespaces inside it",
    )
    .enforces(
        Feature::Network,
        "no network device, or one in an empty network namespace",
    )
    .enforces(Feature::User, "user namespace inside the guest")
    .enforces(Feature::KernelBoundary, "a guest kernel of its own")
    .enforces(
        Feature::Memory,
        "the machine's memory, and cgroup v2 memory inside the guest",
    )
    .enforces(Feature::Pids, "cgroup v2 pids inside the guest");
    let descriptor = match network(config) {
        Ok(()) => descriptor.enforces(
            Feature::GatewaySockets,
            "made in the network namespace of the monitor, with the machine's TAP device",
        ),
        Err(lacking) => descriptor.lacks(Feature::GatewaySockets, lacking.why, lacking.mend),
    };
    let groups = CgroupHost::detect(config.cgroup_parent.as_deref());
    match groups.support(Controller::Cpu) {
        Ok(mechanism) => descriptor.enforces(
            Feature::Cpu,
            format!("virtual processors, and {mechanism} around the monitor"),
        ),
        Err(lacking) => descriptor.lacks(Feature::Cpu, lacking.why, lacking.mend),
    }
}

/// A published guest runs the command as it likes: only what the machine itself holds is promised.
fn published() -> BackendDescriptor {
    BackendDescriptor::nothing(
        NAME,
        "a virtual machine of its own for each cell, by Firecracker, with a guest of the published \
         contract: no network, no standard streams, exit codes that the workload could forge",
    )
    .enforces(Feature::Filesystem, "own disk, read-only")
    .enforces(Feature::Processes, "the machine")
    .enforces(Feature::Network, "a machine without a network device")
    .enforces(Feature::KernelBoundary, "a guest kernel of its own")
    .enforces(Feature::Memory, "the machine's memory")
}
