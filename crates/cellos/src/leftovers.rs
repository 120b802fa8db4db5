//! What a killed run of the Linux backend can leave: control groups. Everything else of a cell
//! lives in namespaces that end with its processes.

use cellos_core::CellosError;
use cellos_host_linux::cgroup;
use cellos_supervisor::state::{LeftoverCleaner, RunRecord};

/// Removes the control groups of a dead run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinuxLeftovers;

impl LeftoverCleaner for LinuxLeftovers {
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError> {
        let report = cgroup::remove_stale(&record.cgroup_path);
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
