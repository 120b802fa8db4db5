//! The state folder: `<state>/runs/<run>.json`, the record of a run, locked while its supervisor
//! lives.
//!
//! A record is one file and no folder, because making and removing a folder costs a cell more than
//! all of its events on a journalling file system.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags};

use super::record::{RECORD_FORMAT_VERSION, RunRecord};

/// End of a record's name.
pub(super) const RECORD: &str = ".json";
/// End of the name of a record that is being written; it begins with a dot, as no record does.
const PARTIAL: &str = ".partial";
/// Largest record that is read, in bytes; a written one has a few hundred and free labels.
pub(super) const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Age in seconds after which a partial record is one that nobody is about to finish.
const UNUSED_AFTER_SECONDS: i64 = 60;
/// Longest name that stands for a run id, in bytes: what every common file system takes, less what
/// a partial record's name has besides.
const MAX_RUN_NAME_BYTES: usize = 255 - PARTIAL_EXTRA_BYTES;
/// What a partial record's name has besides: dots, process id, number and end.
const PARTIAL_EXTRA_BYTES: usize = 48;

/// How many partial records this process has named.
static PARTIALS: AtomicU64 = AtomicU64::new(0);

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
    /// The id cannot name a file.
    #[error("run id is empty or too long for a file name")]
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
    pub(super) fn io(operation: &'static str, path: &Path, error: &io::Error) -> Self {
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

    /// The file that a run's record is in while the run lives, or is left unfinished.
    ///
    /// # Errors
    /// [`StateError::RunId`] when the id cannot name a file.
    pub fn record_file(&self, run_id: &str) -> Result<PathBuf, StateError> {
        let name = run_name(run_id)?;
        Ok(self.runs().join(format!("{name}{RECORD}")))
    }

    pub(super) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Takes the run's id and writes its record.
    ///
    /// # Errors
    /// [`StateError::InUse`] and [`StateError::LeftOver`] when the id is taken.
    pub fn begin(&self, record: RunRecord) -> Result<RunLease, StateError> {
        let name = run_name(&record.run_id)?;
        let mut lease = RunLease {
            path: self.record_file(&record.run_id)?,
            // Two that begin the same run at once must not write to one file.
            partial: self.runs().join(format!(
                ".{name}.{}-{}{PARTIAL}",
                std::process::id(),
                PARTIALS.fetch_add(1, Ordering::Relaxed)
            )),
            record,
            lock: None,
        };
        match lease.write(Place::New) {
            Ok(()) => Ok(lease),
            Err(_) if lease.path.exists() => {
                let run_id = lease.record.run_id.clone();
                Err(match open_locked(&lease.path)? {
                    Locked::ByOther => StateError::InUse { run_id },
                    Locked::ByUs(_) | Locked::Gone => StateError::LeftOver { run_id },
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at every run's record, in the order of their names. Partial ones that nobody will
    /// finish are removed.
    pub(super) fn look(&self, now: Timestamp) -> Result<Vec<Look>, StateError> {
        let runs = self.runs();
        let entries =
            fs::read_dir(&runs).map_err(|error| StateError::io("read folder", &runs, &error))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| StateError::io("read folder", &runs, &error))?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if text.starts_with('.') && text.ends_with(PARTIAL) {
                remove_unused(&entry.path(), now);
            } else if let Some(run) = text.strip_suffix(RECORD) {
                found.push(Look {
                    run: run.into(),
                    found: find(&entry.path()),
                });
            }
        }
        found.sort_by(|a, b| a.run.cmp(&b.run));
        Ok(found)
    }
}

/// One look at a run's record.
pub(super) struct Look {
    /// The record's name, without its end.
    pub(super) run: OsString,
    /// What is in it.
    pub(super) found: Result<Found, StateError>,
}

/// What became of the run.
pub(super) enum Found {
    /// No record: nothing to do.
    Nothing,
    /// Its supervisor lives.
    Alive,
    /// Its supervisor is gone; now it is ours.
    Left(Box<RunLease>),
}

/// Whose a record is.
enum Locked {
    /// Its supervisor's, or another reaper's.
    ByOther,
    /// Nobody's until now.
    ByUs(File),
    /// Finished by somebody else meanwhile.
    Gone,
}

/// Opens a record and locks it where it is free.
fn open_locked(path: &Path) -> Result<Locked, StateError> {
    let file = match File::options().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locked::Gone),
        Err(error) => return Err(StateError::io("open", path, &error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Locked::ByOther),
        Err(TryLockError::Error(error)) => return Err(StateError::io("lock", path, &error)),
    }
    // The lock is the file's, not the name's: another one may have it by now.
    let ours = file
        .metadata()
        .map_err(|error| StateError::io("look at", path, &error))?;
    match fs::symlink_metadata(path) {
        Ok(named) if named.ino() == ours.ino() && named.dev() == ours.dev() => {
            Ok(Locked::ByUs(file))
        }
        Ok(_) => Ok(Locked::ByOther),
        Err(_) => Ok(Locked::Gone),
    }
}

fn find(path: &Path) -> Result<Found, StateError> {
    let lock = match open_locked(path)? {
        Locked::ByOther => return Ok(Found::Alive),
        Locked::Gone => return Ok(Found::Nothing),
        Locked::ByUs(lock) => lock,
    };
    let mut bytes = Vec::new();
    (&lock)
        .take(MAX_RECORD_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| StateError::io("read", path, &error))?;
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
        .map_err(|reason| StateError::Record {
            path: path.to_owned(),
            reason,
        })?;
    Ok(Found::Left(Box::new(RunLease {
        path: path.to_owned(),
        partial: path.with_extension("partial"),
        record,
        lock: Some(lock),
    })))
}

/// Removes a partial record that is too old to be one that is being written. It belongs to no cell,
/// so one that stays does no harm, and is found the next time.
fn remove_unused(path: &Path, now: Timestamp) {
    let is_old = fs::symlink_metadata(path).is_ok_and(|metadata| {
        now.as_second().saturating_sub(metadata.mtime()) > UNUSED_AFTER_SECONDS
    });
    if is_old && matches!(open_locked(path), Ok(Locked::ByUs(_))) {
        let _ = fs::remove_file(path);
    }
}

/// A run whose record this process holds.
#[derive(Debug)]
pub struct RunLease {
    path: PathBuf,
    partial: PathBuf,
    record: RunRecord,
    /// The record's file, locked by flock(2) for as long as it is open, so that it is free the
    /// moment this process is gone, however it ended.
    lock: Option<File>,
}

/// Where a record is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where there must not be one yet.
    New,
    /// Where this lease's own is.
    Own,
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
        self.write(Place::Own)
    }

    /// Removes the record.
    ///
    /// # Errors
    /// [`StateError::Io`] when the record cannot be removed.
    pub fn finish(self) -> Result<(), StateError> {
        fs::remove_file(&self.path).map_err(|error| StateError::io("remove", &self.path, &error))
    }

    /// Puts the record on disk, whole and locked or not at all. It has to outlive this process, not
    /// the machine: cells do not outlive the machine either, so nothing is synchronised to the
    /// disk.
    fn write(&mut self, place: Place) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(&self.record).map_err(|error| StateError::Record {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        match self.put(&bytes, place) {
            Ok(lock) => {
                // The old file's lock ends here, when its name is the new one's already.
                self.lock = Some(lock);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&self.partial);
                Err(StateError::io("write", &self.path, &error))
            }
        }
    }

    fn put(&self, bytes: &[u8], place: Place) -> io::Result<File> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.partial)?;
        file.try_lock()?;
        file.write_all(bytes)?;
        let flags = match place {
            Place::New => RenameFlags::NOREPLACE,
            Place::Own => RenameFlags::empty(),
        };
        rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.path, flags)?;
        Ok(file)
    }
}

fn make_private(folder: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| StateError::io("make folder", folder, &error))
}

/// A run id as a file name: itself, with every byte but letters, digits, `.`, `_` and `-` (and a
/// leading `.`) as `%` and two hexadecimal digits.
fn run_name(run_id: &str) -> Result<String, StateError> {
    let mut name = String::with_capacity(run_id.len());
    for (index, byte) in run_id.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte.into()),
            b'.' if index > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > MAX_RUN_NAME_BYTES {
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
        let name = |run_id| run_name(run_id).ok();
        assert_eq!(name("run-1.a"), Some("run-1.a".into()));
        assert_eq!(name("../../etc"), Some("%2E.%2F..%2Fetc".into()));
        assert_eq!(name(".."), Some("%2E.".into()));
        assert_eq!(name(""), None);
        assert_eq!(name(&"x".repeat(256)), None);
    }
}
