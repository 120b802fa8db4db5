//! Finishing the runs of supervisors that are gone.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use cellos_core::{
    CellosError, CloudEventV1,
    event::{self, Destroyed, EndedBy, EventKind, Lineage, Outcome, Reason, Stamp},
};
use rustix::fs::OFlags;
use serde_json::Value;

use super::{
    StateError, StateFolder,
    folder::{Found, Look, RunLease},
    record::RunRecord,
};
use crate::Clock;

/// Longest line of an events file that is looked at, in bytes; as sinks bound it.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Removes what a backend left of a cell.
pub trait LeftoverCleaner {
    /// Ends and removes everything of this run's cell that is still there, and says what that
    /// was, one line each. Nothing there is not an error.
    ///
    /// # Errors
    /// [`CellosError::Host`] when something could not be removed; the run is then kept for the
    /// next time.
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError>;
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
    /// The run has no events file of its own.
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

/// Finishes every run whose supervisor is gone: removes what is left of its cell, writes its
/// `destroyed` event where that is missing, and removes its record. May run any number of times,
/// also at the same time.
///
/// # Errors
/// [`StateError`] when the state folder cannot be read. Problems with single runs are in the
/// report.
pub fn reap(
    state: &StateFolder,
    cleaner: &dyn LeftoverCleaner,
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
            Ok(Found::Left(lease)) => finish(*lease, cleaner, clock),
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
    clock: &dyn Clock,
) -> Result<ReapedRun, String> {
    let record = lease.record().clone();
    let removed = cleaner.clean(&record).map_err(|error| error.to_string())?;
    let final_event = match &record.events_file {
        None => FinalEvent::NoFile,
        Some(path) => complete(path, &record, &removed, clock)
            .map_err(|error| format!("events file {}: {error}", path.display()))?,
    };
    lease.finish().map_err(|error| error.to_string())?;
    Ok(ReapedRun {
        run_id: record.run_id,
        cell_id: record.cell_id,
        removed,
        final_event,
    })
}

/// Appends the missing last event.
fn complete(
    path: &Path,
    record: &RunRecord,
    removed: &[String],
    clock: &dyn Clock,
) -> io::Result<FinalEvent> {
    let mut file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(
            i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits())
                .map_err(io::Error::other)?,
        )
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let seen = look(&file, record)?;
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
    let event = event::destroyed(
        stamp,
        &record.subject(),
        &lineage,
        &destroyed(record, removed),
    )
    .map_err(io::Error::other)?;
    let mut line = Vec::new();
    if !ends_with_newline(&mut file)? {
        line.push(b'\n');
    }
    serde_json::to_writer(&mut line, &event)?;
    line.push(b'\n');
    // One write, so that the line is whole or missing, not interleaved.
    file.write_all(&line)?;
    file.sync_all()?;
    Ok(FinalEvent::Written)
}

fn destroyed(record: &RunRecord, removed: &[String]) -> Destroyed {
    let lost = "the supervisor ended without finishing the run";
    let mut detail = match &record.reason {
        Some(reason) => reason.clone(),
        None => lost.to_owned(),
    };
    if !removed.is_empty() {
        detail = format!("{detail}; removed: {}", removed.join(", "));
    }
    Destroyed {
        ttl_seconds: record.ttl_seconds,
        outcome: Outcome::Failed,
        reason: Some(Reason::SupervisorLost.as_str().into()),
        terminal_state: None,
        evidence_bundle_ref: None,
        residue_class: None,
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
        residue: None,
    }
}

/// Which events of the run are in its file.
#[derive(Default)]
struct Seen {
    started: bool,
    destroyed: bool,
}

fn look(file: &File, record: &RunRecord) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(seen);
        }
        // A torn line is no event.
        let Ok(event) = serde_json::from_slice::<CloudEventV1>(&line) else {
            continue;
        };
        let of_run = |field: &str, expected: &str| {
            event
                .data
                .as_ref()
                .and_then(|data| data.get(field))
                .and_then(Value::as_str)
                == Some(expected)
        };
        if of_run("runId", &record.run_id) && of_run("cellId", &record.cell_id) {
            seen.started |= event.id == record.started_event_id;
            // An earlier run may have had the same ids, but never the same session.
            seen.destroyed |= event.ty == EventKind::Destroyed.as_str()
                && event.cexsessionid.as_deref() == Some(&*record.session_id);
        }
    }
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
