//! Digests of files, each measured once.
//!
//! Bundles have hundreds of megabytes, and every cell would have to read them. A file that has the
//! same device, inode, size, modification and change time as when it was measured is the same file:
//! the change time cannot be set by anybody without changing the system's clock.
//!
//! Of a file that only root may write, the change time does not count: a jail links it, which
//! changes that time, and root could change the clock.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::place::must_be_private;

/// Name of the cache in the run folder.
pub(super) const CACHE_FILE: &str = "digests.json";

/// Most files that are kept, and the largest cache that is read, in bytes.
const MAX_KEPT: usize = 256;
const MAX_CACHE_BYTES: u64 = 128 * 1024;

/// A file that changed more recently than this may change again without its times changing: the
/// kernel's clock for them ticks every few milliseconds, other file systems' every two seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Permissions of group and others to write, `S_IWGRP | S_IWOTH`.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Digests that are known.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<Identity, String>>,
    cache: Option<PathBuf>,
    settled_after: Option<Duration>,
}

/// What tells a file from another and from itself before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: [i64; 2],
    /// Absent where only root may write the file.
    ctime: Option<[i64; 2]>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    format_version: u32,
    files: Vec<(Identity, String)>,
}

/// Version of [`Kept`]; a cache of another one is not used.
const FORMAT_VERSION: u32 = 2;

impl Digests {
    /// Keeps digests in a folder as well, and begins with those that are there.
    pub(crate) fn kept_in(run_folder: &Path) -> Self {
        let cache = run_folder.join(CACHE_FILE);
        Self {
            known: Mutex::new(load(&cache).unwrap_or_default()),
            cache: Some(cache),
            settled_after: None,
        }
    }

    /// For tests, whose files are new.
    #[cfg(test)]
    pub(super) fn settled(mut self) -> Self {
        self.settled_after = Some(Duration::ZERO);
        self
    }

    /// SHA-256 of an open regular file, 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// When it cannot be read, or changes meanwhile.
    pub(super) fn of(&self, file: &File) -> io::Result<String> {
        // Held while a file is read: whoever else wants a digest wants the same one.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(file)?;
        if let Some(digest) = known.get(&identity) {
            return Ok(digest.clone());
        }
        let digest = measure(file)?;
        if Identity::of(file)? != identity {
            return Err(io::Error::other("it was changed while it was read"));
        }
        let settled = identity.is_older_than(self.settled_after.unwrap_or(SETTLED_AFTER));
        if settled && keeps_its_times(&file.metadata()?) {
            if known.len() >= MAX_KEPT {
                known.clear();
            }
            known.insert(identity, digest.clone());
            if let Some(cache) = &self.cache {
                // Without a cache the next process measures again.
                let _ = store(cache, &known);
            }
        }
        Ok(digest)
    }
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let only_root = found.uid() == 0 && found.mode() & WRITABLE_BY_OTHERS == 0;
        Ok(Self {
            dev: found.dev(),
            ino: found.ino(),
            size: found.size(),
            mtime: [found.mtime(), found.mtime_nsec()],
            ctime: (!only_root).then(|| [found.ctime(), found.ctime_nsec()]),
        })
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let [modified, _] = self.mtime;
        let changed = self
            .ctime
            .map_or(modified, |[changed, _]| changed.max(modified));
        let changed = u64::try_from(changed).unwrap_or(u64::MAX);
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .is_ok_and(|now| now.saturating_sub(Duration::from_secs(changed)) >= age)
    }
}

/// Whether only root or this user can write to a file. Whoever else can may keep a part of it
/// mapped, and what is written that way need not change its times (mmap(2); on tmpfs it never
/// does): such a file is measured each time.
fn keeps_its_times(found: &fs::Metadata) -> bool {
    let owners = [0, rustix::process::geteuid().as_raw()];
    owners.contains(&found.uid()) && found.mode() & 0o022 == 0
}

fn measure(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        // By offset: the descriptor's position belongs to whoever boots from it.
        let read = match file.read_at(&mut buffer, offset) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
        offset += u64::try_from(read).map_err(io::Error::other)?;
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The digests in a cache that only this user can have written; `None` for any other.
fn load(path: &Path) -> Option<HashMap<Identity, String>> {
    must_be_private(&fs::metadata(path.parent()?).ok()?).ok()?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).ok()?)
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || !own || found.mode() & 0o7777 != 0o600 {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_CACHE_BYTES).read_to_end(&mut text).ok()?;
    let kept: Kept = serde_json::from_slice(&text).ok()?;
    (kept.format_version == FORMAT_VERSION).then(|| kept.files.into_iter().collect())
}

fn store(path: &Path, known: &HashMap<Identity, String>) -> io::Result<()> {
    // Nothing else has looked at the folder yet. In somebody else's, the name below could be a link
    // to any file of ours.
    must_be_private(&fs::metadata(path.parent().unwrap_or(path))?)?;
    let kept = Kept {
        format_version: FORMAT_VERSION,
        files: known
            .iter()
            .map(|(identity, digest)| (*identity, digest.clone()))
            .collect(),
    };
    let text = serde_json::to_vec(&kept)?;
    let next = path.with_extension(format!("{}.new", std::process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
        .mode(0o600)
        .open(&next)?;
    io::Write::write_all(&mut &file, &text)?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_link_is_a_change_only_of_what_others_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        let root = rustix::process::geteuid().is_root();
        for (mode, link_is_a_change) in [(0o644, !root), (0o666, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let before = Identity::of(&file).unwrap();
            // The clock of files ticks every few milliseconds.
            std::thread::sleep(Duration::from_millis(50));
            let link = folder.path().join("link");
            fs::hard_link(&path, &link).unwrap();
            fs::remove_file(link).unwrap();
            assert_eq!(
                Identity::of(&file).unwrap() != before,
                link_is_a_change,
                "{mode:o}"
            );
        }
        let before = Identity::of(&file).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        fs::write(&path, "CONTENT").unwrap();
        assert_ne!(Identity::of(&file).unwrap(), before);
    }
}
