//! The phases in which the command is let run and ends.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use cellos_core::{
    document::RunSpec,
    event::{
        CommandCompleted, DeclaredRun, EndedBy, NetworkEnforcement, ProcessSpawned, TerminalState,
    },
    ports::{CellHandle, workload::Streams},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Run, Skip, text};
use crate::{
    Phase, RunError, bounds,
    deadline::Deadline,
    host_runner::protocol::Launch,
    outcome::signal_of,
    output::OutputMark,
    workload::{Cause, Ending, Urgency, Workload},
};

/// `PATH` of commands on the host, as published.
const HOST_PATH: &str = "/usr/bin:/bin:/usr/local/bin";

impl Run<'_> {
    pub(super) async fn command(
        &mut self,
        cell: &CellHandle,
        streams: Streams,
    ) -> Result<(), Skip> {
        let Some(run) = &self.spec.run else {
            self.outcome.ended_by = EndedBy::NoCommand;
            return Ok(());
        };
        self.enter(Phase::Release);
        self.stop_if_asked()?;
        if Instant::now() >= self.ttl.at {
            self.outcome.ended_by = self.ttl.source.ended_by();
            return Err(self.fail(RunError::Deadline(self.ttl.source)));
        }
        let supervisor = self.supervisor;
        let output = OutputMark::of(&streams);
        let starting = Workload::start(
            &*supervisor.backend,
            supervisor.host_runner.as_ref(),
            cell,
            launch(run),
            streams,
        );
        let released = tokio::select! {
            biased;
            released = starting => released.map_err(RunError::Release),
            // A start takes milliseconds. It is waited for, so that the command gets the chance to
            // end politely, but not for ever.
            signal = async {
                let signal = self.stop.noticed().await;
                sleep(bounds::STOP).await;
                signal
            } => {
                Err(RunError::Stopped { signal, phase: Phase::Release })
            }
            () = sleep_until(self.ttl.at) => Err(RunError::Deadline(self.ttl.source)),
        };
        let workload = match released {
            Ok(workload) => workload,
            Err(error) => return self.command_not_started(run, error).await,
        };
        let started = Instant::now();
        let deadline = Deadline::nearest(
            self.ttl,
            started,
            run.timeout_ms,
            self.facts.operator_timeout,
        );
        let backends = workload.is_backends();
        let spawned = ProcessSpawned {
            program: run.argv.first().cloned().unwrap_or_default(),
            argc: run.argv.len(),
            pid: workload.pid(),
            observed: workload.pid().is_some(),
        };
        let urgency = match self.emit(&spawned).await {
            Ok(()) => Urgency::None,
            Err(Skip) => Urgency::EvidenceUnwritable,
        };
        self.enter(Phase::Run);
        let unwritable = self.release_reports();
        let ending = workload
            .wait(deadline, grace(run), &mut self.stop, urgency, unwritable)
            .await;
        self.outcome.output = Some(
            supervisor
                .backend
                .workload()
                .and_then(|control| control.output_bytes(&cell.cell_id))
                .map_or_else(|| output.measure(), Into::into),
        );
        drop(output);
        self.terminal_state = backends.then_some(match (&ending.cause, &ending.end) {
            (Cause::Own, Ok(_)) => TerminalState::Clean,
            _ => TerminalState::Forced,
        });
        self.command_ended(run, ending, started.elapsed()).await
    }

    /// The command did not start; that is an end too. One that was interrupted may start yet,
    /// and dies with its cell.
    async fn command_not_started(&mut self, run: &RunSpec, error: RunError) -> Result<(), Skip> {
        self.outcome.ended_by = match &error {
            RunError::Stopped { .. } => EndedBy::SupervisorSignal,
            RunError::Deadline(source) => source.ended_by(),
            other if other.reason().is_some() => EndedBy::Refused,
            _ => EndedBy::NotStarted,
        };
        if let RunError::Stopped { signal, .. } = &error {
            self.outcome.stop_signal = Some(*signal);
        }
        let text = match &error {
            RunError::Deadline(source) => source.to_string(),
            other => other.to_string(),
        };
        let skip = self.fail(error);
        self.close_network().await;
        self.completed(run, Some(text), Duration::ZERO).await?;
        Err(skip)
    }

    async fn command_ended(
        &mut self,
        run: &RunSpec,
        ending: Ending,
        duration: Duration,
    ) -> Result<(), Skip> {
        self.outcome.ended_by = ending.ended_by();
        self.outcome.left_over_processes = ending.left_over;
        self.outcome.end = ending.end.as_ref().ok().copied();
        self.outcome.residue = ending.residue.clone();
        if let Cause::Stopped(signal) = ending.cause {
            self.outcome.stop_signal = Some(signal);
        }
        let failures = ending.failures(Phase::Run);
        let text = match (&ending.cause, &ending.end) {
            (Cause::Deadline(source), _) => Some(source.to_string()),
            (_, Err(lost)) => Some(lost.to_string()),
            _ => None,
        };
        self.outcome.exit_report = ending.report;
        self.working_folder = ending.folder;
        for failure in failures {
            self.note(Err(failure));
        }
        self.close_network().await;
        let failed = self.outcome.first_error.is_some();
        self.completed(run, text, duration).await?;
        if failed { Err(Skip) } else { Ok(()) }
    }

    /// Writes `command.completed`. With a `spawn_error` the code is the published -1.
    async fn completed(
        &mut self,
        run: &RunSpec,
        spawn_error: Option<String>,
        duration: Duration,
    ) -> Result<(), Skip> {
        let exit_code = match (&spawn_error, self.outcome.end) {
            (None, Some(end)) => end.shell_code(),
            _ => -1,
        };
        self.command_exit_code = Some(exit_code);
        let spawn_error = spawn_error.map(text::cut);
        if let Some(mode) = self.network_mode() {
            self.queue(&NetworkEnforcement::by_gateway(
                self.spec,
                mode,
                exit_code,
                spawn_error.clone(),
            ))?;
        }
        let report = self.outcome.exit_report.as_ref();
        let completed = CommandCompleted {
            argv: run.argv.clone(),
            exit_code,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            spawn_error,
            ended_by: self.outcome.ended_by,
            signal: signal_of(self.outcome.end),
            usage: report.map(|report| (&report.usage).into()),
            limits_hit: report
                .map(|report| report.limits_hit.iter().copied().map(Into::into).collect())
                .unwrap_or_default(),
            declared: Some(DeclaredRun::of(self.spec)),
        };
        self.emit(&completed).await?;
        self.flush().await
    }
}

/// What a command on the host is started with.
fn launch(run: &RunSpec) -> Launch {
    let mut env = BTreeMap::from([("PATH".to_owned(), HOST_PATH.to_owned())]);
    env.extend(run.env.clone());
    Launch {
        argv: run.argv.clone(),
        env,
        working_directory: run.working_directory.as_ref().map(PathBuf::from),
        cgroup: None,
    }
}

fn grace(run: &RunSpec) -> Duration {
    run.limits
        .as_ref()
        .and_then(|limits| limits.graceful_shutdown_seconds)
        .map_or(bounds::GRACE, Duration::from_secs)
}
