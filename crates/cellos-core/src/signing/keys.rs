//! The contents of key files: which name stands for which key.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;
use zeroize::Zeroizing;

use super::base64url_decode;
use crate::{CellosError, strict_json};

/// Size of an Ed25519 public key, in bytes (RFC 8032, 5.1.5).
const PUBLIC_KEY_BYTES: usize = 32;

/// Why a key file was refused. Key material never appears in a message.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is no JSON, or holds a name twice.
    #[error("key file is not one JSON object with each name once: {0}")]
    Json(#[from] serde_json::Error),
    /// The file's JSON is no object of strings.
    #[error("key file must be one JSON object that maps names to base64 strings; {name} is not so")]
    NotAString {
        /// The name at fault, or `the document`.
        name: String,
    },
    /// A name is empty.
    #[error("key file holds a key without a name")]
    EmptyName,
    /// A key is no base64.
    #[error("key {name}: not {encoding}: {source}")]
    Encoding {
        /// Name of the key.
        name: String,
        /// The encoding that this kind of file uses.
        encoding: &'static str,
        /// What the decoder found.
        source: base64::DecodeError,
    },
    /// A key has the wrong size.
    #[error("key {name}: must be {PUBLIC_KEY_BYTES} bytes, found {found}")]
    Length {
        /// Name of the key.
        name: String,
        /// Its size in bytes.
        found: usize,
    },
    /// The bytes are no key that could verify anything.
    #[error("key {name}: not a usable Ed25519 public key (no curve point, or of small order)")]
    NotAKey {
        /// Name of the key.
        name: String,
    },
    /// An HMAC key is empty.
    #[error("key {name}: an HMAC key must hold at least one byte")]
    EmptyHmacKey {
        /// Name of the key.
        name: String,
    },
}

impl From<KeyFileError> for CellosError {
    fn from(error: KeyFileError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

/// An Ed25519 public key that is a valid curve point and not of small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustAnchorPublicKey(VerifyingKey);

impl TrustAnchorPublicKey {
    /// Takes a raw key. `None` when the bytes are no curve point, or one of small order, under
    /// which forged signatures exist.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; PUBLIC_KEY_BYTES]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes)
            .ok()
            .filter(|key| !key.is_weak())
            .map(Self)
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        self.0.as_bytes()
    }

    pub(crate) fn from_verifying_key(key: VerifyingKey) -> Self {
        Self(key)
    }

    /// Strict verification: canonical encodings only, no points of small order.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0
            .verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    }
}

/// The keys that role grants are signed with: role name to public key.
#[derive(Debug, Clone, Default)]
pub struct RoleKeys(BTreeMap<String, TrustAnchorPublicKey>);

impl RoleKeys {
    /// Reads the content of a role keys file: `{role: key}`, keys in padded standard base64.
    ///
    /// # Errors
    /// [`KeyFileError`]; a role that is named twice is one, because it is unclear which key counts.
    pub fn parse(file: &[u8]) -> Result<Self, KeyFileError> {
        let decode = |text: &str| STANDARD.decode(text);
        public_keys(file, "padded standard base64", decode).map(Self)
    }

    /// The key of a role.
    #[must_use]
    pub fn get(&self, role: &str) -> Option<&TrustAnchorPublicKey> {
        self.0.get(role)
    }
}

/// The keys that trust envelopes and signed events are verified with: key id to public key.
#[derive(Debug, Clone, Default)]
pub struct TrustVerifyKeys(BTreeMap<String, TrustAnchorPublicKey>);

impl TrustVerifyKeys {
    /// Reads the content of a keyring: `{kid: key}`, keys in base64url with or without padding.
    /// `{}` is a keyring without keys.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(file: &[u8]) -> Result<Self, KeyFileError> {
        public_keys(file, "base64url", base64url_decode).map(Self)
    }

    /// The key of a key id.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&TrustAnchorPublicKey> {
        self.0.get(kid)
    }

    /// All keys, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TrustAnchorPublicKey)> {
        self.0.iter().map(|(kid, key)| (kid.as_str(), key))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, TrustAnchorPublicKey)> for TrustVerifyKeys {
    fn from_iter<I: IntoIterator<Item = (String, TrustAnchorPublicKey)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// A shared key for HMAC-SHA-256. Erased from memory when dropped and never printed.
#[derive(Clone)]
pub struct HmacKey(Zeroizing<Vec<u8>>);

impl HmacKey {
    /// Takes a key of at least one byte; `None` for an empty one.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty()).then(|| Self(Zeroizing::new(bytes)))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HmacKey(<REDACTED>)")
    }
}

/// The shared keys that `hmac-sha256` events are verified with: key id to key.
#[derive(Debug, Clone, Default)]
pub struct HmacVerifyKeys(BTreeMap<String, HmacKey>);

impl HmacVerifyKeys {
    /// Reads the content of an HMAC keyring: `{kid: key}`, keys in base64url with or without
    /// padding, any length from one byte.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(file: &[u8]) -> Result<Self, KeyFileError> {
        let mut keys = BTreeMap::new();
        for (name, bytes) in decoded_entries(file, "base64url", base64url_decode)? {
            let key = HmacKey(bytes);
            if key.as_bytes().is_empty() {
                return Err(KeyFileError::EmptyHmacKey { name });
            }
            keys.insert(name, key);
        }
        Ok(Self(keys))
    }

    /// The key of a key id.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&HmacKey> {
        self.0.get(kid)
    }
}

impl FromIterator<(String, HmacKey)> for HmacVerifyKeys {
    fn from_iter<I: IntoIterator<Item = (String, HmacKey)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

fn public_keys(
    file: &[u8],
    encoding: &'static str,
    decode: impl Fn(&str) -> Result<Vec<u8>, base64::DecodeError>,
) -> Result<BTreeMap<String, TrustAnchorPublicKey>, KeyFileError> {
    let mut keys = BTreeMap::new();
    for (name, bytes) in decoded_entries(file, encoding, decode)? {
        let Ok(raw) = <&[u8; PUBLIC_KEY_BYTES]>::try_from(bytes.as_slice()) else {
            return Err(KeyFileError::Length {
                name,
                found: bytes.len(),
            });
        };
        let Some(key) = TrustAnchorPublicKey::from_bytes(raw) else {
            return Err(KeyFileError::NotAKey { name });
        };
        keys.insert(name, key);
    }
    Ok(keys)
}

/// One entry of a key file.
type NamedBytes = (String, Zeroizing<Vec<u8>>);

/// The entries of a key file, decoded. The buffers are erased when dropped, because the same
/// reader serves shared keys.
fn decoded_entries(
    file: &[u8],
    encoding: &'static str,
    decode: impl Fn(&str) -> Result<Vec<u8>, base64::DecodeError>,
) -> Result<Vec<NamedBytes>, KeyFileError> {
    let Value::Object(entries) = strict_json::value_from_slice(file)? else {
        return Err(KeyFileError::NotAString {
            name: "the document".to_owned(),
        });
    };
    entries
        .into_iter()
        .map(|(name, value)| {
            if name.is_empty() {
                return Err(KeyFileError::EmptyName);
            }
            let Value::String(text) = value else {
                return Err(KeyFileError::NotAString { name });
            };
            let text = Zeroizing::new(text);
            match decode(&text) {
                Ok(bytes) => Ok((name, Zeroizing::new(bytes))),
                Err(source) => Err(KeyFileError::Encoding {
                    name,
                    encoding,
                    source,
                }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD_KEY: &str = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
    const URL_KEY: &str = "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw";

    fn ring(key: &str) -> Vec<u8> {
        format!(r#"{{"k":"{key}"}}"#).into_bytes()
    }

    #[test]
    fn role_keys_are_padded_standard_base64_only() {
        assert!(
            RoleKeys::parse(&ring(STANDARD_KEY))
                .unwrap()
                .get("k")
                .is_some()
        );
        for bad in [URL_KEY, STANDARD_KEY.trim_end_matches('=')] {
            assert!(matches!(
                RoleKeys::parse(&ring(bad)),
                Err(KeyFileError::Encoding { .. })
            ));
        }
    }

    #[test]
    fn trust_keys_are_base64url_with_or_without_padding() {
        for good in [URL_KEY.to_owned(), format!("{URL_KEY}=")] {
            assert_eq!(TrustVerifyKeys::parse(&ring(&good)).unwrap().len(), 1);
        }
        assert!(TrustVerifyKeys::parse(&ring(STANDARD_KEY)).is_err());
        assert!(TrustVerifyKeys::parse(b"{}").unwrap().is_empty());
    }

    #[test]
    fn a_name_twice_is_refused_in_every_kind_of_file() {
        let url = format!(r#"{{"k":"{URL_KEY}","k":"{URL_KEY}"}}"#);
        let standard = format!(r#"{{"k":"{STANDARD_KEY}","k":"{STANDARD_KEY}"}}"#);
        assert!(matches!(
            TrustVerifyKeys::parse(url.as_bytes()),
            Err(KeyFileError::Json(_))
        ));
        assert!(matches!(
            HmacVerifyKeys::parse(url.as_bytes()),
            Err(KeyFileError::Json(_))
        ));
        assert!(matches!(
            RoleKeys::parse(standard.as_bytes()),
            Err(KeyFileError::Json(_))
        ));
    }

    #[test]
    fn keys_that_cannot_verify_anything_are_refused_at_load() {
        let short = super::super::base64url_encode(&[7; 31]);
        assert!(matches!(
            TrustVerifyKeys::parse(&ring(&short)),
            Err(KeyFileError::Length { found: 31, .. })
        ));
        // y = 2 is no point of the curve; y = 1 is the neutral element, of order 1.
        for y in [2, 1] {
            let mut raw = [0; 32];
            raw[0] = y;
            let text = super::super::base64url_encode(&raw);
            assert!(matches!(
                TrustVerifyKeys::parse(&ring(&text)),
                Err(KeyFileError::NotAKey { .. })
            ));
        }
    }

    #[test]
    fn shapes_other_than_an_object_of_strings_are_refused() {
        for text in [
            "[]",
            "\"x\"",
            r#"{"k":1}"#,
            r#"{"k":{"x":"y"}}"#,
            r#"{"":"AAAA"}"#,
            "{} x",
        ] {
            assert!(TrustVerifyKeys::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn hmac_keys_have_any_length_but_zero_and_are_not_printed() {
        let keys = HmacVerifyKeys::parse(&ring("c2VjcmV0")).unwrap();
        assert_eq!(keys.get("k").unwrap().as_bytes(), b"secret");
        assert!(!format!("{keys:?}").contains("115"), "{keys:?}");
        assert!(matches!(
            HmacVerifyKeys::parse(&ring("")),
            Err(KeyFileError::EmptyHmacKey { .. })
        ));
    }
}
