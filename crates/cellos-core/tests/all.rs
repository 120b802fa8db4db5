//! Tests of the crate through its public interface.

#[path = "all/loading.rs"]
mod loading;
#[path = "all/properties.rs"]
mod properties;
#[path = "all/schema.rs"]
mod schema;
#[path = "all/vectors.rs"]
mod vectors;
