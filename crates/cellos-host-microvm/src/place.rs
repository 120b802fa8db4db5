//! A folder of a machine's own, with the record of what the machine has on the host.
//!
//! The record is written before each thing is acquired, so that what a killed supervisor leaves can
//! be found ([`leftovers`](crate::leftovers)). Its lock is held as long as the machine is somebody's.

mod record;
mod undo;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

#[cfg(test)]
pub(crate) use self::record::Told;
pub(crate) use self::{
    record::{RECORD_FILE, Record, RecordError, Recorded, Resource},
    undo::undo,
};

/// Length of a machine's name: 100 random bits, which never meet, in a socket's address of at most
/// 107 bytes.
const NAME_LENGTH: usize = 20;

/// RFC 4648's digits in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// One machine's folder. Dropping it kills what its record names and removes everything: that is
/// for creations that were given up and for a backend that is dropped; [`Place::remove`] tells what
/// came of it.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
    folder: PathBuf,
    record: Record,
}

impl Place {
    /// Makes a place beneath `run_folder`, which is made where it is missing.
    ///
    /// # Errors
    /// The kernel's refusal, with the step that it met.
    pub(crate) fn make(run_folder: &Path, cell_id: Option<&str>) -> Result<Self, PlaceError> {
        let step = |step: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| PlaceError { step, path, source }
        };
        Self::prepare(run_folder)?;
        // Nobody looks for leftovers while a folder is without a locked record.
        let run = fs::File::open(run_folder).map_err(step("open the run folder", run_folder))?;
        rustix::fs::flock(&run, rustix::fs::FlockOperation::LockShared)
            .map_err(|error| step("lock the run folder", run_folder)(error.into()))?;
        let name = name_of(cell_id).map_err(step("draw a name in", run_folder))?;
        let folder = run_folder.join(&name);
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(step("make the folder", &folder))?;
        match Record::create(&folder, &name, cell_id) {
            Ok(record) => Ok(Self {
                name,
                folder,
                record,
            }),
            Err(source) => {
                // The first error is the one to report; the folder holds nothing but the record.
                let _ = fs::remove_dir_all(&folder);
                Err(step("write the record of", &folder)(source))
            }
        }
    }

    /// Makes the run folder where it is missing, and sees that it is this user's alone. Nothing may
    /// be read from it or written to it before.
    ///
    /// # Errors
    /// The kernel's refusal, or whose it is instead.
    pub(crate) fn prepare(run_folder: &Path) -> Result<(), PlaceError> {
        private_folder(run_folder).map_err(|source| PlaceError {
            step: "make the run folder",
            path: run_folder.to_owned(),
            source,
        })
    }

    /// The machine's name on the host.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Removes the folder and whatever its record names, which the machine itself should have
    /// removed before. One line for each thing that is left. Doing it twice is harmless.
    pub(crate) fn remove(&self) -> Vec<String> {
        undo(&self.folder, &self.record.noted()).left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.folder.exists() {
            self.remove();
        }
    }
}

/// A place that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}: {source}", path.display())]
pub(crate) struct PlaceError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Makes a folder that only its owner enters, or sees that there is one.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    must_be_private(&fs::metadata(path)?)
}

/// Whether only this user can have put into a folder what is in it. What is found in another one
/// must be neither believed nor followed: its records name processes to kill and folders to remove.
pub(crate) fn must_be_private(found: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "it belongs to user {}, not to this one; choose another run folder",
            found.uid()
        )));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "others can write to it (mode {:o}); `chmod 700` it",
            found.mode() & 0o7777
        )));
    }
    Ok(())
}

/// Whether this could be a machine's name. Other folders are kept beside the places.
pub(crate) fn is_name(name: &std::ffi::OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.len() == NAME_LENGTH && bytes.iter().all(|byte| BASE32.contains(byte))
}

/// A name that nobody can foresee and that holds nothing of the cell's id.
fn name_of(cell_id: Option<&str>) -> io::Result<String> {
    let mut random = [0_u8; 32];
    crate::random::fill(&mut random)?;
    let digest = Sha256::new()
        .chain_update(cell_id.unwrap_or_default())
        .chain_update(random)
        .finalize();
    Ok(digest
        .iter()
        .take(NAME_LENGTH)
        .map(|byte| char::from(BASE32[usize::from(byte & 31)]))
        .collect())
}
