//! The log as a forwarder reads it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use cellos_core::CloudEventV1;
use cellos_evidence::{
    line::{self, LineError, LineHash, MAX_LINE_BYTES, Tail},
    log::{AtEnd, LineEnd, LogReader, ReadError, Segments, SegmentsError},
};
use rustix::fs::{Mode, OFlags};

use super::Cursor;
use crate::remote::StoredEvent;

/// How much of the end of a file is read to find its last line, before more is; most lines have
/// less.
const USUAL_TAIL_BYTES: u64 = 16 * 1024;

/// Why the log cannot be forwarded from where the cursor is. Nothing is ever left out.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its files cannot be found.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// Its end cannot be read.
    #[error("event log {path:?}: its last line cannot be read: {source}")]
    Tail {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A line is none of a log, or its event is none.
    #[error(
        "event log {file:?}, line {number}: {source}: it is not passed over; check the log with \
         `cellos verify`"
    )]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        number: u64,
        /// What is wrong.
        source: LineError,
    },
    /// A line is longer than any that is written.
    #[error(
        "event log {file:?}, line {number}: is longer than {MAX_LINE_BYTES} bytes: it is not \
         passed over; check the log with `cellos verify`"
    )]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        number: u64,
    },
    /// A sealed segment ends within a line.
    #[error(
        "event log {file:?}, line {number}: is not ended, in a segment that is: it is not passed \
         over; check the log with `cellos verify`"
    )]
    Torn {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        number: u64,
    },
    /// A line does not follow the one that was delivered before.
    #[error(
        "event log {file:?}, line {number}: does not follow the line that was delivered before \
         ({expected} expected, {found} found): check the log with `cellos verify`"
    )]
    Chain {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        number: u64,
        /// The line that was expected.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// A line's event, and the cursor behind it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) stored: StoredEvent,
    pub(super) behind: Cursor,
    pub(super) bytes: usize,
}

/// Hands out the lines behind a cursor, each one checked to follow the one before.
pub(super) struct Source {
    log: PathBuf,
    reader: LogReader,
    last: Option<Cursor>,
}

impl Source {
    pub(super) fn after(log: &Path, cursor: Option<&Cursor>) -> Result<Self, SourceError> {
        let from = cursor.map_or(0, |cursor| cursor.next_seq);
        Ok(Self {
            log: log.to_owned(),
            reader: LogReader::from_seq(log, from, AtEnd::Follow)?,
            last: cursor.cloned(),
        })
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// The next line; `None` where there is none yet.
    pub(super) fn next(&mut self) -> Result<Option<Next>, SourceError> {
        let Some(found) = self.reader.next_line()? else {
            return Ok(None);
        };
        let (file, number, raw) = (found.file, found.raw.number, found.raw);
        match raw.end {
            LineEnd::Ended => {}
            // A sealed segment's: the live file's is not there yet.
            LineEnd::Torn => {
                return Err(SourceError::Torn {
                    file: file.as_path().to_owned(),
                    number,
                });
            }
            LineEnd::TooLong => {
                return Err(SourceError::TooLong {
                    file: file.as_path().to_owned(),
                    number,
                });
            }
        }
        let wrong = |source: LineError| SourceError::Line {
            file: file.as_path().to_owned(),
            number,
            source,
        };
        let parsed = line::parse(raw.bytes).map_err(wrong)?;
        if let Some(last) = &self.last {
            let expected = (&*last.log_id, last.next_seq, last.line_hash);
            if expected != (parsed.log_id, parsed.seq, parsed.prev) {
                let shown = |(log, seq, prev): (&str, u64, LineHash)| {
                    format!("line {seq} of log {log} after {prev}")
                };
                return Err(SourceError::Chain {
                    file: file.as_path().to_owned(),
                    number,
                    expected: shown(expected),
                    found: shown((parsed.log_id, parsed.seq, parsed.prev)),
                });
            }
        }
        let event: CloudEventV1 =
            serde_json::from_str(parsed.event.get()).map_err(|error| wrong(error.into()))?;
        let behind = Cursor {
            log_id: parsed.log_id.to_owned(),
            next_seq: parsed.seq.saturating_add(1),
            line_hash: LineHash::of_line(raw.bytes),
        };
        self.last = Some(behind.clone());
        Ok(Some(Next {
            stored: StoredEvent {
                seq: parsed.seq,
                line_hash: behind.line_hash,
                event,
            },
            behind,
            bytes: raw.bytes.len(),
        }))
    }
}

/// Where a log ends: behind its last whole line. `None` where it has no line.
///
/// # Errors
/// [`SourceError`].
pub fn tail(log: &Path) -> Result<Option<Tail>, SourceError> {
    let segments = Segments::of(log)?;
    // A live file that has just been begun holds nothing yet.
    let newest_first = segments
        .live
        .iter()
        .chain(segments.sealed.iter().rev().map(|segment| &segment.path));
    for path in newest_first {
        let failed = |source| SourceError::Tail {
            path: path.clone(),
            source,
        };
        if let Some(last) = last_line(path).map_err(failed)? {
            let parsed = line::parse(&last).map_err(|source| SourceError::Line {
                file: path.clone(),
                number: 0,
                source,
            })?;
            return Ok(Some(Tail {
                log_id: parsed.log_id.to_owned(),
                next_seq: parsed.seq.saturating_add(1),
                prev: LineHash::of_line(&last),
            }));
        }
    }
    Ok(None)
}

/// The last line that has its line feed, without it.
fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
    let size = file.metadata()?.len();
    // A whole line with the line feed before it, and a torn one behind it.
    let most = 2 * MAX_LINE_BYTES as u64 + 1;
    for length in [USUAL_TAIL_BYTES.min(size), most.min(size)] {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, size - length)?;
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let before = bytes[..end].iter().rposition(|byte| *byte == b'\n');
        match before {
            Some(start) => return Ok(Some(bytes[start + 1..end].to_vec())),
            None if length == size => return Ok(Some(bytes[..end].to_vec())),
            None => {}
        }
    }
    match size > MAX_LINE_BYTES as u64 {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "there is none at its end",
        )),
        false => Ok(None),
    }
}
