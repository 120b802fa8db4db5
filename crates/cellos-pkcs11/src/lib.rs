//! What `cellos` and its helper for tokens have in common: how a key is named, and what they say
//! to each other. No I/O but on the streams that are given.
#![forbid(unsafe_code)]

pub mod frame;
pub mod uri;
