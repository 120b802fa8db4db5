//! The state folder: `<state>/runs/<run>/record.json`, with the run's folder locked while its
//! supervisor lives.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::record::{RECORD_FORMAT_VERSION, RunRecord};

/// Name of the record in a run's folder.
const RECORD: &str = "record.json";
/// Name of a record that is being written.
const PARTIAL: &str = "record.partial";
/// Largest record that is read, in bytes; a written one has a few hundred and free labels.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Age in seconds after which a run's folder without a record is one that nobody is about to fill.
const UNUSED_AFTER_SECONDS: i64 = 60;
/// Longest folder name, in bytes, on every common file system.
const MAX_FOLDER_NAME_BYTES: usize = 255;

/// What can go wrong with the state folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A system call failed.
    #[error("cannot {operation} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's text.
        reason: String,
    },
    /// The run is alive.
    #[error("run {run_id:?} is running; choose another run id")]
    InUse {
        /// The run.
        run_id: String,
    },
    /// The run was left by a killed supervisor.
    #[error("run {run_id:?} was left by another supervisor; `cellos reap` finishes it")]
    LeftOver {
        /// The run.
        run_id: String,
    },
    /// The id cannot name a folder.
    #[error("run id is empty or too long for a folder name")]
    RunId,
    /// The record cannot be understood.
    #[error("record {} cannot be understood: {reason}", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl StateError {
    fn io(operation: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// The state folder.
#[derive(Debug, Clone)]
pub struct StateFolder {
    root: PathBuf,
}

impl StateFolder {
    /// Opens the folder and makes it, readable for its owner only, when it is not there.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateError> {
        let folder = Self { root: root.into() };
        make_private(&folder.runs())?;
        Ok(folder)
    }

    /// Where the folder is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one run. Other files of the run may be kept there too.
    ///
    /// # Errors
    /// [`StateError::RunId`] when the id cannot name a folder.
    pub fn run_folder(&self, run_id: &str) -> Result<PathBuf, StateError> {
        Ok(self.runs().join(folder_name(run_id)?))
    }

    fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Takes the run's id and writes its record.
    ///
    /// # Errors
    /// [`StateError::InUse`] and [`StateError::LeftOver`] when the id is taken.
    pub fn begin(&self, record: RunRecord) -> Result<RunLease, StateError> {
        let folder = self.run_folder(&record.run_id)?;
        make_private(&folder)?;
        let lock = lock(&folder)?.ok_or_else(|| StateError::InUse {
            run_id: record.run_id.clone(),
        })?;
        if folder.join(RECORD).exists() {
            return Err(StateError::LeftOver {
                run_id: record.run_id,
            });
        }
        let lease = RunLease {
            folder,
            record,
            _lock: lock,
        };
        lease.write()?;
        Ok(lease)
    }

    /// Looks at every run's folder, in the order of their names. Those of runs that ended before
    /// they had a record, or after it was gone, are removed.
    pub(super) fn look(&self, now: Timestamp) -> Result<Vec<Look>, StateError> {
        let runs = self.runs();
        let entries =
            fs::read_dir(&runs).map_err(|error| StateError::io("read folder", &runs, &error))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| StateError::io("read folder", &runs, &error))?;
            found.push(Look {
                run: entry.file_name(),
                found: find(&entry.path(), now),
            });
        }
        found.sort_by(|a, b| a.run.cmp(&b.run));
        Ok(found)
    }
}

/// One look at a run's folder.
pub(super) struct Look {
    /// The folder's name.
    pub(super) run: OsString,
    /// What is in it.
    pub(super) found: Result<Found, StateError>,
}

/// What a run's folder holds.
pub(super) enum Found {
    /// No record: nothing to do.
    Nothing,
    /// Its supervisor lives.
    Alive,
    /// Its supervisor is gone; now it is ours.
    Left(Box<RunLease>),
}

fn find(folder: &Path, now: Timestamp) -> Result<Found, StateError> {
    if !folder.join(RECORD).exists() {
        remove_unused(folder, now);
        return Ok(Found::Nothing);
    }
    let Some(lock) = lock(folder)? else {
        return Ok(Found::Alive);
    };
    let path = folder.join(RECORD);
    let bytes = match read_bounded(&path) {
        Ok(bytes) => bytes,
        // Finished by somebody else between the look and the lock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(StateError::io("read", &path, &error)),
    };
    let record = serde_json::from_slice::<RunRecord>(&bytes)
        .map_err(|error| error.to_string())
        .and_then(|record| {
            if record.format_version > RECORD_FORMAT_VERSION {
                Err(format!(
                    "its format version {} is newer than {RECORD_FORMAT_VERSION}; use the newer \
                     program",
                    record.format_version
                ))
            } else {
                Ok(record)
            }
        })
        .map_err(|reason| StateError::Record { path, reason })?;
    Ok(Found::Left(Box::new(RunLease {
        folder: folder.to_owned(),
        record,
        _lock: lock,
    })))
}

/// Removes a folder without a record that is too old to belong to a run that begins. It holds
/// nothing of a cell, so one that stays does no harm, and is found the next time.
fn remove_unused(folder: &Path, now: Timestamp) {
    let is_old = fs::symlink_metadata(folder).is_ok_and(|metadata| {
        now.as_second().saturating_sub(metadata.mtime()) > UNUSED_AFTER_SECONDS
    });
    if is_old && matches!(lock(folder), Ok(Some(_))) {
        let _ = fs::remove_file(folder.join(PARTIAL));
        let _ = fs::remove_dir(folder);
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_RECORD_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A run whose record this process holds.
#[derive(Debug)]
pub struct RunLease {
    folder: PathBuf,
    record: RunRecord,
    /// Locked by flock(2) for as long as it is open, so that it is free the moment this process
    /// is gone, however it ended.
    _lock: File,
}

impl RunLease {
    /// The record.
    #[must_use]
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Changes the record.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be written; the one on disk is then unchanged.
    pub fn update(&mut self, change: impl FnOnce(&mut RunRecord)) -> Result<(), StateError> {
        change(&mut self.record);
        self.write()
    }

    /// Removes the record, and the run's folder when nothing else is in it.
    ///
    /// # Errors
    /// [`StateError::Io`] when the record cannot be removed.
    pub fn finish(self) -> Result<(), StateError> {
        let path = self.folder.join(RECORD);
        fs::remove_file(&path).map_err(|error| StateError::io("remove", &path, &error))?;
        // Left by a supervisor that was killed while it wrote; mostly not there.
        let _ = fs::remove_file(self.folder.join(PARTIAL));
        // Other files of the run keep the folder.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Replaces the record on disk. It has to outlive this process, not the machine: cells do not
    /// outlive the machine either, so nothing is synchronised to the disk.
    fn write(&self) -> Result<(), StateError> {
        let (partial, path) = (self.folder.join(PARTIAL), self.folder.join(RECORD));
        let bytes = serde_json::to_vec(&self.record).map_err(|error| StateError::Record {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(|error| StateError::io("write", &partial, &error))?;
        fs::rename(&partial, &path).map_err(|error| StateError::io("replace", &path, &error))
    }
}

fn make_private(folder: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| StateError::io("make folder", folder, &error))
}

fn lock(folder: &Path) -> Result<Option<File>, StateError> {
    let file = File::open(folder).map_err(|error| StateError::io("open", folder, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(StateError::io("lock", folder, &error)),
    }
}

/// A run id as a folder name: itself, with every byte but letters, digits, `.`, `_` and `-` (and a
/// leading `.`) as `%` and two hexadecimal digits.
fn folder_name(run_id: &str) -> Result<String, StateError> {
    let mut name = String::with_capacity(run_id.len());
    for (index, byte) in run_id.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte.into()),
            b'.' if index > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > MAX_FOLDER_NAME_BYTES {
        return Err(StateError::RunId);
    }
    Ok(name)
}

/// Where state is kept: `explicit`, else `CELLOS_STATE_DIR`, else `/var/lib/cellos` for root, else
/// `$XDG_STATE_HOME/cellos`, else `$HOME/.local/state/cellos`. `None` when none of these is
/// known. Relative values of the XDG variable are ignored, as its specification says.
#[must_use]
pub fn default_state_dir(
    explicit: Option<&Path>,
    environment: impl Fn(&str) -> Option<OsString>,
    effective_uid: u32,
) -> Option<PathBuf> {
    let variable = |name| environment(name).filter(|value| !value.is_empty());
    if let Some(path) = explicit {
        return Some(path.to_owned());
    }
    if let Some(path) = variable("CELLOS_STATE_DIR") {
        return Some(path.into());
    }
    if effective_uid == 0 {
        return Some("/var/lib/cellos".into());
    }
    variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .map(|path| path.join("cellos"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_dir_follows_the_documented_order() {
        let all = |name: &str| match name {
            "CELLOS_STATE_DIR" => Some("/c".into()),
            "XDG_STATE_HOME" => Some("/x".into()),
            "HOME" => Some("/h".into()),
            _ => None,
        };
        let without_own = |name: &str| all(name).filter(|_| name != "CELLOS_STATE_DIR");
        let home_only = |name: &str| all(name).filter(|_| name == "HOME");
        let dir = |explicit: Option<&str>, env: &dyn Fn(&str) -> Option<OsString>, uid| {
            default_state_dir(explicit.map(Path::new), env, uid)
        };
        assert_eq!(dir(Some("/e"), &all, 0), Some("/e".into()));
        assert_eq!(dir(None, &all, 0), Some("/c".into()));
        assert_eq!(dir(None, &without_own, 0), Some("/var/lib/cellos".into()));
        assert_eq!(dir(None, &without_own, 7), Some("/x/cellos".into()));
        assert_eq!(
            dir(None, &home_only, 7),
            Some("/h/.local/state/cellos".into())
        );
        assert_eq!(dir(None, &|_| None, 7), None);
    }

    #[test]
    fn hostile_run_ids_stay_inside_the_state_folder() {
        let name = |run_id| folder_name(run_id).ok();
        assert_eq!(name("run-1.a"), Some("run-1.a".into()));
        assert_eq!(name("../../etc"), Some("%2E.%2F..%2Fetc".into()));
        assert_eq!(name(".."), Some("%2E.".into()));
        assert_eq!(name(""), None);
        assert_eq!(name(&"x".repeat(256)), None);
    }
}
