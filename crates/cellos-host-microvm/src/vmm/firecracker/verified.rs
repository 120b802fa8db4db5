//! Files of snapshots, which Firecracker trusts as it does its own program.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::stage::digest;
use crate::artifacts::Artifact;

/// Digests that are remembered; a pool has two files for each shape of machine.
const MAX_REMEMBERED: usize = 64;

/// What was measured already. Hashing the memory of a guest takes many times as long as restoring
/// it, so a file is measured once for as long as it is the same: an inode that only root can
/// write, with the same size and time of change of its content. (Each restored machine links it,
/// which changes its other time.)
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<Identity, String>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Verified {
    /// Opens a file and compares the digest of what it opened.
    ///
    /// # Errors
    /// `InvalidData` for other content or another kind of file, else the kernel's answer.
    pub(crate) fn open(&self, path: &Path, sha256: &str) -> io::Result<Artifact> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(named)?;
        let metadata = file.metadata().map_err(named)?;
        let other = |why: &str| Err(named(io::Error::new(io::ErrorKind::InvalidData, why)));
        if !metadata.is_file() {
            return other("not a regular file");
        }
        let only_root = metadata.uid() == 0 && metadata.mode() & 0o222 == 0;
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let remembered = only_root.then(|| self.remembered(&identity)).flatten();
        let seen = match remembered {
            Some(seen) => seen,
            None => {
                let seen = digest(&file).map_err(named)?;
                if only_root {
                    self.remember(identity, &seen);
                }
                seen
            }
        };
        if seen != sha256 {
            return other("its content is not what was measured when it was made");
        }
        Ok(Artifact {
            path: path.to_owned(),
            file: Arc::new(file),
            sha256: seen,
        })
    }

    fn remembered(&self, identity: &Identity) -> Option<String> {
        let digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        digests.get(identity).cloned()
    }

    fn remember(&self, identity: Identity, sha256: &str) {
        let mut digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() >= MAX_REMEMBERED {
            digests.clear();
        }
        digests.insert(identity, sha256.to_owned());
    }
}
