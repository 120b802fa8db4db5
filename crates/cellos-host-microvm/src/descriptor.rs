//! What this backend enforces on this host.

use cellos_core::descriptor::{BackendDescriptor, Feature};
use cellos_isolation::cgroup::{CgroupHost, Controller};

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
        format!("a virtual machine of its own for each cell, by {monitor}; no network"),
    )
    .enforces(
        Feature::Filesystem,
        "own disk, read-only below a file system in memory; own root inside the guest",
    )
    .enforces(
        Feature::Processes,
        "the machine, and PID and IPC namespaces inside it",
    )
    .enforces(Feature::Network, "a machine without a network device")
    .enforces(Feature::User, "user namespace inside the guest")
    .enforces(Feature::KernelBoundary, "a guest kernel of its own")
    .enforces(
        Feature::Memory,
        "the machine's memory, and cgroup v2 memory inside the guest",
    )
    .enforces(Feature::Pids, "cgroup v2 pids inside the guest");
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
