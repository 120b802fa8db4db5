//! Payloads about virtual machines: what they boot from and where they come from.

use serde::{Deserialize, Serialize};

use super::{EventData, EventKind, Scope};
use crate::ports::workload::{Notice, PoolOutcome};

/// Data of `lifecycle.v1.manifest-failed`: a file is not what the manifest says, and nothing was
/// booted from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFailed {
    /// What the file is for: `kernel`, `rootfs`, `firecracker`; ours also `initrd`, `qemu`,
    /// `jailer`.
    pub role: String,
    /// SHA-256 in the manifest, bare hexadecimal.
    pub expected_sha256: String,
    /// SHA-256 of the file, bare hexadecimal.
    pub actual_sha256: String,
    /// Path of the manifest.
    pub manifest_path: String,
}

impl EventData for ManifestFailed {
    const KIND: EventKind = EventKind::ManifestFailed;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Data of `firecracker.v1.pool_checkout`. `took_ms` is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolCheckout {
    /// Whether the pool had a machine.
    pub pool_hit: bool,
    /// Machines that were ready before.
    pub slot_count: u32,
    /// Until a machine waited for its document, in milliseconds.
    pub took_ms: u64,
}

impl EventData for PoolCheckout {
    const KIND: EventKind = EventKind::PoolCheckout;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// The event that a backend's notice comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeEvent {
    /// See [`ManifestFailed`].
    ManifestFailed(ManifestFailed),
    /// See [`PoolCheckout`].
    PoolCheckout(PoolCheckout),
}

impl From<Notice> for NoticeEvent {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::ManifestFailed {
                role,
                expected_sha256,
                actual_sha256,
                manifest_path,
            } => Self::ManifestFailed(ManifestFailed {
                role,
                expected_sha256,
                actual_sha256,
                manifest_path,
            }),
            Notice::PoolCheckout {
                outcome,
                available,
                took,
            } => Self::PoolCheckout(PoolCheckout {
                pool_hit: outcome == PoolOutcome::Hit,
                slot_count: available,
                took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}
