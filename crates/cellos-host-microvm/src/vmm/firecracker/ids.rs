//! User and group ids of monitors: one that no other live machine has.
//!
//! An id is leased by a lock on a file of its name in the run folder. The process that keeps a
//! monitor's namespace has the lock's descriptor too, so that an id is free when the last process
//! that may run under it is gone, however we ended.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use super::NAME;
use crate::{place::private_folder, vmm::VmmError};

/// Folder of the locks below the run folder.
const FOLDER: &str = "ids";

/// Ids that may be leased.
#[derive(Debug)]
pub(crate) struct IdPool {
    folder: PathBuf,
    first: u32,
    count: u32,
    /// Where the next search begins: an id just given back is the last to be taken again.
    next: AtomicU32,
}

/// One id, for as long as this and all duplicates of its descriptor live.
#[derive(Debug)]
pub(crate) struct IdLease {
    /// User id and group id.
    pub(crate) id: u32,
    lock: File,
}

impl IdPool {
    /// The pool whose locks are in a run folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] for a range that is empty, holds root or has no end.
    pub(crate) fn new(run_folder: &Path, first: u32, count: u32) -> Result<Self, VmmError> {
        // The last number is no id but means "none" in chown(2).
        let end = first.checked_add(count).filter(|end| *end < u32::MAX);
        if first == 0 || count == 0 || end.is_none() {
            return Err(VmmError::Unusable {
                monitor: NAME,
                why: format!(
                    "{count} user ids from {first} on are no pool for its jails; take at least \
                     one, none of them 0"
                ),
            });
        }
        private_folder(run_folder).map_err(|error| failed(run_folder, error))?;
        let folder = run_folder.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&folder, error));
            }
            _ => {}
        }
        Ok(Self {
            folder,
            first,
            count,
            next: AtomicU32::new(0),
        })
    }

    /// Leases an id.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] when all are leased, [`VmmError::Host`] for the locks' files.
    pub(crate) fn lease(&self) -> Result<IdLease, VmmError> {
        let begin = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.count {
            let id = self.first + begin.wrapping_add(step) % self.count;
            let path = self.folder.join(id.to_string());
            // Never removed: whoever waits for a removed file's lock would get one that nobody
            // else sees.
            let lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .mode(0o600)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
                .map_err(|error| failed(&path, error))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(IdLease { id, lock }),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(failed(&path, error.into())),
            }
        }
        Err(VmmError::Unusable {
            monitor: NAME,
            why: format!(
                "all {} user ids from {} on are those of live machines; give it a larger pool",
                self.count, self.first
            ),
        })
    }
}

impl IdLease {
    /// Another descriptor of the same lock, for the process that keeps the monitor.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone().map(Into::into)
    }
}

fn failed(path: &Path, source: io::Error) -> VmmError {
    VmmError::Host {
        step: format!("lease a user id by {}", path.display()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_leases_have_one_id_until_one_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        // As two processes would have it.
        let pools = [(); 2].map(|()| IdPool::new(folder.path(), 70_000, 3).unwrap());
        let leases = [
            pools[0].lease().unwrap(),
            pools[1].lease().unwrap(),
            pools[0].lease().unwrap(),
        ];
        let mut ids = leases.each_ref().map(|lease| lease.id);
        ids.sort_unstable();
        assert_eq!(ids, [70_000, 70_001, 70_002]);
        let refused = pools[1].lease().unwrap_err().to_string();
        assert!(refused.contains("larger pool"), "{refused}");
        let [first, ..] = leases;
        let id = first.id;
        let kept = first.duplicate().unwrap();
        drop(first);
        pools[1].lease().unwrap_err();
        drop(kept);
        assert_eq!(pools[1].lease().unwrap().id, id);
    }

    #[test]
    fn root_is_in_no_pool() {
        let folder = tempfile::tempdir().unwrap();
        for (first, count) in [(0, 5), (1, 0), (u32::MAX - 2, 2), (u32::MAX, 9)] {
            IdPool::new(folder.path(), first, count).unwrap_err();
        }
    }
}
