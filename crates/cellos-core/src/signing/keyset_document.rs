//! The document that publishes keys: what a trust envelope of the kind keyset carries.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{SUPPORTED_SCHEMA_VERSION, TrustAnchorPublicKey, base64url_decode};
use crate::{
    CellosError,
    strict_json::{self, StrictJsonError},
};

/// Most keys of one keyset; a host that rotates its key every week needs five years for them, and a
/// verifier looks all of them over for every envelope of a chain.
pub const MAX_KEYSET_KEYS: usize = 256;
/// Longest name of a key or keyset, in bytes.
pub const MAX_KEY_NAME_BYTES: usize = 128;
/// Longest reason of a revocation, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;
/// The algorithm of every key.
pub const ED25519: &str = "ed25519";

/// A set of public keys; the payload of a trust envelope. Readers of the published contract look at
/// `keysetId` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeysetDocumentV1 {
    /// Exactly [`SUPPORTED_SCHEMA_VERSION`].
    pub schema_version: String,
    /// Name of the set; stays the same from one envelope of a chain to the next.
    pub keyset_id: String,
    /// The keys, each name once.
    pub keys: Vec<KeysetEntry>,
}

/// One key of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeysetEntry {
    /// Name of the key.
    pub kid: String,
    /// Exactly [`ED25519`].
    pub algorithm: String,
    /// The raw 32-byte key in base64url.
    pub public_key: String,
    /// First moment that the key signs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Last moment that the key signs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// When it was revoked. A revoked key counts for nothing, whenever it signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
}

/// Why a keyset document was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysetDocumentError {
    /// The payload is no keyset.
    #[error("keyset is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// A version we do not know.
    #[error("keyset: schemaVersion must be {SUPPORTED_SCHEMA_VERSION}, found {found:?}")]
    SchemaVersion {
        /// The version found.
        found: String,
    },
    /// A name is empty, too long or not fit to be shown.
    #[error(
        "keyset: {field} {name:?} must be 1 to {MAX_KEY_NAME_BYTES} bytes without control characters"
    )]
    Name {
        /// The field.
        field: &'static str,
        /// Its value.
        name: String,
    },
    /// There are too many keys.
    #[error("keyset: {found} keys, the limit is {MAX_KEYSET_KEYS}")]
    TooManyKeys {
        /// How many.
        found: usize,
    },
    /// A name stands there twice.
    #[error("keyset: key {kid:?} stands there twice")]
    Repeated {
        /// Name of the key.
        kid: String,
    },
    /// A key is of a kind we do not know.
    #[error("keyset: key {kid:?}: algorithm must be {ED25519}, found {found:?}")]
    Algorithm {
        /// Name of the key.
        kid: String,
        /// The algorithm found.
        found: String,
    },
    /// The bytes are no key that could verify anything.
    #[error(
        "keyset: key {kid:?}: publicKey must be the base64url of a usable 32-byte Ed25519 public key"
    )]
    NotAKey {
        /// Name of the key.
        kid: String,
    },
    /// A key is never valid.
    #[error("keyset: key {kid:?}: notAfter is before notBefore")]
    NeverValid {
        /// Name of the key.
        kid: String,
    },
    /// A revocation is not complete or too long.
    #[error(
        "keyset: key {kid:?}: revocationReason belongs to revokedAt, and has at most \
         {MAX_REASON_BYTES} bytes"
    )]
    Revocation {
        /// Name of the key.
        kid: String,
    },
}

impl From<KeysetDocumentError> for CellosError {
    fn from(error: KeysetDocumentError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl KeysetDocumentV1 {
    /// Reads a payload and checks all of it.
    ///
    /// # Errors
    /// [`KeysetDocumentError`].
    pub fn parse(payload: &[u8]) -> Result<Self, KeysetDocumentError> {
        let document: Self = strict_json::from_slice(payload)?;
        document.check()?;
        Ok(document)
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// [`KeysetDocumentError`].
    pub fn check(&self) -> Result<(), KeysetDocumentError> {
        if self.schema_version != SUPPORTED_SCHEMA_VERSION {
            return Err(KeysetDocumentError::SchemaVersion {
                found: self.schema_version.clone(),
            });
        }
        check_name("keysetId", &self.keyset_id)?;
        if self.keys.len() > MAX_KEYSET_KEYS {
            return Err(KeysetDocumentError::TooManyKeys {
                found: self.keys.len(),
            });
        }
        let mut kids = BTreeSet::new();
        for key in &self.keys {
            check_name("kid", &key.kid)?;
            key.check()?;
            if !kids.insert(key.kid.as_str()) {
                return Err(KeysetDocumentError::Repeated {
                    kid: key.kid.clone(),
                });
            }
        }
        Ok(())
    }

    /// The bytes that are signed: JSON, the same for the same keys.
    ///
    /// # Errors
    /// Never for documents made of these types; the encoder's reason otherwise.
    pub fn to_payload(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl KeysetEntry {
    /// The entry of a key that is valid without limit.
    #[must_use]
    pub fn new(kid: impl Into<String>, public: &TrustAnchorPublicKey) -> Self {
        Self {
            kid: kid.into(),
            algorithm: ED25519.to_owned(),
            public_key: super::base64url_encode(public.as_bytes()),
            not_before: None,
            not_after: None,
            revoked_at: None,
            revocation_reason: None,
        }
    }

    /// The key itself.
    ///
    /// # Errors
    /// [`KeysetDocumentError::NotAKey`].
    pub fn public(&self) -> Result<TrustAnchorPublicKey, KeysetDocumentError> {
        base64url_decode(&self.public_key)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .and_then(|bytes| TrustAnchorPublicKey::from_bytes(&bytes))
            .ok_or_else(|| KeysetDocumentError::NotAKey {
                kid: self.kid.clone(),
            })
    }

    fn check(&self) -> Result<(), KeysetDocumentError> {
        let kid = || self.kid.clone();
        if self.algorithm != ED25519 {
            return Err(KeysetDocumentError::Algorithm {
                kid: kid(),
                found: self.algorithm.clone(),
            });
        }
        self.public()?;
        if let (Some(start), Some(end)) = (self.not_before, self.not_after)
            && end < start
        {
            return Err(KeysetDocumentError::NeverValid { kid: kid() });
        }
        match (&self.revoked_at, &self.revocation_reason) {
            (None, Some(_)) => Err(KeysetDocumentError::Revocation { kid: kid() }),
            (Some(_), Some(reason)) if reason.len() > MAX_REASON_BYTES => {
                Err(KeysetDocumentError::Revocation { kid: kid() })
            }
            _ => Ok(()),
        }
    }
}

fn check_name(field: &'static str, name: &str) -> Result<(), KeysetDocumentError> {
    if name.is_empty() || name.len() > MAX_KEY_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(KeysetDocumentError::Name {
            field,
            name: name.chars().take(MAX_KEY_NAME_BYTES).collect(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{Signer as _, SoftwareSigner};

    fn entry(kid: &str) -> KeysetEntry {
        KeysetEntry::new(kid, &SoftwareSigner::from_seed("", [7; 32]).verifying_key())
    }

    fn document(keys: Vec<KeysetEntry>) -> KeysetDocumentV1 {
        KeysetDocumentV1 {
            schema_version: SUPPORTED_SCHEMA_VERSION.to_owned(),
            keyset_id: "host-1".to_owned(),
            keys,
        }
    }

    #[test]
    fn a_document_survives_being_written_and_read() {
        let mut revoked = entry("b");
        revoked.not_before = Some(Timestamp::UNIX_EPOCH);
        revoked.revoked_at = Some(Timestamp::UNIX_EPOCH);
        revoked.revocation_reason = Some("lost".to_owned());
        let document = document(vec![entry("a"), revoked]);
        let payload = document.to_payload().unwrap();
        assert_eq!(KeysetDocumentV1::parse(&payload).unwrap(), document);
    }

    #[test]
    fn each_rule_of_the_document_is_kept() {
        let with = |change: fn(&mut KeysetEntry)| {
            let mut entry = entry("a");
            change(&mut entry);
            document(vec![entry]).check().unwrap_err().to_string()
        };
        for (error, part) in [
            (
                with(|key| key.algorithm = "rsa".into()),
                "algorithm must be",
            ),
            (
                with(|key| key.public_key = "AQ".into()),
                "publicKey must be",
            ),
            (with(|key| key.kid = "a\nb".into()), "control characters"),
            (with(|key| key.kid = String::new()), "1 to 128 bytes"),
            (
                with(|key| key.revocation_reason = Some("x".into())),
                "belongs to revokedAt",
            ),
            (
                with(|key| {
                    key.not_before = Some(Timestamp::MAX);
                    key.not_after = Some(Timestamp::UNIX_EPOCH);
                }),
                "before notBefore",
            ),
            (
                document(vec![entry("a"), entry("a")])
                    .check()
                    .unwrap_err()
                    .to_string(),
                "stands there twice",
            ),
            (
                document(
                    (0..=MAX_KEYSET_KEYS)
                        .map(|n| entry(&n.to_string()))
                        .collect(),
                )
                .check()
                .unwrap_err()
                .to_string(),
                "257 keys",
            ),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_unknown_field_or_version_is_refused() {
        for text in [
            r#"{"schemaVersion":"1.0.0","keysetId":"k","keys":[],"more":1}"#,
            r#"{"schemaVersion":"2.0.0","keysetId":"k","keys":[]}"#,
            r#"["1.0.0","k",[]]"#,
            r#"{"schemaVersion":"1.0.0","keysetId":"k","keysetId":"l","keys":[]}"#,
        ] {
            assert!(KeysetDocumentV1::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
