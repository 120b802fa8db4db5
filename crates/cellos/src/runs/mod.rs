//! The runs that a log tells of: reading it, and finding one of them.

pub(crate) mod find;
pub(crate) mod reasons;
pub(crate) mod show;
pub(crate) mod story;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_evidence::{
    facts::Facts,
    finding::Place,
    log::{LineEnd, LineReader, RawLine, Segments},
    projection::{Projection, RunView, event_in},
};
use cellos_supervisor::state::StateFolder;
use rustix::fs::{Mode, OFlags};

use crate::{failure::Failure, say, state_dir};

/// Where a command finds the log.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Event log [default: the one of the state folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl LogArgs {
    /// The log, and the state folder where that is where the log is from.
    pub(crate) fn open(&self) -> Result<(PathBuf, Option<StateFolder>), Failure> {
        if let Some(log) = &self.log {
            return Ok((log.clone(), None));
        }
        let state = state_dir::open(self.state_dir.as_deref())?;
        Ok((state_dir::event_log(&state)?, Some(state)))
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot open event log {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("event log {path:?} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("cannot read event log {path:?}")]
    Read { path: PathBuf, source: io::Error },
}

/// What a log is like, besides its runs.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Read {
    /// Lines that hold no event that can be read.
    pub(crate) unreadable: u64,
}

impl Read {
    /// Tells what the reader has to know who sees only the runs.
    pub(crate) fn warn(self, log: &Path) {
        if self.unreadable > 0 {
            say::warning(&format!(
                "{} lines of {log:?} cannot be read; `cellos verify` says which",
                self.unreadable
            ));
        }
    }
}

/// Reads a log, and gives every run to `each`: first those that ended, as they do, then those that
/// did not. A log that is not there has no runs.
pub(crate) fn read(log: &Path, each: impl FnMut(RunView)) -> Result<Read, Failure> {
    read_events(log, |_, _| {}, each)
}

/// The same, and every event that can be read goes to `event` as well, with its place: a run keeps
/// only so many.
pub(crate) fn read_events(
    log: &Path,
    mut event: impl FnMut(&Facts<'_>, &Place),
    mut each: impl FnMut(RunView),
) -> Result<Read, Failure> {
    let mut read = Read::default();
    let mut projection = Projection::default();
    // The runs carry what was found about them.
    let mut findings = Vec::new();
    for file in files(log)? {
        let mut lines = LineReader::new(open(&file)?);
        let file = Arc::new(file);
        loop {
            let line = lines.next_line().map_err(|source| {
                Failure::call(ReadError::Read {
                    path: file.to_path_buf(),
                    source,
                })
            })?;
            let Some(line) = line else { break };
            match facts(line) {
                Some(facts) => {
                    let place = Place {
                        file: Arc::clone(&file),
                        line: line.number,
                    };
                    event(&facts, &place);
                    if let Some(run) = projection.apply(&facts, &place, &mut findings) {
                        each(run);
                    }
                    findings.clear();
                }
                None => read.unreadable += 1,
            }
        }
    }
    for run in projection.finish(&mut findings) {
        each(run);
    }
    Ok(read)
}

fn facts(line: RawLine<'_>) -> Option<Facts<'_>> {
    if line.end == LineEnd::TooLong {
        return None;
    }
    Facts::of(event_in(line.bytes).ok()?).ok()
}

/// The files of a log, in the order of their lines. A file elsewhere that a link leads to is read
/// as it is, without segments.
fn files(log: &Path) -> Result<Vec<PathBuf>, Failure> {
    if log.is_symlink() {
        return Ok(vec![log.to_owned()]);
    }
    let segments = Segments::of(log).map_err(Failure::call)?;
    Ok(segments.files().map(Path::to_owned).collect())
}

/// Opens a file of a log: no pipe, which would never end, and no device.
fn open(path: &Path) -> Result<File, Failure> {
    let failed = |source| {
        Failure::call(ReadError::Open {
            path: path.to_owned(),
            source,
        })
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| failed(errno.into()))?
        .into();
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::call(ReadError::NotAFile {
            path: path.to_owned(),
        }));
    }
    Ok(file)
}
