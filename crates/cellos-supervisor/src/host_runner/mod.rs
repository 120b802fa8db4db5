//! Running a command on the host, for backends that run nothing themselves.
//!
//! The supervisor starts a small helper process (the same program, re-executed) and talks to it
//! over a socket. The helper is the subreaper of everything the command starts, so it can end all
//! of it: when the command ends, when it is told to, and when the supervisor's end of the socket
//! closes because the supervisor itself was killed.
//!
//! The helper isolates nothing. It owns the command's descendants, no more.

mod control;
mod descendants;
mod helper;
pub(crate) mod protocol;

use std::{ffi::OsString, path::PathBuf};

pub(crate) use control::{HostEnd, HostProcess};
pub use helper::main;

/// First argument by which a program knows that it is to be the helper: it then calls [`main`].
pub const HELPER_ARGUMENT: &str = "__host-runner";

/// How to start the helper.
#[derive(Debug, Clone)]
pub struct HostRunner {
    /// Program that calls [`main`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl HostRunner {
    /// The running program itself, with [`HELPER_ARGUMENT`].
    #[must_use]
    pub fn this_program() -> Self {
        Self {
            // Still the same program after its file was replaced, which a path would not be.
            program: PathBuf::from("/proc/self/exe"),
            args: vec![HELPER_ARGUMENT.into()],
        }
    }
}
