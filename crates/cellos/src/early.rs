//! What has to happen before this process has a second thread, an open file or a parsed argument.
//!
//! The program re-executes itself as its own helper. A helper is recognised by its first argument,
//! which no person types, and never reaches the command line.

use std::process::ExitCode;

use cellos_host_linux::Launcher;

/// Runs the helper that this process is meant to be. `None` when it is the program itself.
pub(crate) fn helper() -> Option<ExitCode> {
    // Does not return in a process that was executed as a launcher.
    Launcher::take_over_if_asked();
    let first = std::env::args_os().nth(1)?;
    match first.to_str()? {
        cellos_supervisor::host_runner::HELPER_ARGUMENT => {
            Some(cellos_supervisor::host_runner::main())
        }
        crate::doctor::probe::ARGUMENT => Some(crate::doctor::probe::main()),
        _ => None,
    }
}
