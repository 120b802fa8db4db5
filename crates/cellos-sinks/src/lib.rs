//! Where events go.
//!
//! A pipeline is built from the inside out: a sink, then the decorators around it. Redaction goes
//! outside of signing, so that what is signed is what is kept:
//! `redact → sign → composite → jsonl`.
#![forbid(unsafe_code)]

pub mod composite;
pub mod forward;
pub mod jsonl;
pub mod redact;
pub mod remote;
pub mod settings;
pub mod transform;

pub use composite::FanOut;
pub use jsonl::{Durability, JsonlConfig, JsonlSink, OpenError};
pub use redact::{NeededField, Redaction};
pub use transform::{EventTransform, Transformed};
