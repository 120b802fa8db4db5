//! A file to which several processes append whole lines.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags, Stat},
    io::Errno,
};

use super::error::{OpenError, WriteError};

/// Longest wait for another process's lock, which is held for microseconds. Reached only when
/// that process was stopped while it wrote, or when a foreign program locks the file.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Time between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// A last line that was not ended, left by a writer that died while it wrote. Its bytes stay,
/// because the file may be somebody else's text; they are ended with a line feed, so that no
/// event is ever merged into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornLine {
    /// Offset in bytes at which the line feed was added.
    pub ended_at: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Threads of this process; flock(2) goes by open file description and does not part them.
    turn: Mutex<()>,
    /// Whether the file's name survives a crash; set at the end of the first flush.
    pub(super) folder_is_durable: AtomicBool,
    /// Whether a flush has failed.
    pub(super) lost: AtomicBool,
}

impl LogFile {
    /// Opens or makes the file, and ends a torn last line.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<TornLine>), OpenError> {
        // O_NONBLOCK: opening a FIFO or a device must not wait for its other end. It means
        // nothing for the regular file that is left after the check. Reading is for the last byte.
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| refusal(path, errno))?
            .into();
        let stat = rustix::fs::fstat(&file).map_err(|errno| OpenError::Refused {
            path: path.into(),
            operation: "look at it",
            source: errno.into(),
        })?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            other => {
                return Err(OpenError::NotAFile {
                    path: path.into(),
                    kind: kind(other),
                });
            }
        }
        let log = Self {
            path: path.into(),
            file,
            turn: Mutex::new(()),
            folder_is_durable: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        };
        let torn = log.append(b"")?;
        Ok((log, torn))
    }

    /// Appends lines, which bring their line feeds along, with one write: all of them or nothing. A
    /// torn line before them is ended first, in the same write.
    pub(super) fn append(&self, lines: &[u8]) -> Result<Option<TornLine>, WriteError> {
        self.check_lost()?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.lock()?;
        let stat = self.stat()?;
        if stat.st_nlink == 0 {
            return Err(WriteError::Deleted {
                path: self.path.clone(),
            });
        }
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if !self.ends_within_a_line(length)? {
            self.write_whole(lines, length)?;
            return Ok(None);
        }
        let mut ended = Vec::with_capacity(lines.len() + 1);
        ended.push(b'\n');
        ended.extend_from_slice(lines);
        self.write_whole(&ended, length)?;
        Ok(Some(TornLine { ended_at: length }))
    }

    /// Returns when everything appended so far, and the file's name, survive a crash.
    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.check_lost()?;
        self.file.sync_data().map_err(|source| {
            self.lost.store(true, Ordering::Relaxed);
            self.failed("flush it", source)
        })?;
        if self.folder_is_durable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| self.failed("flush its folder", source))?;
        self.folder_is_durable.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses once a flush has failed: what it was about may be lost.
    pub(super) fn check_lost(&self) -> Result<(), WriteError> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(WriteError::Lost {
                path: self.path.clone(),
            }),
            false => Ok(()),
        }
    }

    fn stat(&self) -> Result<Stat, WriteError> {
        rustix::fs::fstat(&self.file).map_err(|errno| self.failed("look at it", errno.into()))
    }

    fn ends_within_a_line(&self, length: u64) -> Result<bool, WriteError> {
        let Some(last) = length.checked_sub(1) else {
            return Ok(false);
        };
        let mut byte = [0];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut byte, last))
            .map_err(|errno| self.failed("read its last byte", errno.into()))?;
        Ok(read == 1 && byte != *b"\n")
    }

    fn write_whole(&self, bytes: &[u8], length: u64) -> Result<(), WriteError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let source = match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, bytes)) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(written) => io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {written} of {} bytes fit", bytes.len()),
            ),
            Err(errno) => errno.into(),
        };
        // Nobody else has appended meanwhile: everybody who appends holds the lock.
        match rustix::fs::ftruncate(&self.file, length) {
            Ok(()) => Err(self.failed("write to it", source)),
            Err(cut) if is_full(&source) => Err(WriteError::FullAndTorn {
                path: self.path.clone(),
                source,
                cut: cut.into(),
            }),
            // A torn line that stays is ended by the next append.
            Err(_) => Err(self.failed("write to it", source)),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> WriteError {
        let path = self.path.clone();
        match is_full(&source) {
            true => WriteError::Full { path, source },
            false => WriteError::Io {
                path,
                operation,
                source,
            },
        }
    }

    fn lock(&self) -> Result<Locked<'_>, WriteError> {
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked(&self.file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_WAIT => thread::sleep(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(WriteError::Locked {
                        path: self.path.clone(),
                        waited_ms: start.elapsed().as_millis(),
                    });
                }
                Err(errno) => return Err(self.failed("lock it", errno.into())),
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

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn refusal(path: &Path, errno: Errno) -> OpenError {
    let path = path.to_owned();
    match errno {
        Errno::LOOP => OpenError::SymbolicLink { path },
        Errno::ISDIR => OpenError::NotAFile {
            path,
            kind: kind(FileType::Directory),
        },
        Errno::NXIO => OpenError::NotAFile {
            path,
            kind: "socket or a device without a driver",
        },
        Errno::NOENT => OpenError::NoFolder { path },
        other => OpenError::Refused {
            path,
            operation: "open it",
            source: other.into(),
        },
    }
}

fn kind(file: FileType) -> &'static str {
    match file {
        FileType::RegularFile => "regular file",
        FileType::Directory => "folder",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Unknown => "thing of an unknown kind",
    }
}
