//! The statement: in-toto Statement, version 1, and the description of resources in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Digests of one thing by the name of their algorithm, in lower-case hexadecimal.
pub type DigestSet = BTreeMap<String, String>;

/// What is said about which artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub ty: String,
    /// What it is about; each has a digest.
    pub subject: Vec<ResourceDescriptor>,
    /// What kind of thing is said.
    pub predicate_type: String,
    /// What is said.
    #[serde(default)]
    pub predicate: Map<String, Value>,
}

/// An artifact or another resource. At least one of URI, digest and content is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceDescriptor {
    /// What tells it from others beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What identifies it everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Its digests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: DigestSet,
    /// The resource itself, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Where it can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_location: Option<String>,
    /// Its media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What else its producer says of it.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub annotations: Map<String, Value>,
}

impl ResourceDescriptor {
    /// Something with a name and a SHA-256 in lower-case hexadecimal.
    #[must_use]
    pub fn named(name: impl Into<String>, sha256: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            digest: DigestSet::from([("sha256".to_owned(), sha256.into())]),
            ..Self::default()
        }
    }

    /// The same with a word on how it is known.
    #[must_use]
    pub fn known(mut self, knowledge: Knowledge) -> Self {
        self.annotations
            .insert("cellos_known".to_owned(), knowledge.as_str().into());
        self
    }
}

/// How something in an attestation is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// The supervisor measured it or saw it.
    Observed,
    /// The document says so, and nobody looked.
    Declared,
}

impl Knowledge {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Declared => "declared",
        }
    }
}
