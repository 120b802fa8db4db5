//! Known vulnerabilities in dependencies. The database of advisories is a repository that not
//! every machine can fetch, so a machine without a copy says so instead of failing.

use std::path::Path;

use crate::error::TaskError;
use crate::process;
use crate::report::Outcome;
use crate::workspace::{self, Workspace};

pub(super) fn check(workspace: &Workspace) -> Result<Outcome, TaskError> {
    // Where cargo-deny keeps its copy.
    let there =
        workspace::cargo_home().is_some_and(|home| has_database(&home.join("advisory-dbs")));
    if !there {
        return Ok(Outcome::Skipped(
            "no copy of the advisory database here; fetch one with `cargo deny fetch db`"
                .to_owned(),
        ));
    }
    // Offline: a test run judges what is there, and does not depend on a server.
    process::run(&mut workspace.cargo(&["deny", "--frozen", "check", "advisories"]))?;
    Ok(Outcome::Held("holds".to_owned()))
}

/// Whether a clone with something in it is below `folder`, and not only what a failed try left.
fn has_database(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.path().join(".git/FETCH_HEAD").is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fetched_clone_is_a_database() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_database(&folder.path().join("absent")));
        std::fs::write(folder.path().join("db.lock"), "").unwrap();
        let git = folder.path().join("advisory-db-1/.git");
        std::fs::create_dir_all(&git).unwrap();
        assert!(!has_database(folder.path()));
        std::fs::write(git.join("FETCH_HEAD"), "").unwrap();
        assert!(has_database(folder.path()));
    }
}
