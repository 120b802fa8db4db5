//! What a killed run can leave on the host.
//!
//! Of the Linux backend: control groups. Everything else of a cell lives in namespaces that end with
//! its processes. Of the microVM backend: what the records of its machines name.

use std::fs;

use cellos_core::{CellosError, ports::workload::Residue};
use cellos_host_microvm::leftovers::{self, Which};
use cellos_isolation::cgroup::{self, CgroupHost};
use cellos_supervisor::state::{LeftoverCleaner, RunRecord};

use crate::{compose::BackendOptions, machines::Places};

/// Removes the control groups of a dead run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinuxLeftovers;

impl LeftoverCleaner for LinuxLeftovers {
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError> {
        // A cell has one group in each hierarchy, the record names one of them. The others are
        // found by who made them.
        let host = CgroupHost::detect(BackendOptions::from_environment().cgroup_parent.as_deref());
        let mut stale = host
            .find_stale()
            .map_err(|error| CellosError::Host(error.to_string()))?;
        stale.extend(record.cgroup_path.clone());
        stale.sort();
        stale.dedup();
        let report = cgroup::remove_stale(&stale);
        if let Some((path, error)) = report.left.first() {
            return Err(CellosError::Host(format!(
                "control group {} cannot be removed: {error}",
                path.display()
            )));
        }
        Ok(report
            .removed
            .iter()
            .map(|path| format!("control group {}", path.display()))
            .collect())
    }

    fn look(&self, record: &RunRecord) -> Option<Residue> {
        let mut residue = Residue {
            looked_for: vec!["cgroups".into(), "mounts".into()],
            found: Vec::new(),
        };
        let host = CgroupHost::detect(BackendOptions::from_environment().cgroup_parent.as_deref());
        let ours = format!("cellos_{}_", record.cell_id);
        match host.find_stale() {
            Ok(stale) => residue.found.extend(
                stale
                    .iter()
                    .filter(|path| {
                        let name = path.file_name().unwrap_or_default();
                        name.to_string_lossy().starts_with(&ours)
                    })
                    .map(|path| format!("control group {}", path.display())),
            ),
            Err(error) => residue
                .found
                .push(format!("control groups could not be looked at: {error}")),
        }
        if let Some(path) = &record.cgroup_path {
            // A control group that is gone has no processes.
            residue.looked_for.insert(0, "processes".into());
            if path.exists() {
                residue
                    .found
                    .push(format!("control group {}", path.display()));
            }
        }
        match fs::read("/proc/self/mountinfo") {
            Ok(table) => residue
                .found
                .extend(cell_mounts(&String::from_utf8_lossy(&table)).map(str::to_owned)),
            Err(error) => residue
                .found
                .push(format!("mounts could not be looked at: {error}")),
        }
        Some(residue)
    }
}

/// Mounts of cells, which none should be outside of one; proc_pid_mountinfo(5).
fn cell_mounts(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter(|line| {
        line.split_once(" - ")
            .and_then(|(_, kind)| kind.split(' ').nth(1))
            == Some("cellos")
    })
}

/// Removes what a dead run's machine left: its monitor, control groups, jail and folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineLeftovers;

impl LeftoverCleaner for MachineLeftovers {
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError> {
        let places =
            Places::of_this_process().map_err(|error| CellosError::Host(error.to_string()))?;
        leftovers::remove(&places.run, Which::OfCell(&record.cell_id))
            .map_err(|error| CellosError::Host(error.to_string()))
    }

    /// Whatever a second removal finds was left by the first.
    fn look(&self, record: &RunRecord) -> Option<Residue> {
        let places = Places::of_this_process().ok()?;
        let found = match leftovers::remove(&places.run, Which::OfCell(&record.cell_id)) {
            Ok(found) => found,
            Err(error) => vec![error.to_string()],
        };
        Some(Residue {
            looked_for: ["processes", "control groups", "files", "sockets"]
                .map(str::to_owned)
                .into(),
            found,
        })
    }
}
