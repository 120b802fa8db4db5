//! The signed envelope that keysets, ceilings and revocation lists travel in.
//!
//! The signatures cover the raw payload bytes and nothing else: payload type, threshold, windows
//! and the link to the previous envelope can be changed by whoever carries the envelope. So the
//! verifier's own [`TrustVerification`] decides how many signers are needed, the envelope can only
//! ask for more, and a caller must ask for the payload type that it expects.

use std::{collections::BTreeSet, num::NonZeroU32, str::FromStr as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ED25519, RevokedKids, Signer, TrustVerifyKeys, base64url_decode, base64url_encode};
use crate::{
    CellosError,
    canonical::sha256_ref,
    strict_json::{self, StrictJsonError},
};

/// The only `schemaVersion` of trust documents there is.
pub const SUPPORTED_SCHEMA_VERSION: &str = "1.0.0";

/// What an envelope carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrustPayloadType {
    /// A set of keys.
    #[serde(rename = "application/vnd.cellos.trust-keyset-v1+json")]
    Keyset,
    /// An organisation's ceiling on authority.
    #[serde(rename = "application/vnd.cellos.authority-ceiling-v1+json")]
    AuthorityCeiling,
    /// A list of revoked keys.
    #[serde(rename = "application/vnd.cellos.trust-revocation-v1+json")]
    Revocation,
}

impl TrustPayloadType {
    /// The media type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keyset => "application/vnd.cellos.trust-keyset-v1+json",
            Self::AuthorityCeiling => "application/vnd.cellos.authority-ceiling-v1+json",
            Self::Revocation => "application/vnd.cellos.trust-revocation-v1+json",
        }
    }
}

/// A signed trust document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedTrustKeysetEnvelope {
    /// Exactly [`SUPPORTED_SCHEMA_VERSION`].
    pub schema_version: String,
    /// What the payload is.
    pub payload_type: TrustPayloadType,
    /// The payload in base64url.
    pub payload: String,
    /// The signatures over the decoded payload.
    pub signatures: Vec<TrustSignature>,
    /// `sha256:` and the digest of the decoded payload.
    pub payload_digest: String,
    /// When it was made; for people.
    pub produced_at: String,
    /// Digest of the payload of the envelope that this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces_envelope_digest: Option<String>,
    /// How many different signers the producer wants to see; can only raise the verifier's own
    /// minimum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_signer_count: Option<u32>,
}

/// One signature of a trust document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustSignature {
    /// Id of the key.
    pub signer_kid: String,
    /// `ed25519`. A text and not an enum, because signatures of kinds we do not know are skipped
    /// and must not make the envelope unreadable.
    pub algorithm: String,
    /// 64 bytes in base64url.
    pub signature: String,
    /// First moment the signature counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Last moment the signature counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// What a verifier demands.
#[derive(Debug, Clone, Copy)]
pub struct TrustVerification<'a> {
    /// The trusted keys.
    pub keys: &'a TrustVerifyKeys,
    /// Keys that do not count any more.
    pub revoked: &'a RevokedKids,
    /// The present time.
    pub now: Timestamp,
    /// The fewest different signers.
    pub minimum_signers: NonZeroU32,
}

/// A payload whose signatures were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTrustPayload {
    /// What it claims to be; not covered by the signatures, so the payload itself must agree.
    pub payload_type: TrustPayloadType,
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// `sha256:` and the digest of the payload.
    pub digest: String,
    /// The ids of the keys that signed, sorted.
    pub signer_kids: BTreeSet<String>,
}

/// Why a trust document was refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustEnvelopeError {
    /// The text is no envelope.
    #[error("trust envelope is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// A version we do not know.
    #[error("schemaVersion must be {SUPPORTED_SCHEMA_VERSION}, found {found:?}")]
    SchemaVersion {
        /// The version found.
        found: String,
    },
    /// The payload is no base64url.
    #[error("payload is not base64url: {0}")]
    PayloadEncoding(base64::DecodeError),
    /// The payload was changed, or the digest.
    #[error("payload digest mismatch: payloadDigest says {stated}, the payload has {actual}")]
    DigestMismatch {
        /// The digest in the envelope.
        stated: String,
        /// The digest of the payload.
        actual: String,
    },
    /// There is no signature at all.
    #[error("signatures must not be empty: no signature verified")]
    Unsigned,
    /// A window cannot be read.
    #[error("signature by {kid}: {field} is not an RFC 3339 time: {source}")]
    Window {
        /// Id of the key.
        kid: String,
        /// The field.
        field: &'static str,
        /// What the parser found.
        source: jiff::Error,
    },
    /// No signature counts.
    #[error("no signature verified")]
    NoneVerified,
    /// Too few signatures count.
    #[error("only {verified} distinct signers verified, need {required}")]
    TooFewSigners {
        /// How many different signers verified.
        verified: usize,
        /// How many are needed.
        required: u32,
    },
    /// The payload is of another kind than the caller needs.
    #[error("payloadType must be {expected}, found {found}")]
    WrongPayloadType {
        /// The kind that is needed.
        expected: &'static str,
        /// The kind found.
        found: &'static str,
    },
    /// The chain has no envelope.
    #[error("empty chain: at least one envelope is needed")]
    EmptyChain,
    /// An envelope of the chain was refused.
    #[error("envelope at index {index}: {source}")]
    ChainMember {
        /// Position, oldest first, from 0.
        index: usize,
        /// Why.
        source: Box<TrustEnvelopeError>,
    },
    /// An envelope does not replace the one before it.
    #[error(
        "envelope at index {index}: replacesEnvelopeDigest mismatch: says {stated}, the previous \
         payload has {actual}"
    )]
    BrokenLink {
        /// Position, oldest first, from 0.
        index: usize,
        /// The digest in the envelope, `nothing` when there is none.
        stated: String,
        /// The digest of the previous payload.
        actual: String,
    },
}

impl From<TrustEnvelopeError> for CellosError {
    fn from(error: TrustEnvelopeError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl VerifiedTrustPayload {
    /// The payload, if it is of the kind the caller needs.
    ///
    /// # Errors
    /// [`TrustEnvelopeError::WrongPayloadType`].
    pub fn expect_type(&self, expected: TrustPayloadType) -> Result<&[u8], TrustEnvelopeError> {
        if self.payload_type == expected {
            Ok(&self.payload)
        } else {
            Err(TrustEnvelopeError::WrongPayloadType {
                expected: expected.as_str(),
                found: self.payload_type.as_str(),
            })
        }
    }
}

/// Reads the text of a trust envelope.
///
/// # Errors
/// [`TrustEnvelopeError::Unreadable`], also for unknown fields and payload types.
pub fn parse_trust_envelope(text: &[u8]) -> Result<SignedTrustKeysetEnvelope, TrustEnvelopeError> {
    Ok(strict_json::from_slice(text)?)
}

/// Reads the text of a chain: a JSON array of envelopes, oldest first.
///
/// # Errors
/// [`TrustEnvelopeError::Unreadable`], also for unknown fields and payload types.
pub fn parse_trust_envelope_chain(
    text: &[u8],
) -> Result<Vec<SignedTrustKeysetEnvelope>, TrustEnvelopeError> {
    Ok(strict_json::from_slice(text)?)
}

/// Makes an envelope around a payload, signed by every signer.
///
/// # Errors
/// What a signer says.
pub fn sign_trust_payload(
    payload_type: TrustPayloadType,
    payload: &[u8],
    signers: &[&dyn Signer],
    replaces_envelope_digest: Option<String>,
    produced_at: Timestamp,
) -> Result<SignedTrustKeysetEnvelope, CellosError> {
    let signatures = signers
        .iter()
        .map(|signer| {
            Ok(TrustSignature {
                signer_kid: signer.kid().to_owned(),
                algorithm: ED25519.to_owned(),
                signature: base64url_encode(&signer.sign(payload)?),
                not_before: None,
                not_after: None,
            })
        })
        .collect::<Result<_, CellosError>>()?;
    Ok(SignedTrustKeysetEnvelope {
        schema_version: SUPPORTED_SCHEMA_VERSION.to_owned(),
        payload_type,
        payload: base64url_encode(payload),
        signatures,
        payload_digest: sha256_ref(payload),
        produced_at: produced_at.to_string(),
        replaces_envelope_digest,
        required_signer_count: None,
    })
}

impl SignedTrustKeysetEnvelope {
    /// The payload as it is, of which nothing was verified.
    ///
    /// # Errors
    /// [`TrustEnvelopeError::PayloadEncoding`].
    pub fn unverified_payload(&self) -> Result<Vec<u8>, TrustEnvelopeError> {
        base64url_decode(&self.payload).map_err(TrustEnvelopeError::PayloadEncoding)
    }
}

/// Verifies one envelope.
///
/// Signatures of an unknown kind, by an unknown or revoked key, outside their window or of the
/// wrong size do not count; a key counts once.
///
/// # Errors
/// [`TrustEnvelopeError`]. A window that cannot be read is an error and not a skipped signature.
pub fn verify_signed_trust_keyset_envelope(
    envelope: &SignedTrustKeysetEnvelope,
    verification: &TrustVerification<'_>,
) -> Result<VerifiedTrustPayload, TrustEnvelopeError> {
    if envelope.schema_version != SUPPORTED_SCHEMA_VERSION {
        return Err(TrustEnvelopeError::SchemaVersion {
            found: envelope.schema_version.clone(),
        });
    }
    let payload =
        base64url_decode(&envelope.payload).map_err(TrustEnvelopeError::PayloadEncoding)?;
    let digest = sha256_ref(&payload);
    if digest != envelope.payload_digest {
        return Err(TrustEnvelopeError::DigestMismatch {
            stated: envelope.payload_digest.clone(),
            actual: digest,
        });
    }
    if envelope.signatures.is_empty() {
        return Err(TrustEnvelopeError::Unsigned);
    }
    let mut signer_kids = BTreeSet::new();
    for signature in &envelope.signatures {
        if !signer_kids.contains(&signature.signer_kid)
            && signature_counts(signature, &payload, verification)?
        {
            signer_kids.insert(signature.signer_kid.clone());
        }
    }
    let required = verification
        .minimum_signers
        .get()
        .max(envelope.required_signer_count.unwrap_or(1));
    let verified = signer_kids.len();
    if u32::try_from(verified).is_ok_and(|verified| verified < required) {
        return Err(if required == 1 {
            TrustEnvelopeError::NoneVerified
        } else {
            TrustEnvelopeError::TooFewSigners { verified, required }
        });
    }
    Ok(VerifiedTrustPayload {
        payload_type: envelope.payload_type,
        payload,
        digest,
        signer_kids,
    })
}

/// Verifies a chain of envelopes, oldest first, and returns the payload of the newest.
///
/// Each envelope has to verify now, has to be of the kind of the first, and has to name the payload
/// of the one before it; what the first one replaces is not looked at.
///
/// # Errors
/// [`TrustEnvelopeError`] with the position of the envelope at fault.
pub fn verify_signed_trust_keyset_chain(
    chain: &[SignedTrustKeysetEnvelope],
    verification: &TrustVerification<'_>,
) -> Result<VerifiedTrustPayload, TrustEnvelopeError> {
    let mut head: Option<VerifiedTrustPayload> = None;
    for (index, envelope) in chain.iter().enumerate() {
        let member = |source| TrustEnvelopeError::ChainMember {
            index,
            source: Box::new(source),
        };
        let verified =
            verify_signed_trust_keyset_envelope(envelope, verification).map_err(member)?;
        if let Some(previous) = head {
            verified
                .expect_type(previous.payload_type)
                .map_err(member)?;
            if envelope.replaces_envelope_digest.as_ref() != Some(&previous.digest) {
                return Err(TrustEnvelopeError::BrokenLink {
                    index,
                    stated: envelope
                        .replaces_envelope_digest
                        .clone()
                        .unwrap_or_else(|| "nothing".to_owned()),
                    actual: previous.digest,
                });
            }
        }
        head = Some(verified);
    }
    head.ok_or(TrustEnvelopeError::EmptyChain)
}

fn signature_counts(
    signature: &TrustSignature,
    payload: &[u8],
    verification: &TrustVerification<'_>,
) -> Result<bool, TrustEnvelopeError> {
    if signature.algorithm != ED25519 || verification.revoked.contains(&signature.signer_kid) {
        return Ok(false);
    }
    let Some(key) = verification.keys.get(&signature.signer_kid) else {
        return Ok(false);
    };
    let time = |field, text: &Option<String>| {
        text.as_deref()
            .map(Timestamp::from_str)
            .transpose()
            .map_err(|source| TrustEnvelopeError::Window {
                kid: signature.signer_kid.clone(),
                field,
                source,
            })
    };
    let not_before = time("notBefore", &signature.not_before)?;
    let not_after = time("notAfter", &signature.not_after)?;
    if !window_contains(not_before, not_after, verification.now) {
        return Ok(false);
    }
    let Ok(bytes) = base64url_decode(&signature.signature) else {
        return Ok(false);
    };
    Ok(bytes
        .as_slice()
        .try_into()
        .is_ok_and(|bytes| key.verifies(payload, bytes)))
}

/// Whether a moment lies in a window whose ends belong to it.
pub(crate) fn window_contains(
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    not_before.is_none_or(|start| start <= now) && not_after.is_none_or(|end| now <= end)
}
