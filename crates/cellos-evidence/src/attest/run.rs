//! What attestations need of a run, read from its log.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    finding::{Finding, FindingKind, Place, RunKey},
    line::{self, LineHash, ParsedLine, genesis},
    log::{LineEnd, LineReader},
};

/// Most events of one run that an attestation is made of; a run that has more is refused, because
/// an attestation with a part of them would look whole.
pub const MAX_RUN_EVENTS: usize = 10_000;
/// Most bytes that the lines of one run have, for the same reason: they are kept while it is
/// attested.
pub const MAX_RUN_BYTES: usize = 8 * 1024 * 1024;

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

/// Where reading a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With its first line.
    Beginning,
    /// With the line that begins at this offset, in bytes: how large the log was before the run.
    Offset(u64),
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
    #[error("event log {}: cannot {operation}", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
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
    /// Reads the events of a run from a log, and checks the chain on the way.
    ///
    /// # Errors
    /// [`EvidenceError`]. What is wrong with the log's content is in [`RunEvidence::findings`].
    pub fn read(path: &Path, run_id: &str, start: Start) -> Result<Self, EvidenceError> {
        let failed = |operation| {
            move |source| EvidenceError::Io {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        let mut file = File::open(path).map_err(failed("open it"))?;
        if let Start::Offset(offset) = start {
            file.seek(SeekFrom::Start(offset))
                .map_err(failed("find the run in it"))?;
        }
        let mut reading = Reading::new(path, run_id);
        let mut lines = LineReader::new(file);
        while let Some(raw) = lines.next_line().map_err(failed("read it"))? {
            let number = raw.number;
            match (raw.end, line::parse(raw.bytes)) {
                (LineEnd::Ended, Ok(parsed)) => reading.line(number, raw.bytes, &parsed)?,
                (LineEnd::Ended, Err(error)) => {
                    reading.broken(number, FindingKind::Unreadable, error.to_string());
                }
                (LineEnd::Torn, _) => {
                    reading.broken(number, FindingKind::TornEnd, "it is not ended".to_owned());
                }
                (LineEnd::TooLong, _) => {
                    reading.broken(
                        number,
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
    file: Arc<PathBuf>,
    run_id: &'a str,
    /// Log id, next number and hash of the line before, after the first line that could be read.
    expected: Option<(String, u64, LineHash)>,
    events: Vec<RunEvent>,
    /// How many bytes their lines have.
    bytes: usize,
    key: Option<RunKey>,
    /// First and last line of the run.
    lines: Option<(u64, u64)>,
    terminal: Option<TerminalLine>,
    log_id: String,
    findings: Vec<Finding>,
}

impl<'a> Reading<'a> {
    fn new(path: &'a Path, run_id: &'a str) -> Self {
        Self {
            path,
            file: Arc::new(path.to_owned()),
            run_id,
            expected: None,
            events: Vec::new(),
            bytes: 0,
            key: None,
            lines: None,
            terminal: None,
            log_id: String::new(),
            findings: Vec::new(),
        }
    }

    fn line(
        &mut self,
        number: u64,
        bytes: &[u8],
        parsed: &ParsedLine<'_>,
    ) -> Result<(), EvidenceError> {
        let (log_id, seq, prev) = match self.expected.take() {
            Some(expected) => expected,
            // The lines before may be in another file; then the first one here counts as it is.
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
        if let Some(kind) = kind {
            self.broken(
                number,
                kind,
                format!("line {seq} of log {log_id} belongs here"),
            );
        }
        let hash = LineHash::of_line(bytes);
        self.expected = Some((parsed.log_id.to_owned(), parsed.seq.saturating_add(1), hash));
        self.event(number, bytes, parsed, hash)
    }

    fn event(
        &mut self,
        number: u64,
        bytes: &[u8],
        parsed: &ParsedLine<'_>,
        hash: LineHash,
    ) -> Result<(), EvidenceError> {
        let about_run = serde_json::from_str::<Who<'_>>(parsed.event.get()).is_ok_and(|who| {
            who.data
                .and_then(|data| data.run_id)
                .is_some_and(|id| id == self.run_id)
        });
        if !about_run {
            return Ok(());
        }
        self.bytes += bytes.len();
        if self.events.len() == MAX_RUN_EVENTS || self.bytes > MAX_RUN_BYTES {
            return Err(EvidenceError::TooMuch {
                run_id: self.run_id.to_owned(),
            });
        }
        self.lines = Some((self.lines.map_or(number, |(first, _)| first), number));
        let event: EventIn = match serde_json::from_str(parsed.event.get()) {
            Ok(event) => event,
            Err(error) => {
                self.broken(number, FindingKind::Unreadable, error.to_string());
                return Ok(());
            }
        };
        let cell_id = event.data.get("cellId").and_then(Value::as_str);
        let key = RunKey {
            cell_id: cell_id.unwrap_or_default().to_owned(),
            run_id: self.run_id.to_owned(),
        };
        let first = self.key.get_or_insert_with(|| key.clone());
        if *first != key {
            let detail = format!("cell {} before, cell {} here", first.cell_id, key.cell_id);
            self.broken(number, FindingKind::IdentityChanged, detail);
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
            (Some(_), true) => {
                self.broken(number, FindingKind::EndedTwice, format!("{kind} again"));
            }
            (Some(_), false) => self.broken(
                number,
                FindingKind::AfterEnd,
                format!("{kind} after the end of the run"),
            ),
            (None, false) => {}
        }
        self.events.push(RunEvent {
            seq: parsed.seq,
            kind: kind.to_owned(),
            time: event.time.unwrap_or_default(),
            data: event.data,
        });
        Ok(())
    }

    fn broken(&mut self, line: u64, kind: FindingKind, detail: String) {
        // What lies before the run is none of its business, and would fill the memory.
        if self.lines.is_none() {
            self.findings.clear();
        }
        if self.findings.len() < MAX_RUN_EVENTS {
            self.findings.push(Finding {
                place: Place {
                    file: Arc::clone(&self.file),
                    line,
                },
                run: self.key.clone(),
                kind,
                detail,
            });
        }
    }

    fn finish(mut self) -> Result<RunEvidence, EvidenceError> {
        let run_id = self.run_id.to_owned();
        let path = self.path.to_owned();
        let (Some(key), Some((first, last))) = (self.key, self.lines) else {
            return Err(EvidenceError::NoSuchRun { path, run_id });
        };
        let Some(terminal) = self.terminal else {
            return Err(EvidenceError::NotEnded { path, run_id });
        };
        let is = |kind: &str| self.events.iter().any(|event| event.kind == kind);
        // Its first lines may be in a file that is not here, and then something is left out.
        if is("lifecycle.v1.destroyed") && !is("lifecycle.v1.started") {
            self.findings.push(Finding {
                place: Place {
                    file: Arc::clone(&self.file),
                    line: first,
                },
                run: Some(key.clone()),
                kind: FindingKind::BeforeStart,
                detail: "the log has no start of the run before this".to_owned(),
            });
        }
        self.findings
            .retain(|finding| (first..=last).contains(&finding.place.line));
        Ok(RunEvidence {
            key,
            log_id: self.log_id,
            events: self.events,
            terminal,
            findings: self.findings,
        })
    }
}

#[cfg(test)]
mod tests;
