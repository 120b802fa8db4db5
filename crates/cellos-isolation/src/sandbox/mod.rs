//! What is taken away from a process between its isolation and its `execve`.
//!
//! Everything here acts on the calling thread and is meant for a single-threaded process inside a
//! user namespace of its own, shortly before it becomes an untrusted program. The order matters,
//! because each step removes the means of the earlier ones:
//!
//! 1. [`privileges::new_session_keyring`], [`limits::lower`], [`privileges::set_umask`]
//! 2. [`privileges::lock_securebits`], [`privileges::drop_bounding_set`],
//!    [`privileges::drop_capabilities`]
//! 3. [`privileges::set_no_new_privs`], [`privileges::set_dumpable`]
//! 4. [`landlock::restrict`]
//! 5. [`descriptors::close_except`]
//! 6. [`seccomp::Filter::install`], then `execve`
//!
//! The filter is last because it forbids some of what stands before it.

pub mod descriptors;
pub mod landlock;
pub mod limits;
pub mod privileges;
pub mod seccomp;
