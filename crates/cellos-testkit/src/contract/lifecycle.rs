//! Creating and destroying, one at a time and many at once.

use std::sync::Arc;

use cellos_core::{
    CellosError,
    ports::{CellHandle, TeardownReport},
};

use super::{CaseResult, Subject, Violation, ensure, promptly};

/// How many callers race for one cell.
const RACERS: usize = 8;

/// A handle as the backend would give it for a cell it does not know.
fn handle_of(id: &str) -> CellHandle {
    CellHandle {
        cell_id: id.into(),
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: None,
        rootfs_digest_sha256: None,
        firecracker_digest_sha256: None,
    }
}

async fn create(subject: &Subject, id: &str) -> Result<CellHandle, CellosError> {
    subject.backend().create(&subject.document(id)).await
}

/// A cell comes and goes, and both answers name it.
///
/// # Errors
/// [`Violation`].
pub async fn creates_and_destroys(subject: Subject) -> CaseResult {
    let handle = create(&subject, "one").await?;
    ensure!(
        handle.cell_id == "one",
        "the handle names {:?}",
        handle.cell_id
    );
    let report = subject.backend().destroy(&handle).await?;
    ensure!(
        report.cell_id == "one",
        "the report names {:?}",
        report.cell_id
    );
    ensure!(
        report.destroyed,
        "destroying a live cell reports destroyed: false"
    );
    ensure!(
        report.peers_tracked_after == 0,
        "{} cells are tracked after the last one is gone",
        report.peers_tracked_after
    );
    Ok(())
}

/// A second cell of a live id is refused, and the first one is unharmed.
///
/// # Errors
/// [`Violation`].
pub async fn refuses_a_duplicate_live_id(subject: Subject) -> CaseResult {
    let first = create(&subject, "twice").await?;
    let second = create(&subject, "twice").await;
    ensure!(
        second.is_err(),
        "a second cell of the live id \"twice\" was created"
    );
    let report = subject.backend().destroy(&first).await?;
    ensure!(
        report.destroyed,
        "refusing the second cell took the first one away"
    );
    Ok(())
}

/// Of many creators of one id at the same moment exactly one gets a cell.
///
/// # Errors
/// [`Violation`].
pub async fn admits_one_of_many_creators_of_an_id(subject: Subject) -> CaseResult {
    let racers: Vec<_> = (0..RACERS)
        .map(|_| {
            let subject = Arc::clone(&subject);
            tokio::spawn(async move { create(&subject, "raced").await })
        })
        .collect();
    let mut created = Vec::new();
    for racer in racers {
        created.extend(joined(racer.await)?.ok());
    }
    let cells = created.len();
    let mut removed = 0_usize;
    for handle in &created {
        removed += usize::from(matches!(
            subject.backend().destroy(handle).await,
            Ok(TeardownReport {
                destroyed: true,
                ..
            })
        ));
    }
    ensure!(
        cells == 1,
        "{cells} of {RACERS} creators of one id got a cell"
    );
    ensure!(
        removed == 1,
        "the cell that won the race was not there to be destroyed"
    );
    Ok(())
}

/// A destroyed cell's id is free.
///
/// # Errors
/// [`Violation`].
pub async fn reuses_an_id_after_destroy(subject: Subject) -> CaseResult {
    for round in 1..=3 {
        let handle = create(&subject, "again").await.map_err(|error| {
            Violation::new(format!("creating \"again\" for the time {round}: {error}"))
        })?;
        let report = subject.backend().destroy(&handle).await?;
        ensure!(report.destroyed, "round {round} was not destroyed");
    }
    Ok(())
}

/// Cells that live at the same time are destroyed one by one, and the count of peers follows.
///
/// # Errors
/// [`Violation`].
pub async fn keeps_many_cells_apart(subject: Subject) -> CaseResult {
    let creators: Vec<_> = (0..RACERS)
        .map(|number| {
            let subject = Arc::clone(&subject);
            tokio::spawn(async move { create(&subject, &format!("peer-{number}")).await })
        })
        .collect();
    let mut handles = Vec::new();
    for creator in creators {
        handles.push(joined(creator.await)??);
    }
    let mut left = handles.len();
    for handle in &handles {
        left -= 1;
        let report = subject.backend().destroy(handle).await?;
        ensure!(
            report.destroyed,
            "{} was gone before its turn",
            handle.cell_id
        );
        ensure!(
            report.peers_tracked_after <= left,
            "{} cells are tracked and {left} are alive",
            report.peers_tracked_after
        );
    }
    Ok(())
}

/// Destroying what is not there answers so, and harms no other cell.
///
/// # Errors
/// [`Violation`].
pub async fn destroying_an_unknown_cell_changes_nothing(subject: Subject) -> CaseResult {
    let bystander = create(&subject, "bystander").await?;
    match subject.backend().destroy(&handle_of("nobody")).await {
        Ok(report) => ensure!(
            !report.destroyed,
            "an unknown cell is reported as destroyed"
        ),
        Err(error) => ensure!(
            error.to_string().contains("nobody"),
            "the error does not name the unknown cell: {error}"
        ),
    }
    let report = subject.backend().destroy(&bystander).await?;
    ensure!(
        report.destroyed,
        "destroying an unknown cell took another one away"
    );
    Ok(())
}

/// Only the first of two destroys removes the cell; the second changes nothing.
///
/// # Errors
/// [`Violation`].
pub async fn destroying_twice_removes_once(subject: Subject) -> CaseResult {
    let handle = create(&subject, "mortal").await?;
    let first = subject.backend().destroy(&handle).await?;
    ensure!(first.destroyed, "the first destroy removed nothing");
    match subject.backend().destroy(&handle).await {
        Ok(second) => ensure!(
            !second.destroyed,
            "the second destroy also reports destroyed"
        ),
        Err(error) => ensure!(
            error.to_string().contains("mortal"),
            "the error does not name the cell: {error}"
        ),
    }
    // A new cell of the id must not be what the old handle's second destroy touched.
    let handle = create(&subject, "mortal").await?;
    let third = subject.backend().destroy(&handle).await?;
    ensure!(third.destroyed, "the id is not free after two destroys");
    Ok(())
}

/// Of many destroys of one cell at the same moment exactly one removes it.
///
/// # Errors
/// [`Violation`].
pub async fn concurrent_destroys_remove_once(subject: Subject) -> CaseResult {
    let handle = create(&subject, "contested").await?;
    let racers: Vec<_> = (0..RACERS)
        .map(|_| {
            let (backend, handle) = (subject.backend(), handle.clone());
            tokio::spawn(async move { backend.destroy(&handle).await })
        })
        .collect();
    let mut removed = 0_usize;
    for racer in racers {
        removed += usize::from(joined(racer.await)?.is_ok_and(|report| report.destroyed));
    }
    ensure!(
        removed == 1,
        "{removed} of {RACERS} concurrent destroys report destroyed"
    );
    Ok(())
}

/// An unknown cell has no exit code, and neither has one that was destroyed.
///
/// # Errors
/// [`Violation`].
pub async fn waiting_for_an_unknown_cell_gives_no_code(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    let gone = create(&subject, "gone").await?;
    backend.destroy(&gone).await?;
    for id in ["nobody", "gone", ""] {
        let answer = promptly(
            &format!("waiting for the unknown cell {id:?}"),
            backend.wait_for_in_vm_exit(id),
        )
        .await?;
        if let Some(Ok(code)) = answer {
            return Err(Violation::new(format!(
                "waiting for the unknown cell {id:?} gives exit code {code}"
            )));
        }
    }
    Ok(())
}

/// The result of a task; a panic inside the backend is a violation.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Violation> {
    result.map_err(|error| Violation::new(format!("the backend panicked: {error}")))
}
