//! `spec.export`: what leaves a cell after the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::PORTABLE_ID;

/// What leaves a cell after the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportChannels {
    /// The artifacts, each name once.
    pub artifacts: Option<Vec<ExportArtifact>>,
    /// Where they go, each name once.
    pub targets: Option<Vec<ExportTarget>>,
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportArtifact {
    /// Name of the artifact, unique in the document.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub name: String,
    /// A file beneath the working folder: relative, or absolute inside the cell.
    #[schemars(length(min = 1))]
    pub path: String,
    /// A declared target; needed when there is more than one.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub target: Option<String>,
    /// Media type.
    pub content_type: Option<String>,
}

/// A place artifacts are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum ExportTarget {
    /// An HTTP server that accepts PUT.
    Http {
        /// Name of the target.
        #[schemars(regex(pattern = PORTABLE_ID))]
        name: String,
        /// Absolute `http` or `https` address without query, fragment and credentials.
        base_url: String,
        /// Secret to authenticate with; listed in `authority.secretRefs`.
        secret_ref: Option<String>,
    },
    /// An S3 bucket.
    S3 {
        /// Name of the target.
        #[schemars(regex(pattern = PORTABLE_ID))]
        name: String,
        /// The bucket; not empty.
        #[schemars(length(min = 1))]
        bucket: String,
        /// Prefix of object keys.
        key_prefix: Option<String>,
        /// Region of the bucket.
        region: Option<String>,
        /// Secret to authenticate with; listed in `authority.secretRefs`.
        secret_ref: Option<String>,
    },
}
