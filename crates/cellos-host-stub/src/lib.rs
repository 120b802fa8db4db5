//! A backend that isolates nothing, for wiring tests.
#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    descriptor::BackendDescriptor,
    ports::{CellBackend, CellHandle, TeardownReport},
};

/// The name given to `--backend`.
pub const NAME: &str = "stub";

/// Longest id, in characters.
const ID_MAX: usize = 128;

/// Keeps the ids of live cells, and nothing else of them.
///
/// It enforces nothing, runs nothing (`wait_for_in_vm_exit` is always `None`, so the supervisor
/// launches the command on the host) and touches nothing outside its own memory.
#[derive(Debug, Default)]
pub struct StubCellBackend {
    live: Mutex<HashSet<String>>,
}

impl StubCellBackend {
    /// A backend without cells.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        // Inserting and removing leave a whole set, whatever panicked meanwhile.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CellBackend for StubCellBackend {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        let id = &spec.spec.id;
        check_id(id)?;
        if !self.live().insert(id.clone()) {
            return Err(CellosError::Host(format!(
                "cell {id:?} is already active: destroy it first or choose another spec.id"
            )));
        }
        Ok(CellHandle {
            cell_id: id.clone(),
            cgroup_path: None,
            nft_rules_applied: None,
            kernel_digest_sha256: None,
            rootfs_digest_sha256: None,
            firecracker_digest_sha256: None,
        })
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        let mut live = self.live();
        let destroyed = live.remove(&handle.cell_id);
        Ok(TeardownReport {
            cell_id: handle.cell_id.clone(),
            destroyed,
            peers_tracked_after: live.len(),
        })
    }

    fn descriptor(&self) -> BackendDescriptor {
        BackendDescriptor::nothing(NAME, "no isolation at all, for wiring tests")
    }
}

/// Admission has checked the id already; a caller that went around it is refused all the same.
fn check_id(id: &str) -> Result<(), CellosError> {
    let refuse = |why: &str| Err(CellosError::InvalidSpec(format!("spec.id {why}")));
    if id.is_empty() {
        return refuse("is empty: name the cell");
    }
    if id.len() > ID_MAX {
        return refuse("is longer than 128 characters: shorten it");
    }
    if !id.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return refuse("must start with a letter or a digit");
    }
    if !id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return refuse("may hold only letters, digits, '.', '_' and '-'");
    }
    if id.contains("..") {
        return refuse("must not contain '..'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_field() {
        for (id, reason) in [
            ("", "spec.id is empty"),
            ("-rf", "spec.id must start with"),
            ("a/b", "spec.id may hold only"),
            ("a..b", "spec.id must not contain '..'"),
            (&"a".repeat(129), "spec.id is longer"),
        ] {
            let error = check_id(id).unwrap_err().to_string();
            assert!(error.contains(reason), "{id:?}: {error}");
        }
        assert_eq!(check_id(&"a".repeat(128)), Ok(()));
    }

    #[test]
    fn promises_nothing() {
        let descriptor = StubCellBackend::new().descriptor();
        assert_eq!(descriptor.name, "stub");
        assert!(descriptor.features.is_empty());
    }
}
