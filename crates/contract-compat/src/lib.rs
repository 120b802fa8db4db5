//! Ports as an outsider would implement them against the published contract.
#![forbid(unsafe_code)]

pub mod backends;
pub mod brokers;
pub mod errors;
pub mod sinks;
