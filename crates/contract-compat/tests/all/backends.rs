//! The outsider's backends against the contract.

use std::sync::Arc;

use cellos_core::ports::CellBackend;
use cellos_testkit::{Missing, contract::BackendUnderTest, minimal_document};
use contract_compat::backends::{ThreeMethods, TwoMethods};

struct Outsider(Arc<dyn CellBackend>);

impl BackendUnderTest for Outsider {
    fn backend(&self) -> Arc<dyn CellBackend> {
        Arc::clone(&self.0)
    }

    fn leftovers(&self) -> Vec<String> {
        Vec::new()
    }
}

mod three_methods {
    use super::*;

    fn backend() -> Result<Outsider, Missing> {
        Ok(Outsider(Arc::new(ThreeMethods::default())))
    }

    cellos_testkit::backend_contract!(backend);
}

mod two_methods {
    use super::*;

    fn backend() -> Result<Outsider, Missing> {
        Ok(Outsider(Arc::new(TwoMethods::default())))
    }

    cellos_testkit::backend_contract!(backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boxed_backend_works_from_other_threads() {
    let backend: Box<dyn CellBackend> = Box::new(ThreeMethods::default());
    let backend: Arc<dyn CellBackend> = Arc::from(backend);
    let document = minimal_document("there", ["one", "two"]);
    let creator = Arc::clone(&backend);
    let handle = tokio::spawn(async move { creator.create(&document).await })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(backend.wait_for_in_vm_exit("there").await, Some(Ok(2)));
    let report = backend.destroy(&handle.clone()).await.unwrap();
    assert!(report.destroyed);
    assert_eq!(format!("{:?}", report.clone()), format!("{report:?}"));
}

#[tokio::test]
async fn what_is_ours_defaults_to_nothing() {
    for backend in [
        Box::new(ThreeMethods::default()) as Box<dyn CellBackend>,
        Box::new(TwoMethods::default()),
    ] {
        assert!(backend.descriptor().features.is_empty());
        assert!(backend.workload().is_none());
    }
    assert!(
        TwoMethods::default()
            .wait_for_in_vm_exit("any")
            .await
            .is_none()
    );
}
