//! What every backend must do, as tests, and the helpers that test programs share.
//!
//! A backend gets the whole contract with one call of [`backend_contract!`] in its `tests/all.rs`.
#![forbid(unsafe_code)]

pub mod ability;
pub mod alone;
pub mod contract;
pub mod dns;
mod document;
mod event_log;
pub mod http;
pub mod nats;
mod sinks;
mod snapshot;

pub use ability::{Ability, Missing, python_bin};
pub use document::minimal_document;
pub use event_log::{EventLog, TYPE_PREFIX};
pub use sinks::{FailingSink, MemorySink};
pub use snapshot::{Growth, ResourceSnapshot};
