//! The vocabulary of CellOS: the execution-cell document, its admission rules, the events a run
//! leaves, and the ports that backends, sinks, brokers and exports implement.
//!
//! Nothing here does I/O, reads the clock or looks at the environment, so every rule can be tested
//! with values alone.
#![forbid(unsafe_code)]

pub mod admission;
pub mod authority;
pub mod canonical;
pub mod descriptor;
pub mod document;
pub mod error;
pub mod event;
pub mod policy;
pub mod ports;
pub mod schema;
pub mod signing;
pub mod source;
pub mod strict_json;
pub mod vm_manifest;

pub use document::{ExecutionCellDocument, ExecutionCellSpec};
pub use error::CellosError;
pub use event::CloudEventV1;
pub use strict_json::{StrictJsonError, value_from_slice as strict_json_value};
