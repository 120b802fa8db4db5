//! What of a cell is removed from the host at its end, and what is found afterwards.

use std::os::fd::AsFd;

use cellos_core::ports::workload::Residue;

use super::Cell;
use crate::{
    cgroup::Cgroup,
    launcher::{Shared, host_mounts::HostMounts, is_running},
};

impl Cell {
    /// Removes what the cell had on the host and looks for what is left.
    pub(super) fn remove_and_look(&self, shared: &Shared) -> Residue {
        let mut residue = Residue::default();
        residue.looked_for.push("processes".to_owned());
        let workload = self.workload_descriptor.as_ref();
        for (name, process) in [
            ("init", Some(&self.init_descriptor)),
            ("workload", workload),
        ] {
            if process.is_some_and(|process| is_running(process.as_fd())) {
                residue.found.push(format!("the cell's {name} process"));
            }
        }
        residue.looked_for.push("cgroups".to_owned());
        for pid in self.cgroup.processes().unwrap_or_default() {
            residue
                .found
                .push(format!("process {pid} in the control group"));
        }
        residue.found.extend(remove_cgroup(&self.cgroup));
        for path in self.cgroup.paths().filter(|path| path.exists()) {
            residue
                .found
                .push(format!("control group {}", path.display()));
        }
        residue.looked_for.push("mounts".to_owned());
        match shared.host_mounts().and_then(HostMounts::of_cells) {
            Ok(places) => residue
                .found
                .extend(places.into_iter().map(|place| format!("mount {place}"))),
            Err(error) => residue
                .found
                .push(format!("mounts could not be looked at: {error}")),
        }
        residue
    }
}

/// What could not be removed, if anything.
pub(super) fn remove_cgroup(cgroup: &Cgroup) -> Option<String> {
    cgroup.remove().err().map(|error| error.to_string())
}
