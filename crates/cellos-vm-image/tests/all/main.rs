//! Bundles from made-up and from real sources, read back and booted.

// Helpers outside of `#[test]` functions are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod boot;
mod bundle;
mod directory;
mod kernel;
mod oci;
mod support;
