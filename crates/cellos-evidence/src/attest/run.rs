//! What attestations need of a run, read from its log.

mod signed;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    facts::Facts,
    finding::{Finding, FindingKind, Place, RunKey, Severity},
    keyset::Keyset,
    line::{self, LineHash, ParsedLine, genesis},
    log::{AtEnd, LineEnd, LogLine, LogReader, ReadError},
    projection::Projection,
    verify::canonical,
};
use signed::Signed;

/// Most events of one run that an attestation is made of; a run that has more is refused, because
/// an attestation with a part of them would look whole.
pub const MAX_RUN_EVENTS: usize = 10_000;
/// Most bytes that the lines of one run have, for the same reason: they are kept while it is
/// attested.
pub const MAX_RUN_BYTES: usize = 8 * 1024 * 1024;

/// Most findings about one run that are kept: one is enough to refuse it.
const MAX_FINDINGS: usize = 100;

/// What every type string of an event of ours starts with.
const TYPE_PREFIX: &str = "dev.cellos.events.cell.";

/// The part of a log that one run wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEvidence {
    /// Cell and run.
    pub key: RunKey,
    /// Id of the log.
    pub log_id: String,
    /// The events of the run in order, the terminal one last.
    pub events: Vec<RunEvent>,
    /// The line of the terminal event.
    pub terminal: TerminalLine,
    /// What is wrong with the run or with the lines from its first to its last.
    pub findings: Vec<Finding>,
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEvent {
    /// Number of its line in the log.
    pub seq: u64,
    /// Type without what all have in common: `lifecycle.v1.started`.
    pub kind: String,
    /// When it happened, RFC 3339; empty where the event does not say.
    pub time: String,
    /// The payload.
    pub data: Value,
}

/// The line of the last event of a run: it stands for the run and, by the chain, for all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalLine {
    /// Its hash in the chain.
    pub hash: LineHash,
    /// SHA-256 of its bytes alone, without its line feed.
    pub sha256: LineHash,
}

/// Why there is no evidence of a run.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No line is about the run.
    #[error("event log {}: no event of run {run_id}: name the log of the run with --log", path.display())]
    NoSuchRun {
        /// The log.
        path: PathBuf,
        /// The run.
        run_id: String,
    },
    /// The run has not ended, or its end is not in the log.
    #[error(
        "event log {}: run {run_id} has no end: wait for it, or let `cellos reap` finish it",
        path.display()
    )]
    NotEnded {
        /// The log.
        path: PathBuf,
        /// The run.
        run_id: String,
    },
    /// It was refused before there was a cell.
    #[error("run {run_id} was refused before it had a cell: there is nothing to attest")]
    NoCell {
        /// The run.
        run_id: String,
    },
    /// The run has more events, or longer ones, than an attestation is made of.
    #[error(
        "run {run_id} has more than {MAX_RUN_EVENTS} events or {MAX_RUN_BYTES} bytes of them, the \
         most for an attestation"
    )]
    TooMuch {
        /// The run.
        run_id: String,
    },
}

/// Who an event is about; everything else of it is only read where it is about the run.
#[derive(Deserialize)]
struct Who<'a> {
    #[serde(borrow, default)]
    data: Option<WhoData<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WhoData<'a> {
    #[serde(borrow, default)]
    run_id: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct EventIn {
    #[serde(rename = "type")]
    ty: String,
    #[serde(default)]
    time: Option<String>,
    data: Value,
}

impl RunEvidence {
    /// Reads the events of a run from a log, in the lines with the number `from` and later ones,
    /// and checks the chain and the signatures on the way.
    ///
    /// Where there are keys, one of them has to have signed each line of the run. Where there are
    /// none, the log must not be signed.
    ///
    /// # Errors
    /// [`EvidenceError`]. What is wrong with the log's content is in [`RunEvidence::findings`].
    pub fn read(
        path: &Path,
        run_id: &str,
        from: u64,
        keys: Option<&Keyset>,
    ) -> Result<Self, EvidenceError> {
        let mut reading = Reading::new(path, run_id, keys);
        let mut lines = LogReader::from_seq(path, from, AtEnd::Stop)?;
        while let Some(LogLine { file, raw }) = lines.next_line()? {
            let place = Place {
                file: Arc::clone(file),
                line: raw.number,
            };
            match (raw.end, line::parse(raw.bytes)) {
                (LineEnd::Ended, Ok(parsed)) => reading.line(&place, raw.bytes, &parsed)?,
                (LineEnd::Ended, Err(error)) => {
                    reading.broken(&place, FindingKind::Unreadable, error.to_string());
                }
                (LineEnd::Torn, _) => {
                    reading.broken(&place, FindingKind::TornEnd, "it is not ended".to_owned());
                }
                (LineEnd::TooLong, _) => {
                    reading.broken(
                        &place,
                        FindingKind::LineTooLong,
                        "it is too long".to_owned(),
                    );
                }
            }
        }
        reading.finish()
    }

    /// The only event of a kind, or the first of several.
    #[must_use]
    pub fn event(&self, kind: &str) -> Option<&RunEvent> {
        self.events.iter().find(|event| event.kind == kind)
    }

    /// All events of a kind.
    pub fn all<'e>(&'e self, kind: &'e str) -> impl Iterator<Item = &'e RunEvent> {
        self.events.iter().filter(move |event| event.kind == kind)
    }

    /// Number of the run's first line.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.events.first().map_or(0, |event| event.seq)
    }

    /// The terminal event.
    #[must_use]
    pub fn last(&self) -> Option<&RunEvent> {
        self.events.last()
    }

    /// SHA-256 of the run's document in bare hexadecimal, where the log has it.
    #[must_use]
    pub fn document_sha256(&self) -> Option<&str> {
        let stated = |field: &str| {
            self.events.iter().find_map(|event| {
                // In other events the same name is the hash of the typed specification.
                matches!(
                    event.kind.as_str(),
                    "lifecycle.v1.started" | "lifecycle.v1.failed"
                )
                .then(|| event.data.get(field)?.as_str())?
            })
        };
        let digest = stated("documentDigest").or_else(|| stated("specHash"))?;
        Some(digest.strip_prefix("sha256:").unwrap_or(digest))
    }
}

/// The state while a log is read.
struct Reading<'a> {
    path: &'a Path,
    run_id: &'a str,
    signed: Signed<'a>,
    /// Log id, next number and hash of the line before, after the first line that could be read.
    expected: Option<(String, u64, LineHash)>,
    projection: Projection,
    events: Vec<RunEvent>,
    /// How many bytes their lines have.
    bytes: usize,
    key: Option<RunKey>,
    terminal: Option<TerminalLine>,
    log_id: String,
    findings: Vec<Finding>,
    /// How many of the findings are about lines up to the last one of the run.
    within: usize,
}

impl<'a> Reading<'a> {
    fn new(path: &'a Path, run_id: &'a str, keys: Option<&'a Keyset>) -> Self {
        Self {
            path,
            run_id,
            signed: Signed::new(keys),
            expected: None,
            projection: Projection::default(),
            events: Vec::new(),
            bytes: 0,
            key: None,
            terminal: None,
            log_id: String::new(),
            findings: Vec::new(),
            within: 0,
        }
    }

    fn line(
        &mut self,
        place: &Place,
        bytes: &[u8],
        parsed: &ParsedLine<'_>,
    ) -> Result<(), EvidenceError> {
        // What is wrong with a line before the first of the run is none of the run's business.
        let about_run = is_about(parsed, self.run_id);
        if self.events.is_empty() {
            self.findings.clear();
        }
        let (log_id, seq, prev) = match self.expected.take() {
            Some(expected) => expected,
            // The lines before are passed over; then the first one here counts as it is.
            None if parsed.seq > 0 => (parsed.log_id.to_owned(), parsed.seq, parsed.prev),
            None => (parsed.log_id.to_owned(), 0, genesis(parsed.log_id)),
        };
        let kind = match () {
            () if parsed.log_id != log_id => Some(FindingKind::OtherLog),
            () if parsed.seq > seq => Some(FindingKind::Gap),
            () if parsed.seq < seq => Some(FindingKind::Repeated),
            () if parsed.prev != prev => Some(FindingKind::ChainBroken),
            () => None,
        };
        if kind.is_some() {
            self.signed.interrupted();
        }
        self.signed.line(place, parsed, about_run);
        if let Some(kind) = kind {
            self.broken(
                place,
                kind,
                format!("line {seq} of log {log_id} belongs here"),
            );
        }
        let hash = LineHash::of_line(bytes);
        self.expected = Some((parsed.log_id.to_owned(), parsed.seq.saturating_add(1), hash));
        if let (true, Err(error)) = (about_run || self.key.is_some(), canonical::check(bytes)) {
            self.broken(place, error.finding(), error.to_string());
        }
        if !about_run {
            return Ok(());
        }
        self.bytes += bytes.len();
        if self.events.len() == MAX_RUN_EVENTS || self.bytes > MAX_RUN_BYTES {
            return Err(EvidenceError::TooMuch {
                run_id: self.run_id.to_owned(),
            });
        }
        self.event(place, bytes, parsed, hash);
        self.within = self.findings.len();
        Ok(())
    }

    /// All events of a run are of one cell.
    fn is_of(&mut self, place: &Place, cell_id: &str) {
        let key = RunKey {
            cell_id: cell_id.to_owned(),
            run_id: self.run_id.to_owned(),
        };
        let first = self.key.get_or_insert_with(|| key.clone());
        if *first != key {
            let detail = format!("cell {} before, cell {cell_id} here", first.cell_id);
            self.broken(place, FindingKind::IdentityChanged, detail);
        }
    }

    fn event(&mut self, place: &Place, bytes: &[u8], parsed: &ParsedLine<'_>, hash: LineHash) {
        let (facts, event) = match (
            serde_json::from_str::<Facts<'_>>(parsed.event.get()),
            serde_json::from_str::<EventIn>(parsed.event.get()),
        ) {
            (Ok(facts), Ok(event)) => (facts, event),
            (Err(error), _) | (_, Err(error)) => {
                return self.broken(place, FindingKind::Unreadable, error.to_string());
            }
        };
        // What was decided before there was a cell names none.
        if let Some(cell_id) = event.data.get("cellId").and_then(Value::as_str) {
            self.is_of(place, cell_id);
        }
        let kind = event.ty.strip_prefix(TYPE_PREFIX).unwrap_or(&event.ty);
        let ends = matches!(kind, "lifecycle.v1.destroyed" | "lifecycle.v1.failed");
        match (self.terminal, ends) {
            (None, true) => {
                self.terminal = Some(TerminalLine {
                    hash,
                    sha256: LineHash(Sha256::digest(bytes).into()),
                });
                parsed.log_id.clone_into(&mut self.log_id);
            }
            // Also where a later run was given the same id: an attestation is about one.
            (Some(_), true) => {
                self.broken(place, FindingKind::EndedTwice, format!("{kind} again"));
            }
            (Some(_), false) => self.broken(
                place,
                FindingKind::AfterEnd,
                format!("{kind} after the end of the run"),
            ),
            (None, false) => {}
        }
        let mut found = Vec::new();
        self.projection.apply(&facts, place, &mut found);
        for finding in found {
            if finding.kind.severity() == Severity::Error {
                self.found(finding);
            }
        }
        self.events.push(RunEvent {
            seq: parsed.seq,
            kind: kind.to_owned(),
            time: event.time.unwrap_or_default(),
            data: event.data,
        });
    }

    fn broken(&mut self, place: &Place, kind: FindingKind, detail: String) {
        let finding = Finding {
            place: place.clone(),
            run: self.key.clone(),
            kind,
            detail,
        };
        self.found(finding);
    }

    fn found(&mut self, finding: Finding) {
        let known = self
            .findings
            .iter()
            .any(|known| known.kind == finding.kind && known.place == finding.place);
        if !known && self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn finish(mut self) -> Result<RunEvidence, EvidenceError> {
        let run_id = self.run_id.to_owned();
        let path = self.path.to_owned();
        let Some(key) = self.key else {
            return Err(match self.events.is_empty() {
                true => EvidenceError::NoSuchRun { path, run_id },
                false => EvidenceError::NoCell { run_id },
            });
        };
        let Some(terminal) = self.terminal else {
            return Err(EvidenceError::NotEnded { path, run_id });
        };
        // What comes after the last line of the run is of others.
        self.findings.truncate(self.within);
        self.findings.extend(self.signed.finish(&key));
        Ok(RunEvidence {
            key,
            log_id: self.log_id,
            events: self.events,
            terminal,
            findings: self.findings,
        })
    }
}

fn is_about(parsed: &ParsedLine<'_>, run_id: &str) -> bool {
    serde_json::from_str::<Who<'_>>(parsed.event.get()).is_ok_and(|who| {
        who.data
            .and_then(|data| data.run_id)
            .is_some_and(|id| id == run_id)
    })
}

#[cfg(test)]
mod tests;
