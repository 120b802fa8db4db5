//! What this backend enforces on this host.

use cellos_core::descriptor::{BackendDescriptor, Feature};

use cellos_isolation::{
    LauncherOptions,
    cgroup::{CgroupHost, Controller},
};

pub(crate) fn describe(options: &LauncherOptions) -> BackendDescriptor {
    let cgroups = CgroupHost::detect(options.cgroup_parent.as_deref());
    let mut descriptor = BackendDescriptor::nothing(
        "linux",
        "namespaces, control groups, seccomp and Landlock of the host's kernel",
    )
    .enforces(Feature::Filesystem, "own root by pivot_root, Landlock")
    .enforces(Feature::Mounts, "bind mounts in the cell's mount namespace")
    .enforces(Feature::Processes, "PID and IPC namespaces, seccomp")
    .enforces(Feature::Network, "own network namespace with loopback only")
    .enforces(
        Feature::GatewaySockets,
        "made in the cell's network namespace before its command",
    )
    .enforces(Feature::User, "user namespace");
    for (feature, controller) in [
        (Feature::Memory, Controller::Memory),
        (Feature::Cpu, Controller::Cpu),
        (Feature::Pids, Controller::Pids),
    ] {
        descriptor = match cgroups.support(controller) {
            Ok(mechanism) => descriptor.enforces(feature, mechanism.to_string()),
            Err(lacking) => descriptor.lacks(feature, lacking.why, lacking.mend),
        };
    }
    descriptor
}
