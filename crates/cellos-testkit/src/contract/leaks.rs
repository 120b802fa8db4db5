//! What stays on the host after cells are gone. These cases run in a process of their own.

use super::{CaseResult, Probe, Subject, Violation, ensure, streams, workload::cell};
use crate::{ResourceSnapshot, snapshot::processes_with_argument};

/// Cells made before anything is counted, so that what is set up once is no leak.
const WARM_UP: usize = 20;

/// After many cells nothing has grown: descriptors, threads, tasks, processes, mounts, and what
/// the backend itself keeps on the host.
///
/// # Errors
/// [`Violation`].
pub async fn many_cycles_leave_nothing(subject: Subject) -> CaseResult {
    let cycles = subject.cycles();
    for number in 0..WARM_UP.min(cycles) {
        one_cycle(&subject, number).await?;
    }
    let before = ResourceSnapshot::take()?;
    for number in 0..cycles {
        one_cycle(&subject, number).await?;
    }
    let growth = before.lasting_growth().await?;
    ensure!(growth.is_empty(), "after {cycles} cells {growth}");
    let left = subject.leftovers();
    ensure!(
        left.is_empty(),
        "{cycles} cells left {} things, the first is {}",
        left.len(),
        left.first().map_or("", String::as_str)
    );
    Ok(())
}

async fn one_cycle(subject: &Subject, number: usize) -> CaseResult {
    let backend = subject.backend();
    let mut document = subject.document(&format!("cycle-{number}"));
    let runs = backend.workload().is_some();
    if let (true, Some(run)) = (runs, &mut document.spec.run) {
        run.argv = subject.command(Probe::Exit(0));
    }
    let handle = backend.create(&document).await?;
    if let Some(control) = backend.workload() {
        control
            .release(&handle.cell_id, streams::silent()?)
            .await
            .map_err(|error| Violation::new(format!("cycle {number}: {error}")))?;
        let end = backend.wait_for_in_vm_exit(&handle.cell_id).await;
        ensure!(end == Some(Ok(0)), "cycle {number} ended with {end:?}");
    }
    let report = backend.destroy(&handle).await?;
    ensure!(
        report.destroyed && report.peers_tracked_after == 0,
        "the teardown of cycle {number} reports {report:?}"
    );
    Ok(())
}

/// Destroying a cell also ends what left its process group, session and parent.
///
/// # Errors
/// [`Violation`].
pub async fn destroying_a_running_cell_leaves_no_daemon(subject: Subject) -> CaseResult {
    let warm = cell(&subject, "warm", Probe::Exit(0)).await?;
    warm.run_to_end().await?;
    warm.destroy().await?;
    let before = ResourceSnapshot::take()?;

    // Longer than a day, and told from another test's daemon by this process's number.
    let seconds = 100_000_u32.saturating_add(std::process::id());
    let daemon = cell(&subject, "daemon", Probe::LeaveDaemon { seconds }).await?;
    let (streams, taps) = streams::pipes()?;
    daemon.release(streams).await?;
    let (line, taps) = taps.first_line().await?;
    ensure!(line == "ready", "the workload said {line:?}");
    daemon.destroy().await?;
    drop(taps);
    let growth = before.lasting_growth().await?;
    ensure!(
        growth.is_empty(),
        "after destroying a cell with a daemon {growth}"
    );
    let sleepers = processes_with_argument(&seconds.to_string())?;
    ensure!(
        sleepers.is_empty(),
        "the daemon of a destroyed cell still runs: {sleepers:?}"
    );
    Ok(())
}
