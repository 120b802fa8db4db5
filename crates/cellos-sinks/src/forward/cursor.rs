//! Cursors: how far a sink has got, in a file beside the log.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use cellos_evidence::line::{LineHash, Tail};
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// What the file says it is.
const FORMAT: &str = "cellos.cursor/1";
/// Largest cursor file in bytes; ours have 200.
const MAX_CURSOR_BYTES: u64 = 4096;

/// How far a sink has got in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Id of the log.
    pub log_id: String,
    /// Number of the line that is delivered next.
    pub next_seq: u64,
    /// Hash of the line before, which was acknowledged.
    pub line_hash: LineHash,
}

/// A cursor as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Stored {
    format: String,
    log: String,
    next_seq: u64,
    line_hash: String,
}

/// Why a cursor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The kernel refuses.
    #[error("cursor {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "cursor {path:?}: is none: {problem}: remove it, and everything in the log is delivered \
         again"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another process forwards to the sink.
    #[error("cursor {path:?}: another process is delivering to this sink")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is of another log.
    #[error(
        "cursor {path:?}: belongs to the log {cursor}, this is {log}: if the log was replaced on \
         purpose, remove the cursor, and everything in the new log is delivered"
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// The log it is of.
        cursor: String,
        /// The log that is there.
        log: String,
    },
    /// The log has fewer lines than were delivered.
    #[error(
        "cursor {path:?}: the next line would be {cursor}, and the log ends before {log}: lines \
         that were delivered are missing from it: check it with `cellos verify`, and remove the \
         cursor when the log is what it should be"
    )]
    Ahead {
        /// The file.
        path: PathBuf,
        /// Its next line.
        cursor: u64,
        /// The log's next line.
        log: u64,
    },
    /// The line before it is another than was delivered.
    #[error(
        "cursor {path:?}: line {seq} of the log is not the line that was delivered: check the log \
         with `cellos verify`, and remove the cursor when the log is what it should be"
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// The line.
        seq: u64,
    },
}

impl Cursor {
    /// `<log>.cursor.<name>`: where the cursor of a sink is.
    #[must_use]
    pub fn path(log: &Path, name: &str) -> PathBuf {
        with_suffix(log, &format!(".cursor.{name}"))
    }

    /// Reads a cursor; `None` where nothing was delivered yet. Takes no lock: it is replaced as a
    /// whole.
    ///
    /// # Errors
    /// [`CursorError::Io`] and [`CursorError::Unreadable`].
    pub fn read(path: &Path) -> Result<Option<Self>, CursorError> {
        let unreadable = |problem: String| CursorError::Unreadable {
            path: path.to_owned(),
            problem,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(path, "open it")(errno.into())),
        };
        let mut text = Vec::new();
        file.take(MAX_CURSOR_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(failed(path, "read it"))?;
        if text.len() as u64 > MAX_CURSOR_BYTES {
            return Err(unreadable("it is too large".to_owned()));
        }
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if stored.format != FORMAT {
            return Err(unreadable(format!(
                "its format is {:?}, not {FORMAT:?}",
                stored.format
            )));
        }
        Ok(Some(Self {
            line_hash: stored
                .line_hash
                .parse()
                .map_err(|error| unreadable(format!("lineHash: {error}")))?,
            log_id: stored.log,
            next_seq: stored.next_seq,
        }))
    }

    /// How many lines of a log that ends at `tail` are not acknowledged.
    ///
    /// # Errors
    /// [`CursorError`] where the cursor does not fit the log.
    pub fn behind(&self, path: &Path, tail: &Tail) -> Result<u64, CursorError> {
        let path = || path.to_owned();
        if self.log_id != tail.log_id {
            return Err(CursorError::OtherLog {
                path: path(),
                cursor: self.log_id.clone(),
                log: tail.log_id.clone(),
            });
        }
        match tail.next_seq.checked_sub(self.next_seq) {
            None => Err(CursorError::Ahead {
                path: path(),
                cursor: self.next_seq,
                log: tail.next_seq,
            }),
            Some(0) if self.line_hash != tail.prev => Err(CursorError::Altered {
                path: path(),
                seq: self.next_seq.saturating_sub(1),
            }),
            Some(behind) => Ok(behind),
        }
    }
}

/// A cursor that this process alone moves.
#[derive(Debug)]
pub(super) struct CursorFile {
    path: PathBuf,
    /// Held as long as it is open. A file of its own, because the cursor is replaced.
    _lock: File,
}

impl CursorFile {
    /// Takes the cursor of a sink.
    pub(super) fn take(path: PathBuf) -> Result<Self, CursorError> {
        let lock = create(&with_suffix(&path, ".lock"), OFlags::empty())
            .map_err(failed(&path, "open its lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(CursorError::Busy { path }),
            Err(errno) => Err(failed(&path, "lock it")(errno.into())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Stores the cursor, so that it survives a crash of the machine.
    pub(super) fn store(&self, cursor: &Cursor) -> Result<(), CursorError> {
        let failed = |operation| failed(&self.path, operation);
        let stored = Stored {
            format: FORMAT.to_owned(),
            log: cursor.log_id.clone(),
            next_seq: cursor.next_seq,
            line_hash: cursor.line_hash.to_hex(),
        };
        let mut text = serde_json::to_vec(&stored)
            .map_err(|error| failed("write it")(io::Error::other(error)))?;
        text.push(b'\n');
        let new = with_suffix(&self.path, ".new");
        create(&new, OFlags::TRUNC)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            })
            .map_err(failed("write it"))?;
        std::fs::rename(&new, &self.path).map_err(failed("replace it"))?;
        File::open(folder_of(&self.path))
            .and_then(|folder| folder.sync_all())
            .map_err(failed("flush its folder"))
    }
}

fn create(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> CursorError {
    let path = path.to_owned();
    move |source| CursorError::Io {
        path,
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            log_id: "01J".to_owned(),
            next_seq: 5,
            line_hash: LineHash([7; 32]),
        }
    }

    #[test]
    fn a_cursor_is_stored_whole_and_taken_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = Cursor::path(&folder.path().join("events.jsonl"), "x");
        let file = CursorFile::take(path.clone()).unwrap();
        assert_eq!(Cursor::read(&path).unwrap(), None);
        file.store(&cursor()).unwrap();
        assert_eq!(Cursor::read(&path).unwrap(), Some(cursor()));
        let second = CursorFile::take(path.clone());
        assert!(matches!(second, Err(CursorError::Busy { .. })));
        drop(file);
        CursorFile::take(path).unwrap();
    }

    #[test]
    fn what_is_no_cursor_names_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let huge = "x".repeat(5000);
        for text in ["", "{}", "[", "{\"format\":\"cellos.cursor/2\"}", &huge] {
            std::fs::write(&path, text).unwrap();
            let error = Cursor::read(&path).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{error}");
        }
    }

    #[test]
    fn a_cursor_has_to_fit_the_log() {
        let tail = |log_id: &str, next_seq, hash| Tail {
            log_id: log_id.to_owned(),
            next_seq,
            prev: LineHash([hash; 32]),
        };
        let behind = |tail| cursor().behind(Path::new("c"), &tail);
        assert_eq!(behind(tail("01J", 9, 1)).unwrap(), 4);
        assert_eq!(behind(tail("01J", 5, 7)).unwrap(), 0);
        assert!(matches!(
            behind(tail("01J", 5, 1)),
            Err(CursorError::Altered { seq: 4, .. })
        ));
        assert!(matches!(
            behind(tail("01J", 4, 1)),
            Err(CursorError::Ahead { .. })
        ));
        assert!(matches!(
            behind(tail("02K", 9, 1)),
            Err(CursorError::OtherLog { .. })
        ));
    }
}
