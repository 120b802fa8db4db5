//! Firecracker, behind its jailer.

mod api;
mod requests;
mod ring;

/// The monitor's name in errors and evidence.
pub(crate) const NAME: &str = "firecracker";
