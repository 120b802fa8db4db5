//! Looking at the records of runs without taking any of them over.

use std::{
    fs::{self, File, TryLockError},
    io::Read as _,
    path::PathBuf,
};

use serde::Deserialize;

use super::folder::{MAX_RECORD_BYTES, RECORD, StateError, StateFolder};

/// Most records that are read; more runs than that are never alive on one host.
pub const MAX_LISTED_RECORDS: usize = 65_536;

/// Whether a run's supervisor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervised {
    /// It holds the record.
    Alive,
    /// It is gone; `cellos reap` finishes the run.
    Left,
}

/// A run that has a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRun {
    /// The run.
    pub run_id: String,
    /// The cell.
    pub cell_id: String,
    /// The backend.
    pub backend: String,
    /// When the run began, RFC 3339.
    pub created_at: String,
    /// The file that its events are appended to.
    pub events_file: Option<PathBuf>,
    /// Whether its supervisor lives.
    pub supervised: Supervised,
}

/// What is read of a record, of whatever version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    run_id: String,
    cell_id: String,
    backend: String,
    created_at: String,
    #[serde(default)]
    events_file: Option<PathBuf>,
}

impl StateFolder {
    /// The runs that have a record, by run id. Records that come and go meanwhile, and those that
    /// cannot be read, are passed over.
    ///
    /// # Errors
    /// [`StateError::Io`] when the folder cannot be read.
    pub fn known_runs(&self) -> Result<Vec<KnownRun>, StateError> {
        let folder = self.runs();
        let entries = fs::read_dir(&folder)
            .map_err(|error| StateError::io("read folder", &folder, &error))?;
        let mut runs = Vec::new();
        for entry in entries.take(MAX_LISTED_RECORDS) {
            let entry = entry.map_err(|error| StateError::io("read folder", &folder, &error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') && name.ends_with(RECORD) {
                runs.extend(known(&entry.path()));
            }
        }
        runs.sort_by(|a, b| a.run_id.cmp(&b.run_id));
        Ok(runs)
    }
}

fn known(path: &std::path::Path) -> Option<KnownRun> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    (&file)
        .take(MAX_RECORD_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    let record: Record = serde_json::from_slice(&bytes).ok()?;
    // A shared lock, which ends with this function: a reaper that comes just now takes the run for
    // alive, and finishes it the next time.
    let supervised = match file.try_lock_shared() {
        Ok(()) => Supervised::Left,
        Err(TryLockError::WouldBlock) => Supervised::Alive,
        Err(TryLockError::Error(_)) => return None,
    };
    Some(KnownRun {
        run_id: record.run_id,
        cell_id: record.cell_id,
        backend: record.backend,
        created_at: record.created_at,
        events_file: record.events_file,
        supervised,
    })
}
