//! The values that cross the ports.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A created cell.
#[derive(Debug, Clone)]
pub struct CellHandle {
    /// The cell, `spec.id` of its document.
    pub cell_id: String,
    /// The control group a host subprocess has to join.
    pub cgroup_path: Option<PathBuf>,
    /// Whether packet filter rules are in force: `None` where the backend does not own the
    /// network, `Some(false)` where it does and they are off.
    pub nft_rules_applied: Option<bool>,
    /// SHA-256 of the guest kernel, bare hexadecimal.
    pub kernel_digest_sha256: Option<String>,
    /// SHA-256 of the guest root file system, bare hexadecimal.
    pub rootfs_digest_sha256: Option<String>,
    /// SHA-256 of the virtual machine monitor, bare hexadecimal.
    pub firecracker_digest_sha256: Option<String>,
}

/// What taking a cell apart came to.
#[derive(Debug, Clone, Default)]
pub struct TeardownReport {
    /// The cell.
    pub cell_id: String,
    /// Whether this call removed it; `false` on an unknown or already destroyed cell.
    pub destroyed: bool,
    /// Cells the backend still keeps after this call.
    pub peers_tracked_after: usize,
}

/// One secret to prepare a lease for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSecretLeaseRequest {
    /// Name of the secret.
    pub key: String,
    /// Life of the lease, in seconds.
    pub ttl_seconds: u64,
}

/// A resolved secret. Never printed, never cloned, wiped when dropped.
pub struct SecretView {
    /// Name of the secret.
    pub key: String,
    /// Its value.
    pub value: Zeroizing<String>,
}

impl fmt::Debug for SecretView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretView")
            .field("kind", &self.key)
            .field("value", &"<REDACTED>")
            .finish()
    }
}

/// What an export sink is told about an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportArtifactMetadata {
    /// Media type.
    pub content_type: Option<String>,
}

/// The kind of an export target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExportReceiptTargetKind {
    /// A folder on this host.
    Local,
    /// An S3 bucket.
    S3,
    /// An HTTP server.
    Http,
}

/// Proof that an artifact was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportReceipt {
    /// The kind of target.
    pub target_kind: ExportReceiptTargetKind,
    /// The target's name in the document.
    pub target_name: Option<String>,
    /// Where it is now.
    pub destination: String,
    /// Size in bytes.
    pub bytes_written: u64,
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InferenceRole {
    /// Instructions.
    System,
    /// The asker.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferenceMessage {
    /// Who speaks.
    pub role: InferenceRole,
    /// What is said.
    pub content: String,
}

/// A request to a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferenceRequest {
    /// The cell that asks.
    pub cell_id: String,
    /// The conversation so far.
    pub messages: Vec<InferenceMessage>,
    /// Longest answer, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Preferred model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_hint: Option<String>,
}

/// A model's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferenceResponse {
    /// The answer.
    pub content: String,
    /// The model that gave it.
    pub model: String,
    /// Tokens read.
    pub input_tokens: u32,
    /// Tokens written.
    pub output_tokens: u32,
}
