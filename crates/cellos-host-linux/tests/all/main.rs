//! The Linux backend on a real kernel.

// Helpers outside of `#[test]` functions are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod contract;
mod isolation;
mod limits;
mod mounts;
mod network;
mod support;
