//! Keys that do not count any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    EpochAnchor, EpochError, SUPPORTED_SCHEMA_VERSION, TrustEnvelopeError, TrustPayloadType,
    VerifiedTrustPayload,
};
use crate::{
    CellosError,
    strict_json::{self, StrictJsonError},
};

/// A list of revoked keys; the payload of a trust envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationListV1 {
    /// Exactly [`SUPPORTED_SCHEMA_VERSION`].
    pub schema_version: String,
    /// Number of the list; grows with each new one.
    pub revocation_epoch: u64,
    /// The revoked keys.
    pub revocations: Vec<RevocationEntry>,
}

/// One revoked key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationEntry {
    /// Id of the key.
    pub kid: String,
    /// When it was revoked, for people: a revoked key counts for nothing, whenever it signed,
    /// because whoever holds it can date a signature as they like.
    pub revoked_at: String,
    /// Why, for people.
    pub reason: String,
}

/// Why a revocation list was refused.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The envelope does not carry a revocation list.
    #[error("revocation list: {0}")]
    Envelope(#[from] TrustEnvelopeError),
    /// The payload is no revocation list.
    #[error("revocation list is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// A version we do not know.
    #[error("revocation list: schemaVersion must be {SUPPORTED_SCHEMA_VERSION}, found {found:?}")]
    SchemaVersion {
        /// The version found.
        found: String,
    },
    /// The list is older than one that was accepted before.
    #[error("revocation list: {0}")]
    Epoch(#[from] EpochError),
}

impl From<RevocationError> for CellosError {
    fn from(error: RevocationError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl RevocationListV1 {
    /// Reads a verified payload, and returns the list with the anchor to keep.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub fn from_payload(
        payload: &VerifiedTrustPayload,
        anchor: EpochAnchor,
    ) -> Result<(Self, EpochAnchor), RevocationError> {
        let list = Self::parse(payload.expect_type(TrustPayloadType::Revocation)?)?;
        let anchor = anchor.advance(list.revocation_epoch)?;
        Ok((list, anchor))
    }

    /// Reads a list as it is, without an envelope: a file of the operator that is believed because of
    /// where it lies, as the keyring beside it is. Nothing here knows an older list from a newer one.
    ///
    /// # Errors
    /// [`RevocationError::Unreadable`] and [`RevocationError::SchemaVersion`].
    pub fn parse(text: &[u8]) -> Result<Self, RevocationError> {
        let list: Self = strict_json::from_slice(text)?;
        if list.schema_version != SUPPORTED_SCHEMA_VERSION {
            return Err(RevocationError::SchemaVersion {
                found: list.schema_version,
            });
        }
        Ok(list)
    }

    /// The ids of the revoked keys.
    #[must_use]
    pub fn kids(&self) -> RevokedKids {
        RevokedKids(
            self.revocations
                .iter()
                .map(|entry| entry.kid.clone())
                .collect(),
        )
    }
}

/// The ids of revoked keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedKids(BTreeSet<String>);

impl RevokedKids {
    /// Whether a key is revoked.
    #[must_use]
    pub fn contains(&self, kid: &str) -> bool {
        self.0.contains(kid)
    }
}
