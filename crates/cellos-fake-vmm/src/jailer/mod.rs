//! The program `fake-jailer`.

use std::{ffi::OsString, process::ExitCode};

/// Runs the program with the words after its name.
#[must_use]
pub fn run(_words: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}
