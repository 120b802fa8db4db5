//! Making what was appended survive a crash of the machine, and saying how far that goes.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Durability, EventLog, LogError,
    recovery::whole,
    rotation::Flushed,
    segments::folder_of,
    storage::{FileId, Kind, Make, StoredFile},
    writer::Inner,
};
use crate::{
    head::{self, HEAD_BYTES, Head},
    line::Tail,
};

/// What has been flushed.
#[derive(Default)]
pub(super) struct Flush {
    /// One flush at a time: whoever waited finds its events flushed by the one before, mostly.
    turn: Mutex<Done>,
    /// The same for tasks, which give way while they wait.
    pub(super) tasks: tokio::sync::Mutex<()>,
    /// Whether the names in the folder may not survive yet.
    folder: AtomicBool,
    /// Whether a flush has failed.
    lost: AtomicBool,
}

/// The file of the head.
pub(super) struct HeadFile {
    file: Arc<dyn StoredFile>,
    id: FileId,
}

/// How far the flushes went.
#[derive(Default)]
struct Done {
    /// Lines before this survive, and the head says so.
    next_seq: u64,
}

impl Flush {
    /// Refuses once a flush has failed: what it was about may be lost.
    pub(super) fn check_lost(&self, path: &Path) -> Result<(), LogError> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(LogError::Lost { path: path.into() }),
            false => Ok(()),
        }
    }

    /// A file was made in the folder, or another process may have made one.
    pub(super) fn folder_changed(&self) {
        self.folder.store(true, Ordering::Relaxed);
    }

    pub(super) fn sync_file(&self, path: &Path, file: &dyn StoredFile) -> Result<(), LogError> {
        file.sync().map_err(|source| {
            self.lost.store(true, Ordering::Relaxed);
            LogError::io(path, "flush it", source)
        })
    }
}

impl EventLog {
    /// Returns when everything appended so far survives what the configuration says it shall, and
    /// the head says how far the log goes.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn sync(&self) -> Result<(), LogError> {
        let target = self.inner.state().tail.next_seq;
        self.inner.sync_to(target)
    }

    /// As [`EventLog::sync`], for tasks. On a runtime with several threads the flush goes to those
    /// for blocking calls; on one with a single thread, which runs one cell and has nothing
    /// else to do, starting a thread for it would cost more.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn flush_async(&self) -> Result<(), LogError> {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let target = self.inner.state().tail.next_seq;
        let alone = Handle::try_current().map_or(true, |runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
        });
        if alone || self.inner.config.durability == Durability::Process {
            return self.inner.sync_to(target);
        }
        let _turn = self.inner.flush.tasks.lock().await;
        if self.inner.has_flushed(target) {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || inner.sync_to(target)).await {
            Ok(result) => result,
            Err(join) => Err(LogError::io(
                &self.inner.config.path,
                "flush it",
                std::io::Error::other(join),
            )),
        }
    }
}

impl Inner {
    fn has_flushed(&self, target: u64) -> bool {
        let done = self.flush.turn.lock();
        let done = done.unwrap_or_else(PoisonError::into_inner);
        done.next_seq >= target
            && !self.flush.folder.load(Ordering::Relaxed)
            && !self.flush.lost.load(Ordering::Relaxed)
    }

    fn sync_to(&self, target: u64) -> Result<(), LogError> {
        let path = &self.config.path;
        let flush = &self.flush;
        let mut done = flush.turn.lock().unwrap_or_else(PoisonError::into_inner);
        flush.check_lost(path)?;
        if done.next_seq >= target && !flush.folder.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (live, tail) = {
            let state = self.state();
            (state.live.clone(), state.tail.clone())
        };
        if self.config.durability == Durability::Machine {
            // Before the flush: a file that is made meanwhile has to be seen by the next one.
            let folder = flush.folder.swap(false, Ordering::Relaxed);
            if let Some(live) = live {
                flush.sync_file(path, &*live.file)?;
            }
            if folder {
                self.storage
                    .sync_folder(folder_of(path))
                    .map_err(|source| {
                        flush.folder_changed();
                        LogError::io(path, "flush its folder", source)
                    })?;
            }
        } else {
            flush.folder.store(false, Ordering::Relaxed);
        }
        if tail.next_seq > 0 {
            self.locked(|state| self.write_head(&mut state.head_file, &tail))?;
        }
        done.next_seq = tail.next_seq;
        Ok(())
    }

    /// Writes the head, unless there is one that is further already. The lock is held, and `open` is
    /// the file that was written to last.
    ///
    /// The file is written over in place: a new one in its place would be an inode and two names
    /// more in what the next flush has to wait for.
    pub(super) fn write_head(
        &self,
        open: &mut Option<HeadFile>,
        tail: &Tail,
    ) -> Result<(), LogError> {
        let path = head::path_of(&self.config.path);
        let there = self
            .storage
            .identity(&path)
            .map_err(|source| LogError::io(&path, "look for it", source))?;
        let had = open.take().filter(|had| Some(had.id) == there);
        let file = match had {
            Some(had) => Some(had),
            None => self.open_head(&path)?,
        };
        let old = match &file {
            Some(had) => self.head_in(&path, &*had.file)?,
            None => self.head()?,
        };
        let further =
            old.is_some_and(|head| head.log_id == tail.log_id && head.next_seq >= tail.next_seq);
        if further {
            *open = file;
            return Ok(());
        }
        let head = head::write(tail, self.config.clock.now(), self.signer());
        let head = head.map_err(|source| LogError::Sign {
            path: self.config.path.clone(),
            source: Arc::new(source),
        })?;
        match file {
            Some(had) if head.len() == HEAD_BYTES => {
                overwrite(&path, &*had.file, &head)?;
                *open = Some(had);
                Ok(())
            }
            _ => self.replace(&path, &head, Flushed::No),
        }
    }

    /// The head in an open file; `None` where somebody has damaged it.
    fn head_in(&self, path: &Path, file: &dyn StoredFile) -> Result<Option<Head>, LogError> {
        let mut bytes = [0; HEAD_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(whole(path, &bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(LogError::io(path, "read it", error)),
        }
    }

    /// Opens the head where it can be written over.
    fn open_head(&self, path: &Path) -> Result<Option<HeadFile>, LogError> {
        let file = match self.storage.open(path, Make::NeverToAppend) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::open(path, error)),
        };
        let status = file
            .status()
            .map_err(|source| LogError::io(path, "look at it", source))?;
        let whole = status.kind == Kind::Regular && status.size == HEAD_BYTES as u64;
        Ok(whole.then_some(HeadFile {
            file,
            id: status.id,
        }))
    }
}

fn overwrite(path: &Path, file: &dyn StoredFile, head: &[u8]) -> Result<(), LogError> {
    match file.overwrite(head) {
        Ok(written) if written == head.len() => Ok(()),
        Ok(_) => Err(std::io::ErrorKind::StorageFull.into()),
        Err(error) => Err(error),
    }
    .map_err(|source| LogError::io(path, "write to it", source))
}
