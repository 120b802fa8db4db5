//! The program behind `cellos` and `cellos-supervisor`.
//!
//! It is a library so that both binaries are the same code and the documentation can be made from
//! it; nothing else is meant to depend on it.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod compose;
mod diagnostics;
mod doctor;
mod document_file;
mod drop_in;
mod early;
mod evidence_guard;
pub mod exit;
mod failure;
mod intake;
mod keys;
mod leftovers;
mod logging;
mod machines;
mod recordable;
mod run_logs;
mod runs;
mod say;
mod signals;
mod signing;
mod sinks;
mod state_dir;
mod stream_state;
mod units;

use std::process::ExitCode;

/// The text of `docs/supervisor-variables.md`.
#[must_use]
pub fn supervisor_variables_documentation() -> String {
    drop_in::variables::documentation()
}

/// The name the program was called by, which decides what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `cellos`: the command line.
    CommandLine,
    /// `cellos-supervisor`: the drop-in for existing deployments.
    DropIn,
}

impl Face {
    /// The face for the name in `argv[0]`.
    #[must_use]
    pub fn from_program_name() -> Self {
        let program = std::env::args_os().next().unwrap_or_default();
        match std::path::Path::new(&program).file_name() {
            Some(name) if name == "cellos-supervisor" => Self::DropIn,
            _ => Self::CommandLine,
        }
    }
}

/// The program.
#[must_use]
pub fn main(face: Face) -> ExitCode {
    // Nothing may come before this: it is where this process turns out to be a helper of another,
    // and where the launcher is forked off while there is only one thread.
    if let Some(code) = early::helper() {
        return code;
    }
    match face {
        Face::CommandLine => cli::main(early::begin()),
        Face::DropIn => drop_in::main(),
    }
}
