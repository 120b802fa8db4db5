//! Whole sessions with the program as an ordinary process, against the host's end of the bridge.

// Helpers outside of `#[test]` functions are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod closed;
mod command_line;
mod ends;
mod files;
mod host;
mod machine;
mod secrecy;
mod streams;
mod vsock;
