//! Where artifacts of a cell go.
#![forbid(unsafe_code)]

pub mod local;

pub use local::LocalFolder;
