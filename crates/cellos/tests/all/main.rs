//! The real programs, run as a user runs them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are not recognised as tests"
)]

mod admissions;
mod attacks;
mod attest;
mod attest_signed;
mod bait;
mod breakouts;
mod crowd;
mod deadlines;
mod dns_authority;
mod docs;
mod drop_in;
mod egress;
mod egress_attacks;
mod egress_clients;
mod egress_floods;
mod egress_protocols;
mod egress_stage;
mod egress_storms;
mod ends;
mod events;
mod examples;
mod help;
mod hostile;
mod hosts;
mod keys;
mod killed;
mod learn;
mod limits;
#[cfg(target_arch = "x86_64")]
mod machines;
mod nats;
mod output;
mod program;
mod prove;
mod publish;
mod readers;
mod reaping;
mod refusals;
mod run;
mod sinks;
mod stopping;
mod thousand;
mod tokens;
mod trial;
mod validate;
mod verify;
mod why;
