//! Payloads about artifacts that leave a cell.

use serde::{Deserialize, Serialize};

use super::{DeclaredArtifact, EventData, EventKind};
use crate::ports::{ExportReceipt, ExportReceiptTargetKind};

/// The event that another one follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// Id of that event.
    pub parent: String,
    /// Its type.
    pub parent_type: String,
}

impl Provenance {
    /// Follows from the run's `started` event.
    #[must_use]
    pub fn started(event_id: impl Into<String>) -> Self {
        Self {
            parent: event_id.into(),
            parent_type: EventKind::Started.as_str().into(),
        }
    }
}

/// Data of `observability.v1.fs_touch`: a file of the cell was opened for export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FsTouch {
    /// Always `export`.
    pub purpose: String,
    /// Path of the file inside the cell.
    pub source_path: String,
    /// Name of the artifact.
    pub artifact_name: String,
}

impl EventData for FsTouch {
    const KIND: EventKind = EventKind::FsTouch;
}

/// Data of `export.v2.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportCompleted {
    /// Name of the artifact.
    pub artifact_name: String,
    /// Proof of storage.
    pub receipt: ExportReceipt,
    /// SHA-256 of the stored bytes, bare hexadecimal, where the sink computes it; ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What the document says about the artifact; ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<DeclaredArtifact>,
    /// The `started` event of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl EventData for ExportCompleted {
    const KIND: EventKind = EventKind::ExportCompleted;
}

/// Data of `export.v2.failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportFailed {
    /// Name of the artifact.
    pub artifact_name: String,
    /// Kind of target.
    pub target_kind: ExportReceiptTargetKind,
    /// Why it was not stored.
    pub reason: String,
    /// The target's name in the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
    /// Where it would have gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The `started` event of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl EventData for ExportFailed {
    const KIND: EventKind = EventKind::ExportFailed;
}
