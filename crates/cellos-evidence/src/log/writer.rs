//! Appending to a log.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use cellos_core::CloudEventV1;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{Durability, LogConfig, LogError};
use crate::line::{self, LineHash, MAX_LINE_BYTES, Tail};

/// Longest wait for another process's lock, which is held for microseconds.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Time between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// Lines that were appended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Number of the first one.
    pub first_seq: u64,
    /// Where the next one will go.
    pub tail: Tail,
}

/// A log that is open for appending.
pub struct EventLog {
    config: LogConfig,
    lock: File,
    state: Mutex<State>,
}

struct State {
    file: File,
    /// Size of the file up to which `tail` is true.
    size: u64,
    tail: Tail,
}

impl EventLog {
    /// Opens or makes a log.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(config: LogConfig) -> Result<Self, LogError> {
        let lock = open(&beside(&config.path, "lock"))
            .map_err(|errno| failed(&config.path, "open its lock", errno.into()))?;
        let file =
            open(&config.path).map_err(|errno| failed(&config.path, "open it", errno.into()))?;
        let log = Self {
            state: Mutex::new(State {
                file,
                size: 0,
                tail: Tail::of_new_log(ulid::Ulid::generate().to_string()),
            }),
            lock,
            config,
        };
        {
            let _lock = log.lock()?;
            log.catch_up(&mut log.state.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(log)
    }

    /// Appends events as lines that stand together: all of them or none.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn append(&self, events: &[CloudEventV1]) -> Result<Appended, LogError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.lock()?;
        self.catch_up(&mut state)?;
        let first_seq = state.tail.next_seq;
        let mut tail = state.tail.clone();
        let lines = line::encode(&mut tail, events, self.config.signer.as_deref())?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&state.file, &lines));
        match written {
            Ok(written) if written == lines.len() => {}
            other => {
                let source = match other {
                    Ok(_) => io::ErrorKind::StorageFull.into(),
                    Err(errno) => io::Error::from(errno),
                };
                // Nobody else has appended meanwhile: everybody who appends holds the lock.
                let _ = rustix::fs::ftruncate(&state.file, state.size);
                return Err(failed(&self.config.path, "write to it", source));
            }
        }
        state.size += lines.len() as u64;
        state.tail = tail.clone();
        Ok(Appended { first_seq, tail })
    }

    /// Returns when everything appended so far survives what the configuration says it shall.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn sync(&self) -> Result<(), LogError> {
        if self.config.durability == Durability::Process {
            return Ok(());
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .file
            .sync_data()
            .map_err(|source| failed(&self.config.path, "flush it", source))
    }

    /// Takes in what other processes have appended.
    fn catch_up(&self, state: &mut State) -> Result<(), LogError> {
        let path = &self.config.path;
        let stat = rustix::fs::fstat(&state.file)
            .map_err(|errno| failed(path, "look at it", errno.into()))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if size == state.size {
            return Ok(());
        }
        let start = size.saturating_sub(MAX_LINE_BYTES as u64 + 1);
        let mut bytes = vec![0; usize::try_from(size - start).unwrap_or(MAX_LINE_BYTES + 1)];
        std::os::unix::fs::FileExt::read_exact_at(&state.file, &mut bytes, start)
            .map_err(|source| failed(path, "read its last line", source))?;
        let ended = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let from = ended
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let last = &ended[from..];
        let parsed = line::parse(last).map_err(|source| LogError::NotALog {
            path: path.clone(),
            source,
        })?;
        state.tail = Tail {
            log_id: parsed.log_id.to_owned(),
            next_seq: parsed.seq + 1,
            prev: LineHash::of_line(last),
        };
        state.size = size;
        Ok(())
    }

    fn lock(&self) -> Result<Locked<'_>, LogError> {
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked(&self.lock)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_WAIT => thread::sleep(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(LogError::Locked {
                        path: self.config.path.clone(),
                        waited_ms: start.elapsed().as_millis(),
                    });
                }
                Err(errno) => return Err(failed(&self.config.path, "lock it", errno.into())),
            }
        }
    }
}

/// Holds the exclusive lock.
struct Locked<'f>(&'f File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It can only fail for a descriptor that is not open, and this one is.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

/// A file that stands beside the log: `events.jsonl` has `events.jsonl.lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn open(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(Into::into)
}

fn failed(path: &Path, operation: &'static str, source: io::Error) -> LogError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            LogError::Full { path, source }
        }
        _ => LogError::Io {
            path,
            operation,
            source,
        },
    }
}
