//! Backends: one with the three published methods, one with the two that have no default.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    ports::{CellBackend, CellHandle, TeardownReport},
};

/// Live cells with the exit code their workload has.
#[derive(Default)]
struct Cells(Mutex<HashMap<String, i32>>);

impl Cells {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, spec: &ExecutionCellDocument, code: i32) -> Result<CellHandle, CellosError> {
        let id = &spec.spec.id;
        let first = id.chars().next();
        let fits = first.is_some_and(|first| first.is_ascii_alphanumeric())
            && id.len() <= 128
            && !id.contains("..")
            && id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !fits {
            return Err(CellosError::InvalidSpec(format!("spec.id: {id:?}")));
        }
        let mut cells = self.lock();
        if cells.contains_key(id) {
            return Err(CellosError::Host(format!("{id}: no duplicate live cells")));
        }
        cells.insert(id.clone(), code);
        Ok(CellHandle {
            cell_id: id.clone(),
            cgroup_path: None,
            nft_rules_applied: Some(false),
            kernel_digest_sha256: None,
            rootfs_digest_sha256: None,
            firecracker_digest_sha256: None,
        })
    }
}

/// Runs workloads itself, in the way of the published contract: `wait_for_in_vm_exit` has their
/// codes. An unknown destroy is an error, as one of the published backends has it.
#[derive(Default)]
pub struct ThreeMethods {
    cells: Cells,
}

#[async_trait]
impl CellBackend for ThreeMethods {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        let arguments = spec.spec.run.as_ref().map_or(0, |run| run.argv.len());
        self.cells
            .create(spec, i32::try_from(arguments).unwrap_or(-1))
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        let mut cells = self.cells.lock();
        match cells.remove(&handle.cell_id) {
            Some(_) => Ok(TeardownReport {
                cell_id: handle.cell_id.clone(),
                destroyed: true,
                peers_tracked_after: cells.len(),
            }),
            None => Err(CellosError::Host(format!(
                "{} is not tracked",
                handle.cell_id
            ))),
        }
    }

    async fn wait_for_in_vm_exit(&self, cell_id: &str) -> Option<Result<i32, CellosError>> {
        match self.cells.lock().get(cell_id) {
            Some(code) => Some(Ok(*code)),
            None => Some(Err(CellosError::Host(format!(
                "no VM tracked for {cell_id}"
            )))),
        }
    }
}

/// Leaves the workload to the supervisor.
#[derive(Default)]
pub struct TwoMethods {
    cells: Cells,
}

#[async_trait]
impl CellBackend for TwoMethods {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        self.cells.create(spec, 0)
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        Ok(TeardownReport {
            cell_id: handle.cell_id.clone(),
            destroyed: self.cells.lock().remove(&handle.cell_id).is_some(),
            ..TeardownReport::default()
        })
    }
}
