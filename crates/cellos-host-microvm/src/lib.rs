//! The `microvm` backend: each cell is a virtual machine of its own.
//!
//! ```text
//! document ─ plan ─ verified artifacts ─ place ─ driver boots ─ session over the bridge ─ report
//! ```
//!
//! The backend (`backend`) boots a machine by a driver (`vmm`), QEMU or Firecracker, talks
//! to the machine's PID 1 over the bridge (`session`), and takes everything apart again. PID 1 is
//! `cellos-guest`, which builds the cell inside the machine as the `linux` backend does on a host.

#![forbid(unsafe_code)]

mod artifacts;
mod backend;
mod capacity;
mod config;
mod console;
mod descriptor;
mod error;
mod kvm;
pub mod leftovers;
mod limits;
mod network;
mod parked;
mod place;
mod plan;
mod pool;
mod process;
mod random;
mod remove;
mod session;
#[cfg(test)]
mod testing;
mod vmm;

pub use backend::MicrovmBackend;

pub use config::{
    Accelerators, BootFiles, DriverChoice, FirecrackerConfig, Jail, ManifestTrust, MicrovmConfig,
    QemuConfig, RateLimits,
};
pub use kvm::KvmVerdict;
