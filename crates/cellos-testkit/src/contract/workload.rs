//! Control over workloads that the backend runs itself.

use std::{fs, os::fd::AsRawFd, sync::Arc, time::Duration};

use cellos_core::{
    descriptor::Feature,
    document::{RunCpuMax, RunLimits},
    ports::{
        CellBackend, CellHandle,
        workload::{
            Posture, ReleaseError, Released, StopSignal, Streams, WorkingFolder, WorkloadControl,
            WorkloadEnd,
        },
    },
};

use super::{
    CaseResult, PROMPT, Probe, Subject, Violation, ensure, lifecycle::joined, promptly, streams,
};

/// How long a parked workload is watched for doing something.
const WATCH: Duration = Duration::from_millis(200);
/// `SIGKILL` as a shell gives it.
const KILLED: i32 = 128 + 9;
/// `SIGTERM` as a shell gives it.
const TERMINATED: i32 = 128 + 15;

/// A live cell of a case.
pub(super) struct Cell {
    backend: Arc<dyn CellBackend>,
    handle: CellHandle,
}

/// Creates a cell that behaves as the probe says, once it is released.
pub(super) async fn cell(subject: &Subject, id: &str, probe: Probe) -> Result<Cell, Violation> {
    let mut document = subject.document(id);
    let Some(run) = &mut document.spec.run else {
        return Err(Violation::new("the document under test has no run"));
    };
    run.argv = subject.command(probe);
    let backend = subject.backend();
    let handle = backend.create(&document).await?;
    Ok(Cell { backend, handle })
}

impl Cell {
    fn id(&self) -> &str {
        &self.handle.cell_id
    }

    fn control(&self) -> Result<&dyn WorkloadControl, Violation> {
        control(&*self.backend)
    }

    pub(super) async fn release(&self, streams: Streams) -> Result<Released, Violation> {
        promptly("release", self.control()?.release(self.id(), streams))
            .await?
            .map_err(|error| Violation::new(format!("release: {error}")))
    }

    async fn end(&self) -> Result<i32, Violation> {
        let answer = promptly("the end", self.backend.wait_for_in_vm_exit(self.id())).await?;
        match answer {
            Some(result) => Ok(result?),
            None => Err(Violation::new(
                "a backend with workload control answers None for its own cell",
            )),
        }
    }

    pub(super) async fn run_to_end(&self) -> Result<i32, Violation> {
        self.release(streams::silent()?).await?;
        self.end().await
    }

    /// The posture, which names a process that exists.
    async fn posture(&self, state: &str) -> Result<Posture, Violation> {
        let posture = self.control()?.posture(self.id()).await?;
        ensure!(
            fs::metadata(format!("/proc/{}", posture.pid)).is_ok(),
            "the {state} posture names no process: {}",
            posture.pid
        );
        Ok(posture)
    }

    async fn folder_entries(&self) -> Result<Vec<String>, Violation> {
        let folder = self.control()?.working_folder(self.id()).await?;
        entries(&folder)
    }

    pub(super) async fn destroy(&self) -> CaseResult {
        let report = promptly("destroy", self.backend.destroy(&self.handle)).await??;
        ensure!(report.destroyed, "cell {:?} was gone already", self.id());
        Ok(())
    }
}

fn control(backend: &dyn CellBackend) -> Result<&dyn WorkloadControl, Violation> {
    backend
        .workload()
        .ok_or_else(|| Violation::new("the backend has no workload control"))
}

fn entries(folder: &WorkingFolder) -> Result<Vec<String>, Violation> {
    let path = format!("/proc/self/fd/{}", folder.directory.as_raw_fd());
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// For a backend that is registered without `runs_workloads`: it has no workload control, so
/// none of the cases below is missed by a forgotten word.
///
/// # Errors
/// [`Violation`].
pub async fn offers_no_workload_control(subject: Subject) -> CaseResult {
    ensure!(
        subject.backend().workload().is_none(),
        "the backend has workload control; register it as \
         backend_contract!(factory, runs_workloads)"
    );
    Ok(())
}

/// Nothing of the workload runs before it is released, and it runs then.
///
/// # Errors
/// [`Violation`].
pub async fn parks_the_workload_until_it_is_released(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "parked", Probe::Mark).await?;
    tokio::time::sleep(WATCH).await;
    let before = cell.folder_entries().await?;
    ensure!(
        !before.contains(&"started".into()),
        "the workload ran before it was released"
    );
    let code = cell.run_to_end().await?;
    ensure!(code == 0, "the workload ended with {code}");
    let after = cell.folder_entries().await?;
    ensure!(
        after.contains(&"started".into()),
        "the workload's file is not in its working folder, only {after:?}"
    );
    cell.destroy().await
}

/// A cell that is destroyed before its release never runs.
///
/// # Errors
/// [`Violation`].
pub async fn destroying_a_parked_cell_never_runs_it(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "unborn", Probe::Mark).await?;
    let folder = cell.control()?.working_folder(cell.id()).await?;
    cell.destroy().await?;
    tokio::time::sleep(WATCH).await;
    // The folder may be gone with its cell; then there is nothing to be seen in it.
    let found = entries(&folder).unwrap_or_default();
    ensure!(
        !found.contains(&"started".into()),
        "the workload ran when its parked cell was destroyed"
    );
    Ok(())
}

/// Exit codes arrive as they are.
///
/// # Errors
/// [`Violation`].
pub async fn passes_the_exit_code_on(subject: Subject) -> CaseResult {
    for code in [0_u8, 1, 3, 125, 255] {
        let cell = cell(&subject, &format!("exits-{code}"), Probe::Exit(code)).await?;
        let seen = cell.run_to_end().await?;
        ensure!(seen == i32::from(code), "exit {code} arrived as {seen}");
        let report = cell.control()?.exit_report(cell.id()).await?;
        ensure!(
            report.end == WorkloadEnd::Exited { code: seen },
            "exit {code} is reported as {:?}",
            report.end
        );
        cell.destroy().await?;
    }
    Ok(())
}

/// A signal is 128 and its number, and named in the report.
///
/// # Errors
/// [`Violation`].
pub async fn reports_a_signal_as_such(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "signalled", Probe::KillItself).await?;
    let code = cell.run_to_end().await?;
    ensure!(code == KILLED, "SIGKILL arrived as {code}");
    let report = cell.control()?.exit_report(cell.id()).await?;
    ensure!(
        report.end == WorkloadEnd::Signalled { signal: 9 },
        "SIGKILL is reported as {:?}",
        report.end
    );
    cell.destroy().await
}

/// Everybody who waits gets the end, before and after it, as often as they ask.
///
/// # Errors
/// [`Violation`].
pub async fn gives_every_waiter_the_same_end(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "watched", Probe::Exit(7)).await?;
    let early: Vec<_> = (0..4)
        .map(|_| {
            let (backend, id) = (Arc::clone(&cell.backend), cell.id().to_owned());
            tokio::spawn(async move { backend.wait_for_in_vm_exit(&id).await })
        })
        .collect();
    cell.release(streams::silent()?).await?;
    for waiter in early {
        let end = joined(promptly("a waiter from before the release", waiter).await?)?;
        ensure!(
            end == Some(Ok(7)),
            "a waiter from before the release got {end:?}"
        );
    }
    for _ in 0..2 {
        let code = cell.end().await?;
        ensure!(code == 7, "a waiter from after the end got {code}");
    }
    cell.destroy().await
}

/// Input reaches the workload, and each output its own descriptor, to the end.
///
/// # Errors
/// [`Violation`].
pub async fn passes_the_streams_through(subject: Subject) -> CaseResult {
    for (id, probe, input, out, err) in [
        ("speaks", Probe::Speak, &b""[..], "out\n", "err\n"),
        (
            "copies",
            Probe::Copy,
            &b"line\n\0last"[..],
            "line\n\0last",
            "",
        ),
    ] {
        let cell = cell(&subject, id, probe).await?;
        let (streams, taps) = streams::pipes()?;
        cell.release(streams).await?;
        let seen = taps.converse(input).await?;
        ensure!(
            seen == (out.into(), err.into()),
            "expected {out:?} and {err:?}, got {seen:?}"
        );
        let code = cell.end().await?;
        ensure!(code == 0, "{id} ended with {code}");
        cell.destroy().await?;
    }
    Ok(())
}

/// A refused second cell of an id does not disturb the first one's workload.
///
/// # Errors
/// [`Violation`].
pub async fn a_duplicate_create_leaves_the_workload_alone(subject: Subject) -> CaseResult {
    let first = cell(&subject, "unmoved", Probe::Copy).await?;
    let (streams, taps) = streams::pipes()?;
    first.release(streams).await?;
    let second = cell(&subject, "unmoved", Probe::Exit(1)).await;
    ensure!(second.is_err(), "a second cell of a live id was created");
    let (out, _) = taps.converse(b"still here").await?;
    ensure!(out == "still here", "the first workload said {out:?}");
    let code = first.end().await?;
    ensure!(code == 0, "the first workload ended with {code}");
    first.destroy().await
}

/// A workload runs once.
///
/// # Errors
/// [`Violation`].
pub async fn refuses_a_second_release(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "once", Probe::Sleep).await?;
    cell.release(streams::silent()?).await?;
    let again = cell.control()?.release(cell.id(), streams::silent()?).await;
    ensure!(again.is_err(), "a running workload was released again");
    cell.control()?.stop(cell.id(), StopSignal::Kill).await?;
    cell.end().await?;
    let again = cell.control()?.release(cell.id(), streams::silent()?).await;
    ensure!(again.is_err(), "an ended workload was released again");
    cell.destroy().await
}

/// The two ways in which a command cannot start are told apart, and name it.
///
/// # Errors
/// [`Violation`].
pub async fn tells_an_absent_command_from_one_that_cannot_run(subject: Subject) -> CaseResult {
    let absent = cell(&subject, "absent", Probe::Absent).await?;
    let wanted = subject.command(Probe::Absent);
    match absent
        .control()?
        .release(absent.id(), streams::silent()?)
        .await
    {
        Err(ReleaseError::CommandNotFound { program }) => ensure!(
            Some(&program) == wanted.first(),
            "the error names {program:?}"
        ),
        other => {
            return Err(Violation::new(format!(
                "releasing a command that does not exist gives {other:?}"
            )));
        }
    }
    absent.destroy().await?;

    let unfit = cell(&subject, "unfit", Probe::NotExecutable).await?;
    let answer = unfit
        .control()?
        .release(unfit.id(), streams::silent()?)
        .await;
    ensure!(
        matches!(answer, Err(ReleaseError::NotExecutable { .. })),
        "releasing a command that cannot be executed gives {answer:?}"
    );
    unfit.destroy().await
}

/// `SIGTERM` reaches the workload.
///
/// # Errors
/// [`Violation`].
pub async fn terminate_ends_a_sleeper(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "sleeper", Probe::Sleep).await?;
    cell.release(streams::silent()?).await?;
    cell.control()?
        .stop(cell.id(), StopSignal::Terminate)
        .await?;
    let code = cell.end().await?;
    ensure!(code == TERMINATED, "a terminated sleeper ended with {code}");
    cell.destroy().await
}

/// `SIGTERM` can be ignored, `SIGKILL` cannot.
///
/// # Errors
/// [`Violation`].
pub async fn kill_ends_what_ignores_terminate(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "stubborn", Probe::IgnoreTerminate).await?;
    let (streams, taps) = streams::pipes()?;
    cell.release(streams).await?;
    let (line, _taps) = taps.first_line().await?;
    ensure!(line == "ready", "the workload said {line:?}");
    cell.control()?
        .stop(cell.id(), StopSignal::Terminate)
        .await?;
    let early = tokio::time::timeout(WATCH, cell.backend.wait_for_in_vm_exit(cell.id())).await;
    ensure!(
        early.is_err(),
        "a workload that ignores SIGTERM ended on it with {early:?}"
    );
    cell.control()?.stop(cell.id(), StopSignal::Kill).await?;
    let code = cell.end().await?;
    ensure!(code == KILLED, "a killed workload ended with {code}");
    cell.destroy().await
}

/// Stopping an unknown cell or an ended workload is not an error, and does not change its end.
///
/// # Errors
/// [`Violation`].
pub async fn stopping_what_has_ended_is_no_error(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "ended", Probe::Exit(4)).await?;
    cell.run_to_end().await?;
    for how in [StopSignal::Terminate, StopSignal::Kill] {
        cell.control()?.stop(cell.id(), how).await?;
        cell.control()?.stop("nobody", how).await?;
    }
    let code = cell.end().await?;
    ensure!(
        code == 4,
        "stopping an ended workload changed its code to {code}"
    );
    cell.destroy().await
}

/// Destroying ends a running workload; whoever waits for it gets an answer, and never a success.
///
/// # Errors
/// [`Violation`].
pub async fn destroying_a_running_cell_kills_it(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "doomed", Probe::Sleep).await?;
    let released = cell.release(streams::silent()?).await?;
    let process = format!("/proc/{}/stat", released.pid);
    let running = fs::read_to_string(&process)
        .map_err(|error| Violation::new(format!("the released process {process}: {error}")))?;
    let (backend, id) = (Arc::clone(&cell.backend), cell.id().to_owned());
    let waiter = tokio::spawn(async move { backend.wait_for_in_vm_exit(&id).await });
    tokio::time::sleep(WATCH).await;
    ensure!(!waiter.is_finished(), "a sleeping workload has ended");

    cell.destroy().await?;
    let end = joined(promptly("the waiter of a destroyed cell", waiter).await?)?;
    ensure!(
        end != Some(Ok(0)),
        "the waiter of a killed workload was told that it succeeded"
    );
    let after = fs::read_to_string(&process).ok();
    ensure!(
        after.as_deref().and_then(start_time) != start_time(&running),
        "process {} still exists after destroy returned",
        released.pid
    );
    Ok(())
}

/// Field 22 of `/proc/PID/stat`, which tells a process from a later one of the same number.
fn start_time(stat: &str) -> Option<&str> {
    let close = stat.rfind(')')?;
    stat.get(close + 1..)?.split_whitespace().nth(19)
}

/// Questions about unknown cells are errors, and the error names the cell.
///
/// # Errors
/// [`Violation`].
pub async fn knows_nothing_of_unknown_cells(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    let control = control(&*backend)?;
    let answers = [
        (
            "posture",
            control.posture("nobody").await.err().map(|e| e.to_string()),
        ),
        (
            "exit_report",
            control
                .exit_report("nobody")
                .await
                .err()
                .map(|e| e.to_string()),
        ),
        (
            "working_folder",
            control
                .working_folder("nobody")
                .await
                .err()
                .map(|e| e.to_string()),
        ),
        (
            "release",
            control
                .release("nobody", streams::silent()?)
                .await
                .err()
                .map(|e| e.to_string()),
        ),
    ];
    for (call, error) in answers {
        match error {
            None => {
                return Err(Violation::new(format!(
                    "{call} of an unknown cell succeeds"
                )));
            }
            Some(text) => ensure!(
                text.contains("nobody"),
                "{call} does not name the unknown cell: {text}"
            ),
        }
    }
    Ok(())
}

/// There is no exit report of a workload that is parked or runs.
///
/// # Errors
/// [`Violation`].
pub async fn has_no_exit_report_before_the_end(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "unended", Probe::Sleep).await?;
    let parked = cell.control()?.exit_report(cell.id()).await;
    ensure!(
        parked.is_err(),
        "a parked workload has an exit report: {parked:?}"
    );
    cell.release(streams::silent()?).await?;
    let running = cell.control()?.exit_report(cell.id()).await;
    ensure!(
        running.is_err(),
        "a running workload has an exit report: {running:?}"
    );
    cell.destroy().await
}

/// What the descriptor calls enforced shows in what the kernel reports.
///
/// # Errors
/// [`Violation`].
pub async fn posture_shows_what_the_descriptor_promises(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    let descriptor = backend.descriptor();
    let mut document = subject.document("looked-at");
    let limits = RunLimits {
        memory_max_bytes: descriptor.has(Feature::Memory).then_some(256 << 20),
        cpu_max: descriptor.has(Feature::Cpu).then_some(RunCpuMax {
            quota_micros: 50_000,
            period_micros: None,
        }),
        graceful_shutdown_seconds: None,
        pids_max: descriptor.has(Feature::Pids).then_some(64),
    };
    let limited =
        limits.memory_max_bytes.is_some() || limits.cpu_max.is_some() || limits.pids_max.is_some();
    if let Some(run) = &mut document.spec.run {
        run.argv = subject.command(Probe::Sleep);
        run.limits = limited.then_some(limits);
    }
    let handle = backend.create(&document).await?;
    let cell = Cell { backend, handle };

    let parked = cell.posture("parked").await?;
    cell.release(streams::silent()?).await?;
    let running = cell.posture("running").await?;
    for (state, posture) in [("parked", &parked), ("running", &running)] {
        let private: Vec<_> = posture.private_namespaces().collect();
        for (feature, namespace) in [
            (Feature::Processes, "pid"),
            (Feature::Network, "net"),
            (Feature::Filesystem, "mnt"),
        ] {
            ensure!(
                !descriptor.has(feature) || private.contains(&namespace),
                "{feature} is promised, and the {state} workload's {namespace} namespace is the \
                 host's"
            );
        }
        let own = fs::read_to_string("/proc/self/cgroup")?;
        ensure!(
            !limited
                || posture
                    .cgroups
                    .values()
                    .any(|path| !own.lines().any(|line| line.ends_with(&format!(":{path}")))),
            "limits are promised, and the {state} workload is in no control group of its own: {:?}",
            posture.cgroups
        );
    }
    ensure!(
        parked.namespaces == running.namespaces,
        "the namespaces changed with the release: {:?} became {:?}",
        parked.namespaces,
        running.namespaces
    );
    cell.destroy().await
}

/// The measured teardown has looked at something, found nothing, and reports like `destroy`.
///
/// # Errors
/// [`Violation`].
pub async fn measures_that_nothing_is_left(subject: Subject) -> CaseResult {
    let cell = cell(&subject, "measured", Probe::Sleep).await?;
    cell.release(streams::silent()?).await?;
    let (report, residue) = promptly(
        "destroy_and_measure",
        cell.control()?.destroy_and_measure(&cell.handle),
    )
    .await??;
    ensure!(
        report.destroyed && report.cell_id == cell.id(),
        "the measured teardown of a live cell reports {report:?}"
    );
    ensure!(!residue.looked_for.is_empty(), "nothing was looked for");
    ensure!(
        residue.found.is_empty(),
        "left: {}",
        residue.found.join(", ")
    );
    let again = tokio::time::timeout(PROMPT, cell.backend.destroy(&cell.handle)).await;
    ensure!(
        !matches!(again, Ok(Ok(report)) if report.destroyed),
        "the cell was still there after its measured teardown"
    );
    Ok(())
}
