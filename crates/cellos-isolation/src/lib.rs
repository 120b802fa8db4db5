//! Cells from namespaces, control groups, seccomp and Landlock, with nothing installed and no root
//! needed: the part that speaks to the kernel.
//!
//! A [`Launcher`] is a small single-threaded process that builds cells, watches over them and takes
//! them apart. Whoever wants cells talks to it over a socket: [`protocol`] has what is said,
//! [`message`] how it is sent, [`plan`] what a document comes to. There is no asynchronous runtime
//! here, so that PID 1 of a microVM can build its cell with it as the backend of the host does.

mod base;
pub mod cgroup;
pub mod confined;
mod init;
mod launcher;
pub mod message;
mod netlink;
pub mod plan;
pub mod protocol;
pub mod sandbox;
mod start;
mod sys;
pub mod tether;
pub mod tsc;

pub use base::{MAX_IMAGE_ENTRIES, SystemView};
pub use launcher::{LauncherOptions, Warm};
pub use start::{Launcher, StartError};
