//! A `create` that fails.

use super::{CaseResult, Subject, Violation, ensure};
use crate::ResourceSnapshot;

/// Whatever step of `create` fails, nothing of the cell stays, the id is free, and the next cell
/// works.
///
/// Every backend can fail at its first step, by refusing the id; the later steps are the
/// [`fault_points`](super::BackendUnderTest::fault_points) it offers.
///
/// # Errors
/// [`Violation`].
pub async fn a_create_that_fails_leaves_nothing(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    let document = subject.document("unlucky");
    // Whatever the backend sets up once, for all cells, is no leak.
    let warm = backend.create(&document).await?;
    backend.destroy(&warm).await?;
    let before = ResourceSnapshot::take()?;

    let mut steps = vec![None];
    steps.extend(subject.fault_points().into_iter().map(Some));
    for step in steps {
        let failed = match &step {
            Some(point) => {
                subject.inject(point);
                backend.create(&document).await
            }
            None => {
                let mut refused = document.clone();
                refused.spec.id = "../unlucky".into();
                backend.create(&refused).await
            }
        };
        let name = step.as_deref().unwrap_or("checking the id");
        if let Ok(handle) = failed {
            let _ = backend.destroy(&handle).await;
            return Err(Violation::new(format!(
                "create succeeded in spite of a fault at {name:?}"
            )));
        }
        let left = subject.leftovers();
        ensure!(
            left.is_empty(),
            "a fault at {name:?} left {}",
            left.join(", ")
        );
        let growth = before.lasting_growth().await?;
        ensure!(growth.is_empty(), "after a fault at {name:?} {growth}");

        let handle = backend.create(&document).await.map_err(|error| {
            Violation::new(format!(
                "after a fault at {name:?} the id cannot be used: {error}"
            ))
        })?;
        let report = backend.destroy(&handle).await?;
        ensure!(
            report.destroyed && report.peers_tracked_after == 0,
            "after a fault at {name:?} the next cell's teardown reports {report:?}"
        );
    }
    Ok(())
}
