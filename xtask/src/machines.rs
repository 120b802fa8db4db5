//! What the tests of the microVM backend boot: made anew by the program itself, as a user makes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::TaskError;
use crate::process;
use crate::report::Outcome;
use crate::workspace::{self, Workspace};

/// Tells tests where the bundle is. Beside it stand the keys that it is signed with.
pub(crate) const VARIABLE: &str = "CELLOS_TEST_VM_BUNDLE";

/// Below the state folder, as `cellos vm prepare` has it.
const BUNDLE: &str = "vm";

/// Largest guest in bytes, as it is installed: every machine has a copy of it in its memory.
const GUEST_BYTES: u64 = 9 << 18;

/// A state folder that holds a bundle and its keys, and nothing of runs.
pub(crate) struct Machines {
    state: PathBuf,
}

impl Machines {
    /// Where [`Machines::prepare`] makes it in this checkout.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        Self {
            state: workspace.root.join("target/machines"),
        }
    }

    /// Makes the bundle with the guest of this checkout.
    pub(crate) fn prepare(&self, workspace: &Workspace) -> Result<Outcome, TaskError> {
        if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
            return Ok(Outcome::Skipped(
                "the guest's kernel comes from a Debian package, and this is no Debian".to_owned(),
            ));
        }
        // As it is installed: what an emulated processor has to run should not be a debug build.
        let guest = workspace.release_program("cellos-guest")?;
        let size = hold_size(&guest)?;
        let cellos = workspace.debug_program("cellos")?;
        workspace::make_folder(&self.state)?;
        process::run(
            Command::new(cellos)
                .args(["vm", "prepare", "--replace", "--guest"])
                .arg(&guest)
                .env("CELLOS_STATE_DIR", &self.state)
                .env_remove("CELLOS_VM_DIR")
                .env_remove("CELLOS_VM_TRUST_KEYS"),
        )?;
        Ok(Outcome::Held(format!(
            "made and signed, with a guest of {size} bytes"
        )))
    }

    /// The bundle, where it was made.
    pub(crate) fn bundle(&self) -> Option<PathBuf> {
        Some(self.state.join(BUNDLE)).filter(|folder| folder.is_dir())
    }

    /// A copy of bundle and public keys for somebody who cannot read this checkout; the key that
    /// signs stays here.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<Option<PathBuf>, TaskError> {
        let Some(bundle) = self.bundle() else {
            return Ok(None);
        };
        let copy = folder.join(BUNDLE);
        for (from, to) in [
            (bundle, copy.clone()),
            (self.state.join("vm-keys"), folder.join("vm-keys")),
        ] {
            workspace::make_folder(&to)?;
            for entry in std::fs::read_dir(&from).map_err(TaskError::file("list", &from))? {
                let source = entry.map_err(TaskError::file("list", &from))?.path();
                let Some(name) = source.file_name() else {
                    continue;
                };
                if name == "signing.key" {
                    continue;
                }
                std::fs::copy(&source, to.join(name)).map_err(TaskError::file("copy", &source))?;
            }
        }
        Ok(Some(copy))
    }
}

/// The size of a guest, which has to keep the bound.
fn hold_size(guest: &Path) -> Result<u64, TaskError> {
    let size = std::fs::metadata(guest)
        .map_err(TaskError::file("measure", guest))?
        .len();
    if size > GUEST_BYTES {
        return Err(TaskError::Broken(vec![format!(
            "{} has {size} bytes, and {GUEST_BYTES} is the most for a part of every machine",
            guest.display()
        )]));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_as_large_as_the_bound_and_no_larger() {
        let folder = tempfile::tempdir().unwrap();
        let guest = folder.path().join("guest");
        let file = std::fs::File::create(&guest).unwrap();
        file.set_len(GUEST_BYTES).unwrap();
        assert_eq!(hold_size(&guest).unwrap(), GUEST_BYTES);
        file.set_len(GUEST_BYTES + 1).unwrap();
        assert!(matches!(hold_size(&guest), Err(TaskError::Broken(_))));
        assert!(hold_size(&folder.path().join("absent")).is_err());
    }
}
