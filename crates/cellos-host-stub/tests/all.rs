//! The stub backend against the contract.

use std::sync::Arc;

use cellos_core::ports::CellBackend;
use cellos_host_stub::StubCellBackend;
use cellos_testkit::{Missing, contract::BackendUnderTest, minimal_document};

struct Stub(Arc<StubCellBackend>);

impl BackendUnderTest for Stub {
    fn backend(&self) -> Arc<dyn CellBackend> {
        self.0.clone()
    }

    /// It keeps nothing outside of its memory.
    fn leftovers(&self) -> Vec<String> {
        Vec::new()
    }
}

fn stub() -> Result<Stub, Missing> {
    Ok(Stub(Arc::new(StubCellBackend::new())))
}

cellos_testkit::backend_contract!(stub);

#[tokio::test]
async fn counts_the_cells_that_remain() {
    let backend = StubCellBackend::new();
    let first = backend
        .create(&minimal_document("first", ["true"]))
        .await
        .unwrap();
    let second = backend
        .create(&minimal_document("second", ["true"]))
        .await
        .unwrap();
    assert_eq!(
        backend.destroy(&first).await.unwrap().peers_tracked_after,
        1
    );
    assert_eq!(
        backend.destroy(&first).await.unwrap().peers_tracked_after,
        1
    );
    assert_eq!(
        backend.destroy(&second).await.unwrap().peers_tracked_after,
        0
    );
}

#[tokio::test]
async fn a_cell_without_a_command_is_created() {
    let backend = StubCellBackend::new();
    let mut document = minimal_document("idle", ["true"]);
    document.spec.run = None;
    let handle = backend.create(&document).await.unwrap();
    assert!(backend.destroy(&handle).await.unwrap().destroyed);
}

#[tokio::test]
async fn runs_nothing_itself() {
    let backend = StubCellBackend::new();
    let handle = backend
        .create(&minimal_document("live", ["true"]))
        .await
        .unwrap();
    assert!(backend.wait_for_in_vm_exit("live").await.is_none());
    assert!(handle.cgroup_path.is_none() && handle.nft_rules_applied.is_none());
}
