//! What killed supervisors left of their machines.

use std::{fs, io, path::Path};

use rustix::fs::FlockOperation;

use crate::place::{RECORD_FILE, RecordError, Recorded, is_name, must_be_private, undo};

/// Which machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Those of one cell.
    OfCell(&'a str),
    /// All that nobody has any more.
    All,
}

/// What could not be undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeftoverError {
    /// The run folder cannot be looked at.
    #[error("look for machines in {folder}: {source}")]
    Folder {
        /// The run folder.
        folder: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A record cannot be read; nothing that it names was touched.
    #[error("machine {name}: {why}")]
    Record {
        /// The machine's name, which is its folder's.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Something is still there.
    #[error("left on the host: {}", left.join("; "))]
    Left {
        /// One line for each thing.
        left: Vec<String>,
    },
}

/// Ends and removes what killed supervisors left of machines below a run folder, and says what that
/// was. Machines that somebody has are not touched, whichever process it is: their records are
/// locked.
///
/// # Errors
/// [`LeftoverError`], the first one; what else there was is removed all the same.
pub fn remove(run_folder: &Path, which: Which<'_>) -> Result<Vec<String>, LeftoverError> {
    let mut removed = Vec::new();
    let mut first_error = None;
    for (name, recorded) in take_over(run_folder, which)? {
        match recorded {
            Ok(recorded) => {
                let undone = undo(&run_folder.join(&name), &recorded.resources);
                removed.extend(undone.removed);
                if !undone.left.is_empty() {
                    first_error.get_or_insert(LeftoverError::Left { left: undone.left });
                }
            }
            Err(error) => {
                let why = error.to_string();
                first_error.get_or_insert(LeftoverError::Record { name, why });
            }
        }
    }
    first_error.map_or(Ok(removed), Err)
}

type TakenOver = Vec<(String, Result<Recorded, RecordError>)>;

/// Locks the records that nobody has. Whoever makes a place holds the run folder's lock shared until
/// its record is locked, so that none is seen half made.
fn take_over(run_folder: &Path, which: Which<'_>) -> Result<TakenOver, LeftoverError> {
    let failed = |source| LeftoverError::Folder {
        folder: run_folder.display().to_string(),
        source,
    };
    let lock = match fs::File::open(run_folder) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    lock.metadata()
        .and_then(|found| must_be_private(&found))
        .map_err(failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| failed(error.into()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(run_folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_place(&entry.path()) {
            continue;
        }
        match Recorded::take_over(&entry.path()) {
            Err(RecordError::InUse) => {}
            Ok(recorded) => {
                let wanted = match which {
                    Which::All => true,
                    Which::OfCell(cell_id) => recorded.cell_id.as_deref() == Some(cell_id),
                };
                if wanted {
                    found.push((name, Ok(recorded)));
                }
            }
            // Whose it is cannot be known.
            Err(error) if which == Which::All => found.push((name, Err(error))),
            Err(_) => {}
        }
    }
    Ok(found)
}

/// A folder with a record, or an empty one whose supervisor was killed before it wrote one.
fn is_place(folder: &Path) -> bool {
    folder.join(RECORD_FILE).exists()
        || folder.file_name().is_some_and(is_name)
            && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::place::{Place, Resource, Told};

    #[test]
    fn a_live_place_is_not_touched_and_an_orphan_is_undone() {
        let run = tempfile::tempdir().unwrap();
        let live = Place::make(run.path(), Some("cell")).unwrap();
        let mut sleeper = Command::new("sleep")
            .arg("600")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let jail = tempfile::tempdir().unwrap().keep();
        live.record()
            .note(Resource::Folder { path: jail.clone() })
            .unwrap();
        live.record()
            .note(Resource::Process {
                pid: sleeper.id(),
                start_time: crate::process::start_time(sleeper.id()).unwrap(),
            })
            .unwrap();
        assert!(remove(run.path(), Which::All).unwrap().is_empty());
        assert!(sleeper.try_wait().unwrap().is_none());

        // What a killed supervisor leaves: the same folder, and nobody who has the lock.
        let folder = live.folder().to_owned();
        let copy = run.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::copy(folder.join(RECORD_FILE), copy.join(RECORD_FILE)).unwrap();
        assert!(
            remove(run.path(), Which::OfCell("another"))
                .unwrap()
                .is_empty()
        );
        let removed = remove(run.path(), Which::OfCell("cell")).unwrap();
        assert_eq!(removed.len(), 3, "{removed:?}");
        assert!(!sleeper.wait().unwrap().success());
        assert!(!jail.exists() && !copy.exists() && folder.exists());
        drop(live);
        assert!(!folder.exists());
    }

    #[test]
    fn records_that_others_can_have_written_are_not_followed() {
        use std::os::unix::fs::PermissionsExt as _;

        let run = tempfile::tempdir().unwrap();
        let victim = tempfile::tempdir().unwrap();
        let place = run.path().join("place");
        fs::create_dir(&place).unwrap();
        let told = [
            Told::Cell { id: "cell".into() },
            Told::Has(Resource::Folder {
                path: victim.path().to_owned(),
            }),
        ];
        let lines = told.map(|told| serde_json::to_string(&told).unwrap() + "\n");
        fs::write(place.join(RECORD_FILE), lines.concat()).unwrap();
        fs::set_permissions(run.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for which in [Which::OfCell("cell"), Which::All] {
            let refused = remove(run.path(), which).unwrap_err().to_string();
            assert!(refused.contains("others can write to it"), "{refused}");
        }
        assert!(victim.path().exists() && place.exists());
        fs::set_permissions(run.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(remove(run.path(), Which::All).unwrap().len(), 2);
        assert!(!victim.path().exists());
    }

    #[test]
    fn a_process_that_only_has_the_number_is_left_alone() {
        let run = tempfile::tempdir().unwrap();
        let place = run.path().join("place");
        fs::create_dir(&place).unwrap();
        let own = std::process::id();
        fs::write(
            place.join(RECORD_FILE),
            format!("{{\"has\":{{\"process\":{{\"pid\":{own},\"startTime\":1}}}}}}\n"),
        )
        .unwrap();
        let removed = remove(run.path(), Which::All).unwrap();
        assert_eq!(removed.len(), 1, "only the folder: {removed:?}");
    }
}
