//! Who signs: the port for Ed25519 signers, and the one that holds its seed in memory.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::{Zeroize, Zeroizing};

use super::{TrustAnchorPublicKey, base64url_decode};
use crate::CellosError;

/// An Ed25519 signer: a key in memory, in a token or behind a service.
pub trait Signer: Send + Sync {
    /// The id that verifiers know the key by.
    fn kid(&self) -> &str;

    /// Signs the message as it is, without hashing it first.
    ///
    /// # Errors
    /// A signer outside this process may be unreachable or refuse.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], CellosError>;

    /// The public half.
    fn verifying_key(&self) -> TrustAnchorPublicKey;
}

/// A signer that holds its key in memory and erases it when dropped.
pub struct SoftwareSigner {
    kid: String,
    key: SigningKey,
}

/// Why the text of a seed was refused. The text itself never appears in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The text is no base64url.
    #[error("signing key: not base64url: {0}")]
    Encoding(#[from] base64::DecodeError),
    /// The seed has the wrong size.
    #[error("signing key: an ed25519 seed must be 32 bytes, found {found}")]
    Length {
        /// Its size in bytes.
        found: usize,
    },
}

impl SoftwareSigner {
    /// Makes a signer from an Ed25519 seed (RFC 8032, 5.1.5: the 32-byte private key).
    #[must_use]
    pub fn from_seed(kid: impl Into<String>, mut seed: [u8; 32]) -> Self {
        let key = SigningKey::from_bytes(&seed);
        seed.zeroize();
        Self {
            kid: kid.into(),
            key,
        }
    }

    /// The same key under another id.
    #[must_use]
    pub fn named(mut self, kid: impl Into<String>) -> Self {
        self.kid = kid.into();
        self
    }

    /// Makes a signer from a seed in base64url, with or without padding.
    ///
    /// # Errors
    /// [`SeedError`].
    pub fn from_base64url_seed(kid: impl Into<String>, text: &str) -> Result<Self, SeedError> {
        let bytes = Zeroizing::new(base64url_decode(text)?);
        let seed = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| SeedError::Length { found: bytes.len() })?;
        Ok(Self::from_seed(kid, seed))
    }
}

impl fmt::Debug for SoftwareSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SoftwareSigner")
            .field("kid", &self.kid)
            .field("key", &"<REDACTED>")
            .finish()
    }
}

impl Signer for SoftwareSigner {
    fn kid(&self) -> &str {
        &self.kid
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], CellosError> {
        Ok(self.key.sign(message).to_bytes())
    }

    fn verifying_key(&self) -> TrustAnchorPublicKey {
        TrustAnchorPublicKey::from_verifying_key(self.key.verifying_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_gives_the_published_public_key() {
        let signer =
            SoftwareSigner::from_base64url_seed("k", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc")
                .unwrap();
        assert_eq!(
            super::super::base64url_encode(signer.verifying_key().as_bytes()),
            "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"
        );
        assert_eq!(
            signer.verifying_key(),
            SoftwareSigner::from_seed("other", [7; 32]).verifying_key()
        );
    }

    #[test]
    fn a_seed_of_another_size_is_refused() {
        for (text, found) in [("", 0), ("BwcH", 3)] {
            assert_eq!(
                SoftwareSigner::from_base64url_seed("k", text).unwrap_err(),
                SeedError::Length { found }
            );
        }
        assert!(matches!(
            SoftwareSigner::from_base64url_seed("k", "+/+/").unwrap_err(),
            SeedError::Encoding(_)
        ));
    }

    #[test]
    fn printing_a_signer_shows_no_key() {
        let text = format!("{:?}", SoftwareSigner::from_seed("k", [7; 32]));
        assert_eq!(text, r#"SoftwareSigner { kid: "k", key: "<REDACTED>" }"#);
    }
}
