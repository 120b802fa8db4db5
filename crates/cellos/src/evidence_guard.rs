//! Keeps a cell away from what is written about it.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cellos_core::{
    ExecutionCellDocument,
    document::{Mount, MountAccess},
};

/// A cell could reach what it must not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum InReach {
    /// Its own evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceInReach),
    /// What it must not even see.
    #[error(transparent)]
    Hidden(#[from] HiddenInReach),
}

/// A cell could change its own evidence.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "spec.authority.filesystem.mounts[{index}]: {source_path:?} would let the cell write to {what} \
     {}; mount it `ro`, mount less of it, or keep {what} elsewhere",
    place.display()
)]
pub(crate) struct EvidenceInReach {
    index: usize,
    source_path: String,
    what: &'static str,
    place: PathBuf,
}

/// Refuses a document with a writable mount that holds the events file or is one of the files
/// beside it, or that holds or lies in the state folder. Both have to exist.
pub(crate) fn check(
    document: &ExecutionCellDocument,
    events_file: &Path,
    state: &Path,
) -> Result<(), EvidenceInReach> {
    let (events, state_folder) = (resolved(events_file), resolved(state));
    for (index, mount) in writable(document) {
        // A source with a link in its path is refused when it is opened.
        let source = Path::new(&mount.source);
        let refuse = |what, place: &Path| {
            Err(EvidenceInReach {
                index,
                source_path: mount.source.clone(),
                what,
                place: place.to_path_buf(),
            })
        };
        if is_within(&events, source) || is_beside(source, &events) {
            return refuse("the events file", events_file);
        }
        if is_within(&state_folder, source) || is_within(source, &state_folder) {
            return refuse("the state folder", state);
        }
    }
    Ok(())
}

/// Refuses a document with a writable mount that holds this file, which steers later runs.
pub(crate) fn keep_unchanged(
    document: &ExecutionCellDocument,
    what: &'static str,
    file: &Path,
) -> Result<(), EvidenceInReach> {
    let real = resolved(file);
    let mut mounts = writable(document);
    match mounts.find(|(_, mount)| is_within(&real, Path::new(&mount.source))) {
        None => Ok(()),
        Some((index, mount)) => Err(EvidenceInReach {
            index,
            source_path: mount.source.clone(),
            what,
            place: file.to_path_buf(),
        }),
    }
}

/// Something that no cell may see, not even read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// What it is, for the message.
    pub(crate) what: &'static str,
    /// The file or folder. Where it does not exist, it is in nobody's reach.
    pub(crate) place: PathBuf,
}

impl Hidden {
    /// The files by which the runs of this host exclude each other. Whoever can open a file for
    /// reading can hold a lock on it (flock(2)), and then nobody else writes to the log.
    pub(crate) fn locks(events_file: &Path, state: &Path) -> [Self; 2] {
        let mut lock = events_file.as_os_str().to_owned();
        lock.push(".lock");
        [
            Self {
                what: "the lock of the event log",
                place: lock.into(),
            },
            Self {
                what: "the locks in the state folder",
                place: state.to_owned(),
            },
        ]
    }
}

/// A cell could see what it must not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "spec.authority.filesystem.mounts[{index}]: {source_path:?} would show the cell {what}, {}; \
     mount less of it, or keep {what} elsewhere",
    place.display()
)]
pub(crate) struct HiddenInReach {
    index: usize,
    source_path: String,
    what: &'static str,
    place: PathBuf,
}

/// Refuses a document with a mount, writable or not, that holds or lies in one of these places.
pub(crate) fn keep_hidden(
    document: &ExecutionCellDocument,
    places: &[Hidden],
) -> Result<(), HiddenInReach> {
    let real: Vec<(&Hidden, PathBuf)> = places
        .iter()
        .filter_map(|hidden| Some((hidden, hidden.place.canonicalize().ok()?)))
        .collect();
    for (index, mount) in mounts(document).iter().enumerate() {
        let source = Path::new(&mount.source);
        for (hidden, real) in &real {
            if is_within(real, source) || is_within(source, real) {
                return Err(HiddenInReach {
                    index,
                    source_path: mount.source.clone(),
                    what: hidden.what,
                    place: hidden.place.clone(),
                });
            }
        }
    }
    Ok(())
}

fn mounts(document: &ExecutionCellDocument) -> &[Mount] {
    let filesystem = document.spec.authority.filesystem.as_ref();
    filesystem.map_or(&[], |filesystem| &filesystem.mounts)
}

fn writable(document: &ExecutionCellDocument) -> impl Iterator<Item = (usize, &Mount)> {
    let mounts = mounts(document).iter().enumerate();
    mounts.filter(|(_, mount)| mount.access == MountAccess::Rw)
}

/// Whether a path is another one or lies beneath it: by name, or because it is the same file under
/// another name, as a hard link and a bind mount are.
fn is_within(path: &Path, outer: &Path) -> bool {
    path.starts_with(outer)
        || identity(outer).is_some_and(|outer| {
            path.ancestors()
                .any(|ancestor| identity(ancestor) == Some(outer))
        })
}

/// Device and inode of what is there, if anything.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.symlink_metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether a path is one of the files that stand beside a log: lock, head, segments, seals,
/// cursors.
fn is_beside(path: &Path, log: &Path) -> bool {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.as_encoded_bytes().to_vec())
    };
    let (Some(own), Some(logs)) = (name(path), name(log)) else {
        return false;
    };
    let stem = logs.strip_suffix(b".jsonl").unwrap_or(&logs);
    let folder = |path: &Path| path.parent().and_then(identity);
    own.strip_prefix(stem)
        .is_some_and(|rest| rest.starts_with(b"."))
        && folder(path) == folder(log)
}

/// The path without links, or as it is where it cannot be resolved.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(source: &Path, access: &str) -> ExecutionCellDocument {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "cellos.io/v1",
            "kind": "ExecutionCell",
            "spec": {
                "id": "a",
                "authority": {"filesystem": {"mounts": [
                    {"source": source, "target": "/work", "access": access},
                ]}},
                "lifetime": {"ttlSeconds": 1},
            },
        }))
        .unwrap()
    }

    #[test]
    fn keys_are_not_even_shown() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (keys, work) = (place.join("keys"), place.join("work"));
        for folder in [&keys, &work] {
            std::fs::create_dir(folder).unwrap();
        }
        let link = place.join("link");
        std::os::unix::fs::symlink(&keys, &link).unwrap();
        let places = [link, place.join("absent")].map(|place| Hidden {
            what: "a key",
            place,
        });
        for access in ["ro", "rw"] {
            let shown = |source: &Path| keep_hidden(&document(source, access), &places).is_err();
            assert!(!shown(&work));
            assert!(shown(&place));
            assert!(shown(&keys));
            assert!(shown(&keys.join("a.key")));
        }
    }

    #[test]
    fn only_what_could_be_changed_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (state, work, logs) = (place.join("state"), place.join("work"), place.join("logs"));
        for folder in [&state.join("runs"), &work, &logs] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let link = place.join("link");
        std::os::unix::fs::symlink(&logs, &link).unwrap();
        let events = link.join("events.jsonl");
        std::fs::write(&events, "").unwrap();
        let refused = |source: &Path, access| {
            check(&document(source, access), &events, &state)
                .err()
                .map(|error| error.what)
        };
        assert_eq!(refused(&work, "rw"), None);
        assert_eq!(refused(&logs, "ro"), None);
        assert_eq!(refused(&logs, "rw"), Some("the events file"));
        assert_eq!(
            refused(&logs.join("events.jsonl"), "rw"),
            Some("the events file")
        );
        for beside in [
            "events.jsonl.head",
            "events.1-2.seal.json",
            "events.jsonl.cursor.a",
        ] {
            std::fs::write(logs.join(beside), "").unwrap();
            let found = refused(&logs.join(beside), "rw");
            assert_eq!(found, Some("the events file"), "{beside}");
        }
        std::fs::write(logs.join("other.jsonl"), "").unwrap();
        assert_eq!(refused(&logs.join("other.jsonl"), "rw"), None);
        let second_name = work.join("innocent");
        std::fs::hard_link(logs.join("events.jsonl"), &second_name).unwrap();
        assert_eq!(refused(&second_name, "rw"), Some("the events file"));
        assert_eq!(refused(&place, "ro"), None);
        assert_eq!(refused(&place, "rw"), Some("the events file"));
        assert_eq!(refused(&state, "rw"), Some("the state folder"));
        assert_eq!(refused(&state.join("runs"), "rw"), Some("the state folder"));
    }

    #[test]
    fn locks_are_not_even_shown() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let (state, logs) = (place.join("state"), place.join("logs"));
        for folder in [&state, &logs] {
            std::fs::create_dir(folder).unwrap();
        }
        let events = logs.join("events.jsonl");
        for file in ["events.jsonl", "events.jsonl.lock"] {
            std::fs::write(logs.join(file), "").unwrap();
        }
        let locks = Hidden::locks(&events, &state);
        let shown = |source: &Path| keep_hidden(&document(source, "ro"), &locks).is_err();
        for source in [&place, &state, &logs, &logs.join("events.jsonl.lock")] {
            assert!(shown(source), "{source:?}");
        }
        assert!(!shown(&events));
    }
}
