//! The state folder: where it is, and where a run's events go when nobody says.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use cellos_supervisor::state::{StateFolder, default_state_dir};

use crate::failure::Failure;

/// Why there is no state folder.
#[derive(Debug, thiserror::Error)]
enum StateDirError {
    #[error("there is no place for the state folder: neither HOME nor XDG_STATE_HOME is set")]
    Nowhere,
    #[error("the folder of the event logs cannot be made: {}", path.display())]
    Events { path: PathBuf, source: io::Error },
}

/// Opens the state folder, and makes it where it is missing.
pub(crate) fn open(explicit: Option<&Path>) -> Result<StateFolder, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let root = default_state_dir(explicit, |name| std::env::var_os(name), uid)
        .ok_or_else(|| Failure::call(StateDirError::Nowhere).hint("name one with --state-dir"))?;
    StateFolder::open(root)
        .map_err(|error| Failure::call(error).hint("name another one with --state-dir"))
}

/// `<state>/log/events.jsonl`: the log of all runs whose caller names no other.
pub(crate) fn event_log(state: &StateFolder) -> Result<PathBuf, Failure> {
    Ok(made(state.root().join("log"))?.join("events.jsonl"))
}

/// `<state>/events/<run id>.jsonl`. Characters that a file name should not have become `_`; two
/// runs that then share a file append to it.
pub(crate) fn events_file(state: &StateFolder, run_id: &str) -> Result<PathBuf, Failure> {
    let folder = made(state.root().join("events"))?;
    Ok(folder.join(format!("{}.jsonl", file_name(run_id))))
}

fn made(folder: PathBuf) -> Result<PathBuf, Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|source| {
            Failure::call(StateDirError::Events {
                path: folder.clone(),
                source,
            })
        })?;
    Ok(folder)
}

/// Longest file name made from a run id, in characters; far below every file system's bound.
const MAX_NAME_CHARACTERS: usize = 128;

fn file_name(run_id: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String = run_id
        .chars()
        .take(MAX_NAME_CHARACTERS)
        .map(|character| if is_plain(character) { character } else { '_' })
        .collect();
    // Neither hidden nor a way up.
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_cannot_lead_out_of_the_folder() {
        for (run_id, name) in [
            ("01J9", "01J9"),
            ("../../etc/x", "_._.._etc_x"),
            ("..", "_."),
            ("a/b", "a_b"),
            ("ü", "_"),
        ] {
            assert_eq!(file_name(run_id), name);
        }
    }
}
