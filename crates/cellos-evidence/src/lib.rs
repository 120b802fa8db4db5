//! The event log as evidence: after a run, somebody who has only the log and a public key can
//! establish what a cell was allowed, what it did and that nothing was left, and notices any line
//! that was changed, removed, reordered or cut off.
//!
//! * [`line`](mod@line): one line of the log, its place in the chain and its signature.
//! * [`log`]: the files; appending, and reading them back.
//! * [`head`], [`seal`]: what is stated about a log beside it.
//! * [`merkle`], [`prove`]: one line, proved without the others.
//! * [`keyset`]: the keys that a log is checked with.
//! * [`attest`]: attestations of runs, for verifiers of supply chains.
//! * [`facts`]: what readers look at in an event.
//! * [`finding`]: what a check has to say, and where.
//! * [`projection`]: what a log says about runs.
//! * [`verify`]: whether a log is what was written, and whether what it tells is in order.
#![forbid(unsafe_code)]

pub mod attest;
pub mod facts;
pub mod finding;
pub mod head;
pub mod keyset;
pub mod line;
pub mod log;
pub mod merkle;
pub mod projection;
pub mod prove;
pub mod seal;
mod signed;

pub use signed::{MAX_SIGNED_BYTES, SignError};
pub mod verify;
