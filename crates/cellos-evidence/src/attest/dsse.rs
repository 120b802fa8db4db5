//! The envelope: DSSE, version 1.
//!
//! A signature is over the pre-authentication encoding of the payload's type and bytes, so neither
//! can be changed, and a verifier never writes the payload anew.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cellos_core::{CellosError, signing::Signer};
use serde::{Deserialize, Serialize};

use super::statement::Statement;

/// The payload type of in-toto statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed payload in its JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The payload in base64.
    pub payload: String,
    /// What it is.
    pub payload_type: String,
    /// At least one where it is to be believed.
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Id of the key. Not covered by the signature: a hint, no proof.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyid: String,
    /// The signature in base64.
    pub sig: String,
}

/// Why a statement was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The statement has no JSON form.
    #[error("the statement cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The signer failed or refused.
    #[error("key {kid} cannot sign: {source}")]
    Signer {
        /// Id of the key.
        kid: String,
        /// The signer's reason.
        source: CellosError,
    },
    /// The signature is not by the key that the signer names.
    #[error("what key {kid} signed does not verify with its public key: check the key or token")]
    Disagrees {
        /// Id of the key.
        kid: String,
    },
}

/// What a signature is over.
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut encoding = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    encoding.extend_from_slice(payload);
    encoding
}

impl Envelope {
    /// Signs a statement. Its payload is canonical JSON (RFC 8785), so that one statement has one
    /// form.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(statement: &Statement, signer: &dyn Signer) -> Result<Self, SignError> {
        let payload = serde_json_canonicalizer::to_vec(statement)?;
        let message = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
        let kid = signer.kid();
        let signature = signer.sign(&message).map_err(|source| SignError::Signer {
            kid: kid.to_owned(),
            source,
        })?;
        // A token that holds another key than the keyset says would be found by others only.
        if !signer.verifying_key().verifies(&message, &signature) {
            return Err(SignError::Disagrees {
                kid: kid.to_owned(),
            });
        }
        Ok(Self {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signature {
                keyid: kid.to_owned(),
                sig: STANDARD.encode(signature),
            }],
        })
    }

    /// One line of JSON without its line feed: an entry of an in-toto bundle.
    ///
    /// # Errors
    /// None for an envelope of [`Envelope::sign`].
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_protocol() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pre_authentication_encoding("", b""), b"DSSEv1 0  0 ");
    }
}
