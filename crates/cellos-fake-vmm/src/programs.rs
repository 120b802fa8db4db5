//! Where another crate's tests find the programs.
//!
//! Cargo builds a dependency's library and not its programs. A crate that tests against the fakes
//! declares them again as examples, of three lines each, with `main` calling
//! [`vmm::run`](crate::vmm::run) or [`jailer::run`](crate::jailer::run): examples may use development
//! dependencies, and are built with the tests. All examples of a workspace are built into one folder,
//! so each crate gives its own other names.

use std::{env, io, path::PathBuf};

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `fake-firecracker`.
    Firecracker,
    /// `fake-jailer`.
    Jailer,
}

impl Program {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Firecracker => "fake-firecracker",
            Self::Jailer => "fake-jailer",
        }
    }

    /// Its path, as [`built`] finds it.
    ///
    /// # Errors
    /// Those of [`built`].
    pub fn find(self) -> io::Result<PathBuf> {
        built(self.name())
    }
}

/// The path of a program for tests: what the test runner says in `NEXTEST_BIN_EXE_<name>`, else among
/// the examples or the programs that were built beside the running test.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] with the places looked at.
pub fn built(name: &str) -> io::Result<PathBuf> {
    if let Some(path) = env::var_os(format!("NEXTEST_BIN_EXE_{name}")) {
        return Ok(path.into());
    }
    // The test is `<profile>/deps/<test>`.
    let test = env::current_exe()?;
    let profile = test.ancestors().nth(2).unwrap_or(&test);
    let places = [profile.join("examples").join(name), profile.join(name)];
    let found = places.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        let [example, program] = &places;
        let looked = format!("neither {} nor {}", example.display(), program.display());
        io::Error::new(io::ErrorKind::NotFound, looked)
    })
}
