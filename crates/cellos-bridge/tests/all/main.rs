//! Dialogues, misbehaviour and the published frame, through the crate's public interface.

// A test fails by panicking, also in its helpers, which the lint does not see as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod credit;
mod cutting;
mod deadlines;
mod dialogue;
mod fixtures;
mod misbehaviour;
mod properties;
mod published;
mod seal;
mod secrecy;
mod socket_pair;
