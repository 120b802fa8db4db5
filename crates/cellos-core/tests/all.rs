//! Tests of the crate through its public interface.

// A test fails by panicking, also in its helpers, which the lint does not see as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "all/loading.rs"]
mod loading;
#[path = "all/properties.rs"]
mod properties;
#[path = "all/schema.rs"]
mod schema;
#[path = "all/vectors.rs"]
mod vectors;
