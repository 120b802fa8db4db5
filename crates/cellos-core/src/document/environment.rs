//! `spec.environment` and `spec.ingress`: the cell's root file system and its inputs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::{PORTABLE_ID, SHA256_REF};

/// The image a cell's root file system is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// Image reference; not empty.
    #[schemars(length(min = 1))]
    pub image_reference: String,
    /// `sha256:` and 64 lower-case hexadecimal digits.
    #[schemars(regex(pattern = SHA256_REF))]
    pub image_digest: Option<String>,
    /// A prepared template.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub template_id: Option<String>,
}

/// Inputs that are fetched into the working folder before the cell starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingress {
    /// A git repository.
    pub git: Option<GitIngress>,
    /// The files of an image.
    pub oci_image: Option<OciImageIngress>,
}

/// A git repository to check out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitIngress {
    /// Address of the repository, without credentials.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
    /// Branch, tag or commit.
    #[serde(rename = "ref")]
    pub git_ref: Option<String>,
    /// Secret to authenticate with; listed in `authority.secretRefs`.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub secret_ref: Option<String>,
}

/// An image whose files are unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OciImageIngress {
    /// Image reference.
    #[schemars(length(min = 1))]
    pub reference: String,
    /// `sha256:` and 64 lower-case hexadecimal digits.
    #[schemars(regex(pattern = SHA256_REF))]
    pub digest: Option<String>,
    /// Secret to authenticate with; listed in `authority.secretRefs`.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub secret_ref: Option<String>,
}
