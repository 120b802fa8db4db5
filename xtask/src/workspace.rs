//! Where the workspace and its build products are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::TaskError;
use crate::process;

/// The folders of this checkout.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and configuration files are heeded.
    pub(crate) fn locate() -> Result<Self, TaskError> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--format-version=1", "--locked"]);
        let text = process::output(&mut command)?;
        let metadata: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| TaskError::unreadable("cargo metadata", error.to_string()))?;
        let folder = |field: &str| {
            metadata
                .get(field)
                .and_then(serde_json::Value::as_str)
                .map(PathBuf::from)
                .ok_or_else(|| TaskError::unreadable("cargo metadata", format!("no {field}")))
        };
        Ok(Self {
            root: folder("workspace_root")?,
        })
    }

    /// A cargo command that runs in the workspace root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Builds a program of the package of its name for release, and says where it is: that
    /// depends on the configured target.
    pub(crate) fn release_program(&self, name: &str) -> Result<PathBuf, TaskError> {
        self.program(name, &["--release"])
    }

    /// The same as tests are built.
    pub(crate) fn debug_program(&self, name: &str) -> Result<PathBuf, TaskError> {
        self.program(name, &[])
    }

    fn program(&self, name: &str, profile: &[&str]) -> Result<PathBuf, TaskError> {
        let mut command = self.cargo(&[
            "build",
            "--locked",
            "--package",
            name,
            "--bin",
            name,
            "--message-format=json-render-diagnostics",
        ]);
        let messages = process::output(command.args(profile))?;
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
            .find(|program| program.file_name().is_some_and(|file| file == name))
            .ok_or_else(|| TaskError::unreadable("cargo build", format!("no program {name}")))
    }

    /// Reads a text file of the checkout.
    pub(crate) fn read(&self, relative: &str) -> Result<String, TaskError> {
        read(&self.root.join(relative))
    }
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, TaskError> {
    std::fs::read_to_string(path).map_err(TaskError::file("read", path))
}

/// Writes a text file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), TaskError> {
    std::fs::write(path, text).map_err(TaskError::file("write", path))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), TaskError> {
    std::fs::create_dir_all(path).map_err(TaskError::file("create", path))
}

/// The cargo that started us, or the one on the search path.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where cargo keeps what serves all checkouts.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// A folder of our own that goes away with the value.
pub(crate) struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// Makes `NAME-PID` in the system's folder for temporary files.
    pub(crate) fn create(name: &str) -> Result<Self, TaskError> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        // Not create_dir_all: a folder that somebody else put there must not be taken over.
        std::fs::create_dir(&path).map_err(TaskError::file("create", &path))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_away_with_its_value_and_is_never_shared() {
        let folder = ScratchFolder::create("cellos-xtask-unit").unwrap();
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("file"), "x").unwrap();
        assert!(ScratchFolder::create("cellos-xtask-unit").is_err());
        drop(folder);
        assert!(!path.exists());
    }
}
