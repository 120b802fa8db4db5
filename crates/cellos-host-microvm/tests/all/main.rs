//! The backend's parts against real monitors, and what the tests themselves are made of.

// Helpers outside of `#[test]` functions are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(target_arch = "x86_64")]
mod bare_guest;
mod contract;
mod pool;
