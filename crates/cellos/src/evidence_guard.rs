//! Keeps a cell away from what is written about it.

use std::path::{Path, PathBuf};

use cellos_core::{ExecutionCellDocument, document::MountAccess};

/// A cell could reach what it must not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum InReach {
    /// Its own evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceInReach),
    /// A private key.
    #[error(transparent)]
    Keys(#[from] KeysInReach),
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

/// Refuses a document with a writable mount that holds the events file, or that holds or lies in
/// the state folder. Both have to exist.
pub(crate) fn check(
    document: &ExecutionCellDocument,
    events_file: &Path,
    state: &Path,
) -> Result<(), EvidenceInReach> {
    let filesystem = document.spec.authority.filesystem.as_ref();
    let mounts = filesystem.map_or(&[][..], |filesystem| &filesystem.mounts);
    for (index, mount) in mounts.iter().enumerate() {
        if mount.access != MountAccess::Rw {
            continue;
        }
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
        let (events, state_folder) = (resolved(events_file), resolved(state));
        if events.starts_with(source) {
            return refuse("the events file", events_file);
        }
        if state_folder.starts_with(source) || source.starts_with(&state_folder) {
            return refuse("the state folder", state);
        }
    }
    Ok(())
}

/// A cell could read a private key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "spec.authority.filesystem.mounts[{index}]: {source_path:?} would show the cell the signing keys in \
     {}; mount less of it, or keep the keys elsewhere",
    place.display()
)]
pub(crate) struct KeysInReach {
    index: usize,
    source_path: String,
    place: PathBuf,
}

/// Refuses a document with a mount, writable or not, that holds or lies in one of these places.
/// Places that do not exist are in nobody's reach.
pub(crate) fn keep_private(
    document: &ExecutionCellDocument,
    places: &[PathBuf],
) -> Result<(), KeysInReach> {
    let filesystem = document.spec.authority.filesystem.as_ref();
    let mounts = filesystem.map_or(&[][..], |filesystem| &filesystem.mounts);
    for (index, mount) in mounts.iter().enumerate() {
        let source = Path::new(&mount.source);
        for place in places {
            let Ok(real) = place.canonicalize() else {
                continue;
            };
            if real.starts_with(source) || source.starts_with(&real) {
                return Err(KeysInReach {
                    index,
                    source_path: mount.source.clone(),
                    place: place.clone(),
                });
            }
        }
    }
    Ok(())
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
        let places = [link, place.join("absent")];
        for access in ["ro", "rw"] {
            let shown = |source: &Path| keep_private(&document(source, access), &places).is_err();
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
        assert_eq!(refused(&place, "ro"), None);
        assert_eq!(refused(&place, "rw"), Some("the events file"));
        assert_eq!(refused(&state, "rw"), Some("the state folder"));
        assert_eq!(refused(&state.join("runs"), "rw"), Some("the state folder"));
    }
}
