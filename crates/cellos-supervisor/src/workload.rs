//! Starting a workload, waiting for its end, and ending it.

use std::{future::Future, path::Path, pin::Pin, time::Duration};

use cellos_core::{
    CellosError,
    event::EndedBy,
    ports::{
        CellBackend, CellHandle,
        workload::{
            ExitReport, LimitHit, Loss, ReleaseError, Residue, StopSignal, Streams, WorkingFolder,
            WorkloadControl, WorkloadEnd,
        },
    },
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    DeadlineSource, HostRunner, RunError, StopRequests, SupervisorSignal, artifact, bounds,
    deadline::Deadline,
    error::no_answer,
    host_runner::{HostEnd, HostProcess, protocol::Launch},
};

/// How long a backend without [`WorkloadControl`] may take to say that it runs nothing. One that
/// runs the workload does not answer before that has ended.
const RUNS_NOTHING_BOUND: Duration = Duration::from_millis(100);

type BridgeWait<'a> = Pin<Box<dyn Future<Output = Option<Result<i32, CellosError>>> + Send + 'a>>;

/// A workload whose program has been executed.
pub(crate) enum Workload<'a> {
    /// The backend runs it and gives control over it.
    Controlled {
        backend: &'a dyn CellBackend,
        control: &'a dyn WorkloadControl,
        cell_id: &'a str,
        pid: u32,
    },
    /// The backend runs it and only tells when it has ended.
    Bridged { wait: BridgeWait<'a> },
    /// A host subprocess of ours.
    Host {
        process: Box<HostProcess>,
        folder: Option<WorkingFolder>,
    },
}

impl<'a> Workload<'a> {
    /// Lets the workload run.
    pub(crate) async fn start(
        backend: &'a dyn CellBackend,
        runner: Option<&HostRunner>,
        cell: &'a CellHandle,
        mut launch: Launch,
        streams: Streams,
    ) -> Result<Self, ReleaseError> {
        if let Some(control) = backend.workload() {
            let released = timeout(bounds::RELEASE, control.release(&cell.cell_id, streams))
                .await
                .map_err(|_| CellosError::Host(no_answer("release", bounds::RELEASE)))??;
            return Ok(Self::Controlled {
                backend,
                control,
                cell_id: &cell.cell_id,
                pid: released.pid,
            });
        }
        let mut wait = backend.wait_for_in_vm_exit(&cell.cell_id);
        match timeout(RUNS_NOTHING_BOUND, &mut wait).await {
            Err(_) => Ok(Self::Bridged { wait }),
            Ok(Some(ended)) => Ok(Self::Bridged {
                wait: Box::pin(std::future::ready(Some(ended))),
            }),
            Ok(None) => {
                let runner = runner.ok_or_else(|| {
                    CellosError::Host(
                        "the backend runs no commands and no host runner is configured".into(),
                    )
                })?;
                launch.cgroup.clone_from(&cell.cgroup_path);
                let folder = artifact::host_folder(
                    launch
                        .working_directory
                        .as_deref()
                        .unwrap_or(Path::new(".")),
                )
                .ok();
                let process = timeout(
                    bounds::RELEASE,
                    HostProcess::launch(runner, launch, streams),
                )
                .await
                .map_err(|_| CellosError::Host(no_answer("host runner", bounds::RELEASE)))??;
                Ok(Self::Host {
                    process: Box::new(process),
                    folder,
                })
            }
        }
    }

    /// Process id on the host, where it is known.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Controlled { pid, .. } => Some(*pid),
            Self::Host { process, .. } => Some(process.pid()),
            Self::Bridged { .. } => None,
        }
    }

    /// Whether the backend, not the supervisor, runs the workload.
    pub(crate) fn is_backends(&self) -> bool {
        !matches!(self, Self::Host { .. })
    }

    /// Waits for the end, and brings it about when the deadline passes, somebody asks, or evidence
    /// turns out to be unwritable.
    pub(crate) async fn wait(
        self,
        deadline: Deadline,
        grace: Duration,
        stop: &mut StopRequests,
        urgency: Urgency,
        unwritable: impl Future<Output = ()>,
    ) -> Ending {
        let bounds = Bounds {
            deadline,
            grace,
            urgency,
        };
        match self {
            Self::Controlled {
                backend,
                control,
                cell_id,
                ..
            } => {
                let exit = controlled_exit(backend, control, cell_id);
                let signaller = Signaller::Control(control, cell_id);
                let mut ending = wait(exit, &signaller, bounds, stop, unwritable).await;
                if ending.end.is_err() {
                    ending.loss = control.loss(cell_id);
                }
                ending
            }
            Self::Bridged { wait: ended } => {
                let exit = bridged_exit(ended);
                wait(exit, &Signaller::Nobody, bounds, stop, unwritable).await
            }
            Self::Host { process, folder } => {
                let exit = host_exit(&process);
                let signaller = Signaller::Host(&process);
                let mut ending = wait(exit, &signaller, bounds, stop, unwritable).await;
                process.finish().await;
                ending.folder = folder;
                ending
            }
        }
    }
}

/// Whether the workload may run or has to end at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It may run.
    None,
    /// It has to end, because its evidence cannot be written.
    EvidenceUnwritable,
}

/// Why a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// On its own, as far as the supervisor is concerned.
    Own,
    Deadline(DeadlineSource),
    Stopped(SupervisorSignal),
    EvidenceUnwritable,
}

/// How a workload ended.
pub(crate) struct Ending {
    pub(crate) cause: Cause,
    /// What is known about it, or why nothing is.
    pub(crate) end: Result<WorkloadEnd, CellosError>,
    pub(crate) report: Option<ExitReport>,
    pub(crate) left_over: u64,
    pub(crate) residue: Option<Residue>,
    pub(crate) errors: Vec<RunError>,
    /// The working folder of a host subprocess.
    pub(crate) folder: Option<WorkingFolder>,
    /// How sight of it was lost, where its end is not known.
    pub(crate) loss: Option<Loss>,
}

impl Ending {
    fn new(cause: Cause, seen: Result<Seen, CellosError>, mut errors: Vec<RunError>) -> Self {
        let (end, report, left_over, residue) = match seen {
            Ok(seen) => {
                errors.extend(seen.error.map(RunError::ExitReport));
                (Ok(seen.end), seen.report, seen.left_over, seen.residue)
            }
            Err(error) => (Err(error), None, 0, None),
        };
        Self {
            cause,
            end,
            report,
            left_over,
            residue,
            errors,
            folder: None,
            loss: None,
        }
    }

    /// The limit that ended the workload, if one did: the kernel kills for memory with SIGKILL,
    /// and a shell in between passes that on as a code.
    fn fatal_limit(&self) -> Option<LimitHit> {
        let killed = matches!(&self.end, Ok(end) if end.shell_code() == 128 + 9);
        self.report
            .iter()
            .flat_map(|report| &report.limits_hit)
            .copied()
            .find(|hit| killed && matches!(hit, LimitHit::Memory { kills, .. } if *kills > 0))
    }

    /// Who or what ended it.
    pub(crate) fn ended_by(&self) -> EndedBy {
        match (self.cause, &self.end) {
            (Cause::Deadline(source), _) => source.ended_by(),
            (Cause::Stopped(_), _) => EndedBy::SupervisorSignal,
            (Cause::EvidenceUnwritable, _) => EndedBy::EvidenceUnwritable,
            (Cause::Own, Err(_)) => EndedBy::Lost,
            (Cause::Own, Ok(WorkloadEnd::Backstop)) => EndedBy::Backstop,
            (Cause::Own, Ok(_)) if self.fatal_limit().is_some() => EndedBy::Limit,
            (Cause::Own, Ok(WorkloadEnd::Exited { .. })) => EndedBy::Exited,
            (Cause::Own, Ok(WorkloadEnd::Signalled { .. })) => EndedBy::Signalled,
        }
    }

    /// The failures this end means, in the order they count.
    pub(crate) fn failures(&self, phase: crate::Phase) -> Vec<RunError> {
        let mut failures = Vec::new();
        match self.cause {
            Cause::Deadline(source) => failures.push(RunError::Deadline(source)),
            Cause::Stopped(signal) => failures.push(RunError::Stopped { signal, phase }),
            Cause::EvidenceUnwritable => {}
            Cause::Own => match self.end {
                Ok(WorkloadEnd::Backstop) => failures.push(RunError::Backstop),
                Ok(end) => failures.extend(match (self.fatal_limit(), end) {
                    (Some(hit), _) => Some(RunError::Limit { hit }),
                    (None, WorkloadEnd::Exited { code: 0 }) => None,
                    (None, WorkloadEnd::Signalled { signal }) => {
                        Some(RunError::Signalled { signal })
                    }
                    (None, end) => Some(RunError::Exited {
                        code: end.shell_code(),
                    }),
                }),
                Err(_) => {}
            },
        }
        failures.extend(
            self.end
                .as_ref()
                .err()
                .cloned()
                .map(|source| RunError::Lost {
                    source,
                    loss: self.loss,
                }),
        );
        failures.extend(self.errors.iter().cloned());
        failures
    }
}

/// What was seen of an end.
struct Seen {
    end: WorkloadEnd,
    report: Option<ExitReport>,
    left_over: u64,
    residue: Option<Residue>,
    error: Option<CellosError>,
}

/// How far the supervisor has gone to end the workload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Terminating,
    Killing,
}

/// When a workload has to end.
#[derive(Clone, Copy)]
struct Bounds {
    deadline: Deadline,
    grace: Duration,
    urgency: Urgency,
}

async fn wait(
    exit: impl Future<Output = Result<Seen, CellosError>>,
    signaller: &Signaller<'_>,
    bounds: Bounds,
    stop: &mut StopRequests,
    unwritable: impl Future<Output = ()>,
) -> Ending {
    let Bounds {
        deadline,
        grace,
        urgency,
    } = bounds;
    tokio::pin!(exit, unwritable);
    let mut evidence_fails = false;
    let mut errors = Vec::new();
    let mut stage = Stage::Running;
    let mut cause = Cause::Own;
    let mut wake = deadline.at;
    if urgency == Urgency::EvidenceUnwritable {
        cause = Cause::EvidenceUnwritable;
        wake = Instant::now();
    }
    loop {
        // An end that has been seen comes before a deadline that passes at the same moment.
        tokio::select! {
            biased;
            seen = &mut exit => return Ending::new(cause, seen, errors),
            signal = stop.next() => {
                if stage == Stage::Killing {
                    continue;
                }
                if stage == Stage::Running && cause == Cause::Own {
                    cause = Cause::Stopped(signal);
                }
            }
            () = &mut unwritable, if !evidence_fails => {
                evidence_fails = true;
                if stage == Stage::Killing {
                    continue;
                }
                if stage == Stage::Running && cause == Cause::Own {
                    cause = Cause::EvidenceUnwritable;
                }
            }
            () = sleep_until(wake) => {
                if stage == Stage::Killing {
                    let lost = no_answer("a killed workload", crate::bounds::KILL);
                    return Ending::new(cause, Err(CellosError::Host(lost)), errors);
                }
                if stage == Stage::Running && cause == Cause::Own {
                    cause = Cause::Deadline(deadline.source);
                }
            }
        }
        if matches!(signaller, Signaller::Nobody) {
            let lost = CellosError::Host(
                "the backend offers no way to end the workload; its cell is destroyed".into(),
            );
            return Ending::new(cause, Err(lost), errors);
        }
        let polite =
            stage == Stage::Running && cause != Cause::EvidenceUnwritable && !grace.is_zero();
        if polite {
            match signaller.send(StopSignal::Terminate).await {
                Ok(()) => {
                    stage = Stage::Terminating;
                    wake = Instant::now() + grace;
                    if matches!(cause, Cause::Stopped(_)) {
                        wake = wake.min(deadline.at);
                    }
                    continue;
                }
                Err(error) => errors.push(RunError::Stop(error)),
            }
        }
        stage = Stage::Killing;
        if let Err(error) = signaller.send(StopSignal::Kill).await {
            errors.push(RunError::Stop(error));
        }
        wake = Instant::now() + crate::bounds::KILL;
    }
}

/// Who can signal a workload.
enum Signaller<'a> {
    Control(&'a dyn WorkloadControl, &'a str),
    Host(&'a HostProcess),
    Nobody,
}

impl Signaller<'_> {
    async fn send(&self, how: StopSignal) -> Result<(), CellosError> {
        let sent = async {
            match self {
                Self::Control(control, cell_id) => control.stop(cell_id, how).await,
                Self::Host(process) => process.stop(how).await,
                Self::Nobody => Ok(()),
            }
        };
        timeout(bounds::STOP, sent)
            .await
            .unwrap_or_else(|_| Err(CellosError::Host(no_answer("stop", bounds::STOP))))
    }
}

async fn controlled_exit(
    backend: &dyn CellBackend,
    control: &dyn WorkloadControl,
    cell_id: &str,
) -> Result<Seen, CellosError> {
    let code = match backend.wait_for_in_vm_exit(cell_id).await {
        Some(code) => code?,
        None => {
            return Err(CellosError::Host(
                "the backend let the workload run and then said that it runs nothing".into(),
            ));
        }
    };
    let report = timeout(bounds::QUERY, control.exit_report(cell_id))
        .await
        .unwrap_or_else(|_| Err(CellosError::Host(no_answer("exit_report", bounds::QUERY))));
    let mut seen = Seen {
        end: WorkloadEnd::Exited { code },
        report: None,
        left_over: 0,
        residue: None,
        error: None,
    };
    match report {
        Ok(report) => {
            seen.end = report.end;
            if report.end.shell_code() != code {
                seen.error = Some(CellosError::Host(format!(
                    "the backend's exit code is {code}, its exit report says {}",
                    report.end.shell_code()
                )));
            }
            seen.report = Some(report);
        }
        Err(error) => seen.error = Some(error),
    }
    Ok(seen)
}

async fn bridged_exit(wait: BridgeWait<'_>) -> Result<Seen, CellosError> {
    let code = wait.await.unwrap_or_else(|| {
        Err(CellosError::Host(
            "the backend said too late that it runs nothing".into(),
        ))
    })?;
    Ok(Seen {
        end: WorkloadEnd::Exited { code },
        report: None,
        left_over: 0,
        residue: None,
        error: None,
    })
}

async fn host_exit(process: &HostProcess) -> Result<Seen, CellosError> {
    let HostEnd {
        end,
        usage,
        left_over,
        residue,
    } = process.wait().await?;
    Ok(Seen {
        end,
        report: Some(ExitReport {
            end,
            usage,
            limits_hit: Vec::new(),
        }),
        left_over,
        residue: Some(Residue {
            looked_for: vec!["processes".into()],
            found: residue,
        }),
        error: None,
    })
}
