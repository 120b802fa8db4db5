//! The supervisor against pretended backends and sinks, and against real processes on the host.
#![allow(missing_docs, reason = "tests are named by what they show")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are not seen as tests"
)]

#[path = "all/deadlines.rs"]
mod deadlines;
#[path = "all/doubles.rs"]
mod doubles;
#[path = "all/exports.rs"]
mod exports;
#[path = "all/faults.rs"]
mod faults;
#[path = "all/host.rs"]
mod host;
#[path = "all/network.rs"]
mod network;
#[path = "all/order.rs"]
mod order;
#[path = "all/reaping.rs"]
mod reaping;
#[path = "all/run.rs"]
mod run;
