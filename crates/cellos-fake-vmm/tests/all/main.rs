//! The fakes, tested as programs: what they answer, which files and processes they make and leave.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, but not the helpers of a test program"
)]

mod calls;
mod command_line;
mod faults;
mod jailer;
mod snapshots;
mod support;
mod vsock;
