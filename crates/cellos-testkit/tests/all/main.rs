//! The contract, tested itself: a backend that keeps it passes, and one that breaks it in a
//! single way is caught by the case that is meant for it.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, but not the helpers of a test program"
)]

mod broken;
mod double;
mod skips;
mod sound;
