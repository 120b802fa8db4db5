//! What a killed run can leave on the host.
//!
//! Of the Linux backend: control groups. Everything else of a cell lives in namespaces that end with
//! its processes. Of the microVM backend: what the records of its machines name.

use cellos_core::CellosError;
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
}
