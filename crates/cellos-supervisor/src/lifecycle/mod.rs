//! The life of a cell:
//!
//! ```text
//! record ─ create ─ started ─ inspect ─ release ─ run ─ export ─ destroy ─ destroyed
//! ```
//!
//! Each phase's event is written before the next phase begins. A phase that fails skips the
//! phases after it up to `destroy`, which always runs.

mod command;
mod exports;
mod network;
mod text;

use std::{sync::Arc, time::Duration};

use cellos_core::{
    CellosError, ExecutionCellSpec,
    canonical::canonical_spec_hash,
    event::{
        self, AdmissionAllowed, ComplianceSummary, ContainerSecurity, Declared, Destroyed, EndedBy,
        EventKind, Failed, Homeostasis, Lineage, NetworkMode, NetworkPolicy, NetworkScope,
        NoticeEvent, Outcome, ResidueClass, Started, Subject, TerminalState,
        UniversalTokenAccepted,
    },
    ports::{
        CellHandle,
        workload::{Streams, WorkingFolder},
    },
};
use tokio::time::{Instant, timeout};

use crate::{
    EventsLog, Phase, PhaseTiming, RunError, RunOutcome, RunRequest, StopRequests, Supervisor,
    bounds,
    deadline::Deadline,
    error::no_answer,
    journal::{Journal, new_id},
    outcome::signal_of,
    state::{LogFormat, RECORD_FORMAT_VERSION, RunLease, RunRecord},
};

use network::Network;

/// Runs one cell.
pub(crate) async fn run(
    supervisor: &Supervisor,
    request: RunRequest,
    stop: StopRequests,
) -> RunOutcome {
    let RunRequest {
        streams, document, ..
    } = request;
    let spec = &document.spec;
    let mut run = Run {
        journal: Journal::new(
            Arc::clone(&supervisor.events),
            Arc::clone(&supervisor.clock),
            Subject::of(spec, &request.run_id).with_document(&request.raw_spec_sha256),
        ),
        facts: Facts {
            raw_spec_sha256: request.raw_spec_sha256,
            operator_timeout: request.operator_timeout,
            derivation: request.derivation,
            admission: request.admission,
            universal_token: request.universal_token,
            session_id: ulid::Ulid::generate().to_string(),
            started_event_id: new_id(),
            backend: supervisor.backend.descriptor().name.into_owned(),
            network_mode: None,
        },
        network: Network::None,
        ttl: Deadline::ttl(Instant::now(), spec.lifetime.ttl_seconds),
        phase: (Phase::Record, Instant::now()),
        started: false,
        command_exit_code: None,
        terminal_state: None,
        working_folder: None,
        outcome: RunOutcome {
            run_id: request.run_id,
            cell_id: spec.id.clone(),
            ended_by: EndedBy::NotStarted,
            end: None,
            stop_signal: None,
            exit_report: None,
            posture: None,
            teardown: None,
            residue: None,
            left_over_processes: 0,
            output: None,
            egress: None,
            artifacts: Vec::new(),
            timings: Vec::new(),
            first_error: None,
            later_errors: Vec::new(),
        },
        supervisor,
        spec,
        stop,
    };

    if let Ok(mut lease) = run.take_record(request.events_log) {
        run.queue_admission();
        let last_event_written = match run.create(&document).await {
            Ok(cell) => {
                // Its errors are kept by the run; what follows happens either way.
                let _ = run.live(&cell, &mut lease, streams).await;
                run.close_network().await;
                run.destroy(&cell).await;
                run.sum_up().await
            }
            Err(Skip) => LastEvent::NotNeeded,
        };
        run.close(lease, last_event_written);
    }
    run.enter(Phase::Close);
    run.outcome
}

/// The rest of the phases up to teardown is skipped; the error is kept.
struct Skip;

/// Whether the run's `destroyed` event is where it belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastEvent {
    Written,
    Missing,
    NotNeeded,
}

/// What is known before the cell exists.
struct Facts {
    raw_spec_sha256: String,
    operator_timeout: Option<Duration>,
    derivation: Option<crate::DerivationFacts>,
    admission: Option<AdmissionAllowed>,
    universal_token: Option<UniversalTokenAccepted>,
    session_id: String,
    started_event_id: String,
    backend: String,
    /// Of a cell with a network.
    network_mode: Option<NetworkMode>,
}

struct Run<'a> {
    supervisor: &'a Supervisor,
    spec: &'a ExecutionCellSpec,
    journal: Journal,
    network: Network,
    facts: Facts,
    stop: StopRequests,
    /// The end of the cell's life, counted from before its creation.
    ttl: Deadline,
    phase: (Phase, Instant),
    started: bool,
    command_exit_code: Option<i32>,
    terminal_state: Option<TerminalState>,
    /// Of a host subprocess; other workloads' folders are asked for.
    working_folder: Option<WorkingFolder>,
    outcome: RunOutcome,
}

/// The phases, in order.
impl<'a> Run<'a> {
    fn take_record(&mut self, events_log: Option<EventsLog>) -> Result<Option<RunLease>, Skip> {
        let Some(state) = &self.supervisor.state else {
            return Ok(None);
        };
        let subject = self.journal.subject();
        let (events_file, events_format) = match events_log {
            Some(log) => (Some(log.file), log.format),
            None => (None, LogFormat::default()),
        };
        let record = RunRecord {
            format_version: RECORD_FORMAT_VERSION,
            run_id: self.outcome.run_id.clone(),
            cell_id: subject.cell_id.clone(),
            spec_id: subject.spec_id.clone(),
            correlation: subject.correlation.clone(),
            ttl_seconds: self.spec.lifetime.ttl_seconds,
            backend: self.facts.backend.clone(),
            created_at: self.supervisor.clock.now().to_string(),
            supervisor_pid: std::process::id(),
            session_id: self.facts.session_id.clone(),
            started_event_id: self.facts.started_event_id.clone(),
            // A later process has another current folder.
            events_file: events_file.map(|path| std::path::absolute(&path).unwrap_or(path)),
            events_format,
            document_digest: subject.document_digest.clone(),
            cgroup_path: None,
            reason: None,
        };
        match state.begin(record) {
            Ok(lease) => Ok(Some(lease)),
            Err(error) => Err(self.fail(RunError::State(error))),
        }
    }

    /// That the document was admitted is written with the run's first event.
    fn queue_admission(&mut self) {
        if let Some(admission) = self.facts.admission.take() {
            let queued = self.journal.queue(&admission);
            self.note(queued);
        }
    }

    async fn create(
        &mut self,
        document: &cellos_core::ExecutionCellDocument,
    ) -> Result<CellHandle, Skip> {
        self.enter(Phase::Create);
        self.ttl = Deadline::ttl(Instant::now(), self.spec.lifetime.ttl_seconds);
        let (error, answered) = match self.prepare_network().await {
            Ok(()) => {
                let creating = self.supervisor.backend.create(document);
                match timeout(bounds::CREATE, creating).await {
                    Ok(Ok(cell)) => return self.created(cell).await,
                    Ok(Err(error)) => (RunError::Create(error), true),
                    Err(_) => {
                        let error = CellosError::Host(no_answer("create", bounds::CREATE));
                        (RunError::Create(error), false)
                    }
                }
            }
            Err(error) => (RunError::Network(error), true),
        };
        let failed = Failed {
            ttl_seconds: self.spec.lifetime.ttl_seconds,
            backend: self.facts.backend.clone(),
            reason: match &error {
                RunError::Create(error) => error.to_string(),
                error => error.to_string(),
            },
            spec_hash: Some(self.facts.raw_spec_sha256.clone()),
            placement: event::placement(self.spec),
            tenant_id: self.journal.subject().tenant_id().map(str::to_owned),
        };
        let skip = self.fail(error);
        let noticed = self.emit_notices().await;
        self.note(noticed);
        if !answered {
            // Half a cell may exist under this id. A backend that refused it as a duplicate of a
            // live one would have answered.
            self.destroy(&bare_handle(&self.spec.id)).await;
        }
        let written = self.journal.emit(&failed).await;
        self.note(written);
        let flushed = self.journal.flush().await;
        self.note(flushed);
        Err(skip)
    }

    /// Puts on record what the backend has to say about the creation. A cell whose record cannot
    /// be written is taken apart again.
    async fn created(&mut self, cell: CellHandle) -> Result<CellHandle, Skip> {
        match self.emit_notices().await {
            Ok(()) => Ok(cell),
            Err(error) => {
                let skip = self.fail(error);
                self.destroy(&cell).await;
                Err(skip)
            }
        }
    }

    async fn emit_notices(&mut self) -> Result<(), RunError> {
        let Some(control) = self.supervisor.backend.workload() else {
            return Ok(());
        };
        for notice in control.take_notices(&self.spec.id) {
            match notice.into() {
                NoticeEvent::ManifestFailed(data) => self.journal.emit(&data).await?,
                NoticeEvent::PoolCheckout(data) => self.journal.emit(&data).await?,
            }
        }
        Ok(())
    }

    /// Everything between creation and teardown.
    async fn live(
        &mut self,
        cell: &CellHandle,
        lease: &mut Option<RunLease>,
        streams: Streams,
    ) -> Result<(), Skip> {
        self.record_cell(cell, lease)?;
        self.open_network(cell).await?;
        self.start(cell).await?;
        self.inspect(cell).await?;
        self.command(cell, streams).await?;
        self.export(cell).await
    }

    fn record_cell(&mut self, cell: &CellHandle, lease: &mut Option<RunLease>) -> Result<(), Skip> {
        if let (Some(lease), Some(cgroup)) = (lease, &cell.cgroup_path) {
            lease
                .update(|record| record.cgroup_path = Some(cgroup.clone()))
                .map_err(|error| self.fail(RunError::State(error)))?;
        }
        Ok(())
    }

    async fn start(&mut self, cell: &CellHandle) -> Result<(), Skip> {
        self.enter(Phase::Start);
        self.stop_if_asked()?;
        self.queue(&NetworkScope::of(self.spec))?;
        let derivation = self.facts.derivation.clone();
        let started = Started {
            ttl_seconds: self.spec.lifetime.ttl_seconds,
            derivation_verified: derivation.as_ref().map(|facts| facts.verified),
            role_root: derivation.as_ref().map(|facts| facts.role_root.clone()),
            parent_run_id: derivation.and_then(|facts| facts.parent_run_id),
            spec_hash: Some(self.facts.raw_spec_sha256.clone()),
            kernel_digest_sha256: cell.kernel_digest_sha256.clone(),
            rootfs_digest_sha256: cell.rootfs_digest_sha256.clone(),
            firecracker_digest_sha256: cell.firecracker_digest_sha256.clone(),
            placement: event::placement(self.spec),
            tenant_id: self.journal.subject().tenant_id().map(str::to_owned),
            backend: Some(self.facts.backend.clone()),
            declared: Some(Box::new(Declared {
                network_mode: self.network_mode(),
                ..Declared::of(self.spec)
            })),
        };
        let stamp = self.journal.stamp_with(self.facts.started_event_id.clone());
        let event = event::started(
            stamp,
            self.journal.subject(),
            &self.facts.session_id,
            &started,
        );
        match self.journal.write(EventKind::Started, event).await {
            Ok(()) => self.started = true,
            Err(error) => return Err(self.fail(error)),
        }
        match self.facts.universal_token.take() {
            Some(accepted) => self.queue(&accepted),
            None => Ok(()),
        }
    }

    /// Looks at the isolation of the parked workload. A backend that cannot show it gets no
    /// workload to run.
    async fn inspect(&mut self, cell: &CellHandle) -> Result<(), Skip> {
        self.enter(Phase::Inspect);
        if let Some(control) = self.supervisor.backend.workload() {
            let posture = timeout(bounds::QUERY, control.posture(&cell.cell_id))
                .await
                .unwrap_or_else(|_| Err(CellosError::Host(no_answer("posture", bounds::QUERY))))
                .map_err(|error| self.fail(RunError::Posture(error)))?;
            let security = ContainerSecurity::from(&posture);
            match NetworkPolicy::observed(self.spec, &posture) {
                Some(policy) => {
                    self.queue(&security)?;
                    self.emit(&policy).await?;
                }
                None => self.emit(&security).await?,
            }
            self.outcome.posture = Some(posture);
        }
        // From here on the workload acts: what was written so far has to stay, whatever it does.
        self.flush().await
    }

    /// Takes the cell apart, whatever happened before.
    async fn destroy(&mut self, cell: &CellHandle) {
        self.enter(Phase::Destroy);
        self.working_folder = None;
        let backend = &self.supervisor.backend;
        let destroyed = timeout(bounds::DESTROY, async {
            match backend.workload() {
                Some(control) => control
                    .destroy_and_measure(cell)
                    .await
                    .map(|(report, residue)| (report, Some(residue))),
                None => backend.destroy(cell).await.map(|report| (report, None)),
            }
        })
        .await
        .unwrap_or_else(|_| Err(CellosError::Host(no_answer("destroy", bounds::DESTROY))));
        match destroyed {
            Ok((report, residue)) => {
                if !report.destroyed {
                    self.note(Err(RunError::Destroy(CellosError::Host(format!(
                        "the backend does not know cell {:?} any more",
                        cell.cell_id
                    )))));
                }
                self.outcome.teardown = Some(report);
                // What the host runner could not end counts in any case.
                if let Some(measured) = residue {
                    let residue = self.outcome.residue.get_or_insert_default();
                    residue.looked_for.extend(measured.looked_for);
                    residue.found.extend(measured.found);
                }
            }
            Err(error) => self.note(Err(RunError::Destroy(error))),
        }
        if let Some(residue) = self.outcome.residue.as_ref()
            && !residue.found.is_empty()
        {
            let found = residue.found.clone();
            self.note(Err(RunError::Residue { found }));
        }
    }

    /// Writes what the run came to, all of it together. Where that fails, the last event is tried
    /// by itself, with the failure in it.
    async fn sum_up(&mut self) -> LastEvent {
        self.enter(Phase::Close);
        let summary = ComplianceSummary::of(self.spec, self.command_exit_code);
        let queued = self.journal.queue(&summary);
        self.note(queued);
        let queued = match canonical_spec_hash(self.spec) {
            Ok(hash) => {
                let homeostasis = match &self.outcome.egress {
                    Some(egress) => Homeostasis::counted(self.spec, hash, egress),
                    None => Homeostasis::uncounted(self.spec, hash),
                };
                self.journal.queue(&homeostasis)
            }
            Err(error) => Err(RunError::Event {
                kind: EventKind::Homeostasis,
                source: CellosError::EventSink(error.to_string()),
            }),
        };
        self.note(queued);
        let id = new_id();
        let last = match self.write_destroyed(&id).await {
            LastEvent::Missing => self.write_destroyed(&id).await,
            written => written,
        };
        let flushed = self.journal.flush().await;
        self.note(flushed);
        last
    }

    /// Writes the last event, and those that wait for it.
    async fn write_destroyed(&mut self, id: &str) -> LastEvent {
        let lineage = Lineage {
            session_id: self.facts.session_id.clone(),
            started_event_id: self.started.then(|| self.facts.started_event_id.clone()),
        };
        let event = event::destroyed(
            self.journal.stamp_with(id.to_owned()),
            self.journal.subject(),
            &lineage,
            &self.destroyed(),
        );
        let written = self.journal.write(EventKind::Destroyed, event).await;
        let last = match written {
            Ok(()) => LastEvent::Written,
            Err(_) => LastEvent::Missing,
        };
        self.note(written);
        last
    }

    fn destroyed(&self) -> Destroyed {
        let outcome = &self.outcome;
        let report = outcome.exit_report.as_ref();
        Destroyed {
            ttl_seconds: self.spec.lifetime.ttl_seconds,
            outcome: if outcome.succeeded() {
                Outcome::Succeeded
            } else {
                Outcome::Failed
            },
            reason: outcome.first_error.as_ref().map(|error| {
                error
                    .reason()
                    .map_or_else(|| text::cut(error), |reason| reason.as_str().into())
            }),
            terminal_state: self.terminal_state,
            evidence_bundle_ref: None,
            residue_class: outcome
                .residue
                .as_ref()
                .filter(|residue| residue.found.is_empty())
                .map(|_| ResidueClass::None),
            tenant_id: self.journal.subject().tenant_id().map(str::to_owned),
            reason_detail: outcome.first_error.as_ref().map(text::cut),
            later_errors: text::some_of(&outcome.later_errors),
            ended_by: outcome.ended_by,
            exit_code: outcome.end.map(|end| end.shell_code()),
            signal: signal_of(outcome.end),
            usage: report.map(|report| (&report.usage).into()),
            limits_hit: report
                .map(|report| report.limits_hit.iter().copied().map(Into::into).collect())
                .unwrap_or_default(),
            output: outcome.output,
            egress: outcome.egress.clone(),
            residue: outcome
                .residue
                .as_ref()
                .map(|residue| (&text::short(residue)).into()),
        }
    }

    /// Gives the run's record up, or leaves it for the reaper when the last event is missing or
    /// something of the cell may be left.
    fn close(&mut self, lease: Option<RunLease>, last: LastEvent) {
        let Some(mut lease) = lease else { return };
        let teardown_failed = self
            .errors()
            .any(|error| matches!(error, RunError::Destroy(_) | RunError::Residue { .. }));
        let closed = if last == LastEvent::Missing || teardown_failed {
            let reason = self.outcome.first_error.as_ref().map(text::cut);
            lease.update(|record| record.reason = reason)
        } else {
            lease.finish()
        };
        self.note(closed.map_err(RunError::State));
    }
}

/// What the phases share.
impl Run<'_> {
    /// Ends the running phase and begins another one.
    fn enter(&mut self, phase: Phase) {
        let (ended, since) = self.phase;
        let now = Instant::now();
        let micros = u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX);
        self.outcome.timings.push(PhaseTiming {
            phase: ended,
            micros,
        });
        self.phase = (phase, now);
    }

    /// Keeps an error: the first one apart from the others.
    fn note(&mut self, result: Result<(), RunError>) {
        if let Err(error) = result {
            if self.outcome.first_error.is_none() {
                self.outcome.first_error = Some(error);
            } else {
                self.outcome.later_errors.push(error);
            }
        }
    }

    fn fail(&mut self, error: RunError) -> Skip {
        self.note(Err(error));
        Skip
    }

    fn errors(&self) -> impl Iterator<Item = &RunError> {
        self.outcome
            .first_error
            .iter()
            .chain(&self.outcome.later_errors)
    }

    fn queue<D: event::EventData>(&mut self, data: &D) -> Result<(), Skip> {
        let queued = self.journal.queue(data);
        queued.map_err(|error| self.fail(error))
    }

    async fn flush(&mut self) -> Result<(), Skip> {
        let flushed = self.journal.flush().await;
        flushed.map_err(|error| self.fail(error))
    }

    async fn emit<D: event::EventData>(&mut self, data: &D) -> Result<(), Skip> {
        let written = self.journal.emit(data).await;
        written.map_err(|error| self.fail(error))
    }

    fn stop_if_asked(&mut self) -> Result<(), Skip> {
        let Some(signal) = self.stop.requested() else {
            return Ok(());
        };
        let phase = self.phase.0;
        self.outcome.stop_signal = Some(signal);
        if phase != Phase::Export {
            self.outcome.ended_by = EndedBy::SupervisorSignal;
        }
        Err(self.fail(RunError::Stopped { signal, phase }))
    }
}

fn bare_handle(cell_id: &str) -> CellHandle {
    CellHandle {
        cell_id: cell_id.to_owned(),
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: None,
        rootfs_digest_sha256: None,
        firecracker_digest_sha256: None,
    }
}
