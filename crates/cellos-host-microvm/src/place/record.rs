//! The record of what a machine has on the host.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// Name of a record in its place.
pub(crate) const RECORD_FILE: &str = "machine.jsonl";

/// Version of [`Told`]; a reader refuses a record with another one.
const FORMAT_VERSION: u32 = 1;

/// Largest record that is read, in bytes: hundreds of times what a machine has.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// Something of a machine on the host that outlives its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Resource {
    /// A process. Noted as soon as it has a number; before that it dies with its parent
    /// (`PR_SET_PDEATHSIG`).
    Process {
        pid: u32,
        /// Field 22 of `/proc/PID/stat`, by which it is told from a later one of its number.
        start_time: u64,
    },
    /// A control group, empty or with processes of this machine only.
    ControlGroup { path: PathBuf },
    /// A folder outside of the place, such as a jail, that is removed with all it holds.
    Folder { path: PathBuf },
    /// A file or socket outside of the place.
    File { path: PathBuf },
    /// A file that a namespace is mounted on.
    NamespaceFile { path: PathBuf },
}

/// One line of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Told {
    /// The first line.
    Machine {
        format_version: u32,
        name: String,
        supervisor_pid: u32,
    },
    /// The machine is this cell's.
    Cell { id: String },
    /// The machine has this.
    Has(Resource),
}

/// The record of one machine: lines of JSON, each appended in one write, so that a supervisor
/// killed at any moment leaves whole lines.
///
/// It is not flushed to disk: what it names does not survive the kernel either.
#[derive(Debug)]
pub(crate) struct Record {
    /// `None` in tests of drivers.
    file: Option<File>,
    noted: Mutex<Vec<Resource>>,
}

impl Record {
    /// Makes a record, locked for as long as it is kept.
    pub(super) fn create(folder: &Path, name: &str, cell_id: Option<&str>) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join(RECORD_FILE))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let record = Self {
            file: Some(file),
            noted: Mutex::default(),
        };
        record.append(&Told::Machine {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            supervisor_pid: std::process::id(),
        })?;
        if let Some(id) = cell_id {
            record.give_to(id)?;
        }
        Ok(record)
    }

    /// A record that only tells what was noted, for tests of drivers.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self {
            file: None,
            noted: Mutex::default(),
        }
    }

    /// Notes what is about to be acquired, or a process that was just started.
    ///
    /// # Errors
    /// The kernel's refusal; the thing must not be acquired then.
    pub(crate) fn note(&self, resource: Resource) -> io::Result<()> {
        let told = Told::Has(resource);
        self.append(&told)?;
        if let Told::Has(resource) = told {
            self.list().push(resource);
        }
        Ok(())
    }

    /// Notes whose machine it is, once that is known.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn give_to(&self, cell_id: &str) -> io::Result<()> {
        self.append(&Told::Cell {
            id: cell_id.to_owned(),
        })
    }

    /// Everything that was noted.
    pub(crate) fn noted(&self) -> Vec<Resource> {
        self.list().clone()
    }

    fn append(&self, told: &Told) -> io::Result<()> {
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        match self.file.as_ref() {
            Some(mut file) => file.write_all(&line),
            None => Ok(()),
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Resource>> {
        // No code that holds the lock panics.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record whose supervisor is gone. It is locked as long as this is kept, so that one process
/// undoes it.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) cell_id: Option<String>,
    pub(crate) resources: Vec<Resource>,
    _locked: Option<File>,
}

/// Why a record cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// Its machine is somebody's.
    #[error("its machine is in use")]
    InUse,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("line {line} of {RECORD_FILE} cannot be read: {source}")]
    Unreadable {
        line: usize,
        source: serde_json::Error,
    },
    #[error("{RECORD_FILE} has format {found}, this program knows {FORMAT_VERSION}")]
    Version { found: u32 },
}

impl Recorded {
    /// Takes over the record in a folder. A folder without one, whose supervisor was killed before
    /// it wrote a line, has nothing but itself.
    pub(crate) fn take_over(folder: &Path) -> Result<Self, RecordError> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(folder.join(RECORD_FILE));
        let mut file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    cell_id: None,
                    resources: Vec::new(),
                    _locked: None,
                });
            }
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::InUse),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut text = String::new();
        (&mut file)
            .take(MAX_RECORD_BYTES)
            .read_to_string(&mut text)?;
        let (cell_id, resources) = parse(&text)?;
        Ok(Self {
            cell_id,
            resources,
            _locked: Some(file),
        })
    }
}

fn parse(text: &str) -> Result<(Option<String>, Vec<Resource>), RecordError> {
    let mut cell_id = None;
    let mut resources = Vec::new();
    // What follows the last line's end was being written when the supervisor was killed.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (index, line) in whole.lines().enumerate() {
        let told = serde_json::from_str(line).map_err(|source| RecordError::Unreadable {
            line: index + 1,
            source,
        })?;
        match told {
            Told::Machine { format_version, .. } if format_version != FORMAT_VERSION => {
                return Err(RecordError::Version {
                    found: format_version,
                });
            }
            Told::Machine { .. } => {}
            Told::Cell { id } => cell_id = Some(id),
            Told::Has(resource) => resources.push(resource),
        }
    }
    Ok((cell_id, resources))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(folder.path(), "name", None).unwrap();
        let resources = [
            Resource::ControlGroup { path: "/g".into() },
            Resource::Process {
                pid: 7,
                start_time: 9,
            },
        ];
        for resource in &resources {
            record.note(resource.clone()).unwrap();
        }
        record.give_to("cell").unwrap();
        assert!(matches!(
            Recorded::take_over(folder.path()),
            Err(RecordError::InUse)
        ));
        drop(record);
        let recorded = Recorded::take_over(folder.path()).unwrap();
        assert_eq!(recorded.resources, resources);
        assert_eq!(recorded.cell_id.as_deref(), Some("cell"));
    }

    #[test]
    fn a_torn_last_line_is_no_error_and_any_other_is() {
        let whole = r#"{"has":{"file":{"path":"/a"}}}"#;
        let (_, resources) = parse(&format!("{whole}\n{{\"has\":")).unwrap();
        assert_eq!(resources.len(), 1);
        assert!(matches!(
            parse("{\"has\":\n"),
            Err(RecordError::Unreadable { line: 1, .. })
        ));
        assert!(matches!(
            parse("{\"machine\":{\"formatVersion\":2,\"name\":\"\",\"supervisorPid\":1}}\n"),
            Err(RecordError::Version { found: 2 })
        ));
    }
}
