//! The Linux backend: cells from namespaces, control groups, seccomp and Landlock, with nothing
//! installed and no root needed.
//!
//! [`LinuxBackend`] is the backend as the rest of the system sees it. It asks a [`Launcher`], a
//! small single-threaded process, to do the work.

mod backend;
mod base;
pub mod cgroup;
mod descriptor;
mod init;
mod launcher;
mod message;
mod plan;
mod protocol;
pub mod sandbox;
mod start;
mod sys;

pub use backend::LinuxBackend;
pub use launcher::{LauncherOptions, Warm};
pub use plan::{
    DEFAULT_GRACE_SECONDS, DEFAULT_PATH, DEFAULT_PROCESS_LIMIT, DEFAULT_USER,
    DEFAULT_WORKING_FOLDER, WRITABLE_MAX_BYTES,
};
pub use start::{Launcher, StartError};
