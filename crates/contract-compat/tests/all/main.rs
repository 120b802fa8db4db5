//! The outsider's code, run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows test functions, but not the helpers of a test program"
)]

mod backends;
mod ports;
mod values;
