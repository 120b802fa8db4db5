//! The sandbox, applied for real to child processes.
//!
//! Each child enters a user namespace of its own, as a cell does, so the tests run as root and as
//! any user alike.

mod child;
mod denied;
mod privileges;
mod programs;
