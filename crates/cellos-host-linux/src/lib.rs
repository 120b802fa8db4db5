//! The Linux backend: cells from namespaces, control groups, seccomp and Landlock, with nothing
//! installed and no root needed.
//!
//! [`LinuxBackend`] is the backend as the rest of the system sees it. It asks a
//! [`Launcher`](cellos_isolation::Launcher), a small single-threaded process, to do the work.

mod backend;
mod descriptor;

pub use backend::LinuxBackend;
