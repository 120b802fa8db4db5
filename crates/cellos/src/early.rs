//! What has to happen before this process has a second thread, an open file or a parsed argument.
//!
//! The program re-executes itself as its own helper. A helper is recognised by its first argument,
//! which no person types, and never reaches the command line.

use std::{ffi::OsString, process::ExitCode};

use cellos_isolation::Launcher;

use crate::compose::{self, BackendOptions, PreparedBackend};

/// Runs the helper that this process is meant to be. `None` when it is the program itself.
pub(crate) fn helper() -> Option<ExitCode> {
    // Does not return in a process that was executed as a launcher.
    Launcher::take_over_if_asked();
    // Nor in one that confines a monitor and becomes it.
    cellos_isolation::confined::take_over_if_asked();
    let first = std::env::args_os().nth(1)?;
    match first.to_str()? {
        cellos_supervisor::host_runner::HELPER_ARGUMENT => {
            Some(cellos_supervisor::host_runner::main())
        }
        crate::doctor::probe::ARGUMENT => Some(crate::doctor::probe::main()),
        _ => None,
    }
}

/// Begins what `run` will need, before its arguments are parsed: a cell is then being built while
/// this process finds out what it shall be. `None` where something else is asked for; a backend
/// that cannot be begun is no error yet, since it may not be the one that is needed.
pub(crate) fn begin() -> Option<PreparedBackend> {
    if runs_a_cell_on_the_default_backend(std::env::args_os().skip(1)) {
        compose::prepare(
            compose::DEFAULT_BACKEND,
            &BackendOptions::from_environment(),
        )
        .ok()
    } else {
        None
    }
}

/// Errs on the side of `false`: then the backend is begun later.
fn runs_a_cell_on_the_default_backend(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.next().is_some_and(|first| first == "run")
        && arguments
            .take_while(|argument| argument != "--")
            .all(|argument| {
                let text = argument.to_string_lossy();
                !["--backend", "--print-document", "--help"]
                    .iter()
                    .any(|other| text.starts_with(other))
                    && text != "-h"
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_runs_are_begun_early() {
        let begins =
            |line: &str| runs_a_cell_on_the_default_backend(line.split(' ').map(OsString::from));
        assert!(begins("run cell.yaml"));
        assert!(begins("run --ttl 5s -- tool --backend stub"));
        assert!(!begins("validate cell.yaml"));
        assert!(!begins("run --backend stub cell.yaml"));
        assert!(!begins("run --backend=stub cell.yaml"));
        assert!(!begins("run --help"));
    }
}
