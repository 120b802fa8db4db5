//! Finishing the runs of supervisors that are gone.

use std::ffi::OsString;

use cellos_core::{
    CellosError, CloudEventV1,
    event::{self, Destroyed, EndedBy, EventKind, Lineage, Outcome, Reason, ResidueClass, Stamp},
    ports::workload::Residue,
};
use serde_json::Value;

use super::{
    StateError, StateFolder,
    folder::{Found, Look, RunLease},
    record::RunRecord,
    run_log::{RunLog, RunLogs},
};
use crate::Clock;

/// Removes what a backend left of a cell.
pub trait LeftoverCleaner {
    /// Ends and removes everything of this run's cell that is still there, and says what that
    /// was, one line each. Nothing there is not an error.
    ///
    /// # Errors
    /// [`CellosError::Host`] when something could not be removed; the run is then kept for the
    /// next time.
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError>;

    /// Looks for what is left of this run's cell after that; `None` where nobody can look.
    fn look(&self, record: &RunRecord) -> Option<Residue> {
        let _ = record;
        None
    }
}

/// For backends whose cells leave nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLeftovers;

impl LeftoverCleaner for NoLeftovers {
    fn clean(&self, _record: &RunRecord) -> Result<Vec<String>, CellosError> {
        Ok(Vec::new())
    }
}

/// What became of a run's last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalEvent {
    /// It was missing and has been written.
    Written,
    /// It was there.
    AlreadyThere,
    /// The run has no log on this host.
    NoFile,
}

/// A run that was finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReapedRun {
    /// The run.
    pub run_id: String,
    /// Its cell.
    pub cell_id: String,
    /// What of the cell was found and removed.
    pub removed: Vec<String>,
    /// What became of its last event.
    pub final_event: FinalEvent,
}

/// A run that could not be finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReapProblem {
    /// Its record's name.
    pub run: OsString,
    /// Why.
    pub message: String,
}

/// What a pass over the state folder came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReapReport {
    /// Runs that were finished.
    pub reaped: Vec<ReapedRun>,
    /// Folders of runs that are alive.
    pub alive: Vec<OsString>,
    /// Runs that could not be finished.
    pub problems: Vec<ReapProblem>,
}

/// Finishes every run whose supervisor is gone: removes what is left of its cell and looks, writes
/// its `destroyed` event where that is missing, and removes its record. May run any number of times,
/// also at the same time.
///
/// # Errors
/// [`StateError`] when the state folder cannot be read. Problems with single runs are in the
/// report.
pub fn reap(
    state: &StateFolder,
    cleaner: &dyn LeftoverCleaner,
    logs: &dyn RunLogs,
    clock: &dyn Clock,
) -> Result<ReapReport, StateError> {
    let mut report = ReapReport::default();
    for Look { run, found } in state.look(clock.now())? {
        let finished = match found {
            Ok(Found::Nothing) => continue,
            Ok(Found::Alive) => {
                report.alive.push(run);
                continue;
            }
            Ok(Found::Left(lease)) => finish(*lease, cleaner, logs, clock),
            Err(error) => Err(error.to_string()),
        };
        match finished {
            Ok(reaped) => report.reaped.push(reaped),
            Err(message) => report.problems.push(ReapProblem { run, message }),
        }
    }
    Ok(report)
}

fn finish(
    lease: RunLease,
    cleaner: &dyn LeftoverCleaner,
    logs: &dyn RunLogs,
    clock: &dyn Clock,
) -> Result<ReapedRun, String> {
    let record = lease.record().clone();
    let text = |error: CellosError| error.to_string();
    let removed = cleaner.clean(&record).map_err(text)?;
    let left = Left {
        removed,
        residue: cleaner.look(&record),
    };
    let final_event = match logs.open(&record).map_err(text)? {
        None => FinalEvent::NoFile,
        Some(log) => complete(&*log, &record, &left, clock).map_err(text)?,
    };
    lease.finish().map_err(|error| error.to_string())?;
    Ok(ReapedRun {
        run_id: record.run_id,
        cell_id: record.cell_id,
        removed: left.removed,
        final_event,
    })
}

/// Appends the missing last event.
fn complete(
    log: &dyn RunLog,
    record: &RunRecord,
    left: &Left,
    clock: &dyn Clock,
) -> Result<FinalEvent, CellosError> {
    let mut seen = Seen::default();
    log.visit(&mut |event| seen.look_at(event, record))?;
    if seen.destroyed {
        return Ok(FinalEvent::AlreadyThere);
    }
    let lineage = Lineage {
        session_id: record.session_id.clone(),
        started_event_id: seen.started.then(|| record.started_event_id.clone()),
    };
    let stamp = Stamp {
        id: uuid::Uuid::new_v4().to_string(),
        time: clock.now().to_string(),
    };
    let event = event::destroyed(stamp, &record.subject(), &lineage, &destroyed(record, left))?;
    log.append(&event)?;
    Ok(FinalEvent::Written)
}

/// What a dead run had on the host.
struct Left {
    /// What was found and removed.
    removed: Vec<String>,
    /// What is there after that.
    residue: Option<Residue>,
}

fn destroyed(record: &RunRecord, left: &Left) -> Destroyed {
    let lost = "the supervisor ended without finishing the run";
    let mut detail = match &record.reason {
        Some(reason) => reason.clone(),
        None => lost.to_owned(),
    };
    if !left.removed.is_empty() {
        detail = format!("{detail}; removed: {}", left.removed.join(", "));
    }
    Destroyed {
        ttl_seconds: record.ttl_seconds,
        outcome: Outcome::Failed,
        reason: Some(Reason::SupervisorLost.as_str().into()),
        terminal_state: None,
        evidence_bundle_ref: None,
        residue_class: left
            .residue
            .as_ref()
            .filter(|residue| residue.found.is_empty())
            .map(|_| ResidueClass::None),
        tenant_id: record
            .correlation
            .as_ref()
            .and_then(|correlation| correlation.tenant_id.clone()),
        reason_detail: Some(detail),
        later_errors: Vec::new(),
        ended_by: EndedBy::SupervisorLost,
        exit_code: None,
        signal: None,
        usage: None,
        limits_hit: Vec::new(),
        output: None,
        egress: None,
        residue: left.residue.as_ref().map(Into::into),
    }
}

/// Which events of the run are in its log.
#[derive(Default)]
struct Seen {
    started: bool,
    destroyed: bool,
}

impl Seen {
    fn look_at(&mut self, event: &CloudEventV1, record: &RunRecord) {
        let of_run = |field: &str, expected: &str| {
            event
                .data
                .as_ref()
                .and_then(|data| data.get(field))
                .and_then(Value::as_str)
                == Some(expected)
        };
        if of_run("runId", &record.run_id) && of_run("cellId", &record.cell_id) {
            self.started |= event.id == record.started_event_id;
            // An earlier run may have had the same ids, but never the same session.
            self.destroyed |= event.ty == EventKind::Destroyed.as_str()
                && event.cexsessionid.as_deref() == Some(&*record.session_id);
        }
    }
}
