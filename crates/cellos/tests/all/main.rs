//! The real programs, run as a user runs them.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests"
)]

mod docs;
mod drop_in;
mod examples;
mod help;
mod program;
mod refusals;
mod run;
mod validate;
