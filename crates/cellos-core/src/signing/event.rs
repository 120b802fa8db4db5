//! Signed events: one CloudEvent, the key it was signed with, and the signature.
//!
//! The signature covers the canonical bytes of the event alone. Key id, algorithm and window are
//! outside of it, so verification trusts none of them: the algorithm decides only in which keyring
//! the key id is looked up, and a key of one keyring is never used with the other algorithm. The
//! window is not evaluated: no producer sets it, and anybody could change it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

use super::{
    HmacKey, HmacVerifyKeys, RevokedKids, Signer, TrustVerifyKeys, base64url_decode,
    base64url_encode,
};
use crate::{
    CellosError, CloudEventV1,
    canonical::{CanonicalError, canonical_payload},
    event::{JSON_CONTENT_TYPE, SPEC_VERSION},
    strict_json,
};

/// Type of the event that carries a signed event through a sink.
pub const SIGNED_ENVELOPE_EVENT_TYPE: &str = "dev.cellos.events.signed_envelope.v1";
/// Source of the event that carries a signed event through a sink.
pub const SIGNED_ENVELOPE_SOURCE: &str = "/cellos-supervisor/event-signing";

/// Every attribute that the envelope of an event may have. Others would be outside the signature.
const KNOWN_ATTRIBUTES: [&str; 15] = [
    "specversion",
    "id",
    "source",
    "type",
    "datacontenttype",
    "data",
    "time",
    "traceparent",
    "cexauthorityclass",
    "cextrustceiling",
    "cexsessionid",
    "cexparenttrace",
    "cexreceipthash",
    "cexdoctrinecite",
    "cexrevocation",
];

/// How an event is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SignatureAlgorithm {
    /// Ed25519, RFC 8032.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// HMAC with SHA-256, RFC 2104.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
}

impl SignatureAlgorithm {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::HmacSha256 => "hmac-sha256",
        }
    }

    /// Size of a signature, in bytes.
    #[must_use]
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 64,
            Self::HmacSha256 => 32,
        }
    }
}

/// One signed event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedEventEnvelopeV1 {
    /// The event.
    pub event: CloudEventV1,
    /// Id of the key.
    pub signer_kid: String,
    /// How it is signed.
    pub algorithm: SignatureAlgorithm,
    /// The signature in base64url without padding.
    pub signature: String,
    /// Start of a window, RFC 3339; carried and not evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// End of a window, RFC 3339; carried and not evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// The keys that events are verified with, one keyring per algorithm.
#[derive(Debug, Clone, Default)]
pub struct EventVerifyKeys {
    /// Keys for `ed25519`.
    pub ed25519: TrustVerifyKeys,
    /// Keys for `hmac-sha256`.
    pub hmac: HmacVerifyKeys,
}

/// Why an event could not be signed, or a signed event was refused.
#[derive(Debug, thiserror::Error)]
pub enum EventSigningError {
    /// The event has no canonical form.
    #[error("event {id}: {source}")]
    Canonical {
        /// Id of the event.
        id: String,
        /// Why.
        source: CanonicalError,
    },
    /// The signer failed.
    #[error("event {id}: signing with key {kid} failed: {source}")]
    Signer {
        /// Id of the event.
        id: String,
        /// Id of the key.
        kid: String,
        /// What the signer said.
        source: CellosError,
    },
    /// The text is no signed event.
    #[error("signed event is unreadable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Something else than an object stands where an event belongs.
    #[error("signed event: an event must be a JSON object")]
    NotAnObject,
    /// The event carries an attribute that no signature covers.
    #[error("signed event has the unknown attribute {name:?}, which its signature does not cover")]
    UnknownAttribute {
        /// The attribute.
        name: String,
    },
    /// The event is no wrapper of a signed event.
    #[error("event {id} is of type {ty}, not {SIGNED_ENVELOPE_EVENT_TYPE}")]
    NotAWrapper {
        /// Id of the event.
        id: String,
        /// Its type.
        ty: String,
    },
    /// An attribute of the wrapper differs from the event inside.
    #[error("wrapper attribute {attribute} differs from that of the signed event {id}")]
    WrapperMismatch {
        /// The attribute.
        attribute: &'static str,
        /// Id of the event inside.
        id: String,
    },
    /// The key is on the revocation list.
    #[error("signer_kid_revoked: event {id} is signed with the revoked key {kid}")]
    Revoked {
        /// Id of the event.
        id: String,
        /// Id of the key.
        kid: String,
    },
    /// The key is in no keyring of that algorithm.
    #[error("event {id}: no {algorithm} key with the id {kid}")]
    UnknownKid {
        /// Id of the event.
        id: String,
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Id of the key.
        kid: String,
    },
    /// The signature is no base64url.
    #[error("event {id}: signature is not base64url: {source}")]
    SignatureEncoding {
        /// Id of the event.
        id: String,
        /// What the decoder found.
        source: base64::DecodeError,
    },
    /// The signature has the wrong size.
    #[error("event {id}: a signature of {algorithm} must be {expected} bytes, found {found}")]
    SignatureLength {
        /// Id of the event.
        id: String,
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Size of a signature, in bytes.
        expected: usize,
        /// Size of this one, in bytes.
        found: usize,
    },
    /// The signature is not of this event by this key.
    #[error("event {id}: signature by key {kid} does not verify")]
    SignatureInvalid {
        /// Id of the event.
        id: String,
        /// Id of the key.
        kid: String,
    },
}

impl From<EventSigningError> for CellosError {
    fn from(error: EventSigningError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

/// Signs an event with Ed25519.
///
/// # Errors
/// [`EventSigningError::Canonical`] and [`EventSigningError::Signer`].
pub fn sign_event_ed25519(
    event: CloudEventV1,
    signer: &dyn Signer,
) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    let message = signed_bytes(&event)?;
    let signature = signer
        .sign(&message)
        .map_err(|source| EventSigningError::Signer {
            id: event.id.clone(),
            kid: signer.kid().to_owned(),
            source,
        })?;
    Ok(envelope(
        event,
        signer.kid(),
        SignatureAlgorithm::Ed25519,
        &signature,
    ))
}

/// Signs an event with HMAC-SHA-256.
///
/// # Errors
/// [`EventSigningError::Canonical`].
pub fn sign_event_hmac(
    event: CloudEventV1,
    kid: &str,
    key: &HmacKey,
) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    let tag = hmac_of(key, &signed_bytes(&event)?).finalize().into_bytes();
    Ok(envelope(event, kid, SignatureAlgorithm::HmacSha256, &tag))
}

/// Verifies a signed event and returns the event, which alone is covered by the signature.
///
/// # Errors
/// [`EventSigningError`]. A revoked key is refused before anything is computed.
pub fn verify_signed_event<'a>(
    envelope: &'a SignedEventEnvelopeV1,
    keys: &EventVerifyKeys,
    revoked: &RevokedKids,
) -> Result<&'a CloudEventV1, EventSigningError> {
    let id = || envelope.event.id.clone();
    let kid = envelope.signer_kid.as_str();
    if revoked.contains(kid) {
        return Err(EventSigningError::Revoked {
            id: id(),
            kid: kid.to_owned(),
        });
    }
    let algorithm = envelope.algorithm;
    let unknown = || EventSigningError::UnknownKid {
        id: id(),
        algorithm: algorithm.as_str(),
        kid: kid.to_owned(),
    };
    let signature = base64url_decode(&envelope.signature)
        .map_err(|source| EventSigningError::SignatureEncoding { id: id(), source })?;
    let length = || EventSigningError::SignatureLength {
        id: id(),
        algorithm: algorithm.as_str(),
        expected: algorithm.signature_bytes(),
        found: signature.len(),
    };
    let message = signed_bytes(&envelope.event)?;
    let verified = match algorithm {
        SignatureAlgorithm::Ed25519 => {
            let key = keys.ed25519.get(kid).ok_or_else(unknown)?;
            let signature = signature.as_slice().try_into().map_err(|_| length())?;
            key.verifies(&message, signature)
        }
        SignatureAlgorithm::HmacSha256 => {
            let key = keys.hmac.get(kid).ok_or_else(unknown)?;
            if signature.len() != algorithm.signature_bytes() {
                return Err(length());
            }
            hmac_of(key, &message).verify_slice(&signature).is_ok()
        }
    };
    if verified {
        Ok(&envelope.event)
    } else {
        Err(EventSigningError::SignatureInvalid {
            id: id(),
            kid: kid.to_owned(),
        })
    }
}

/// Puts a signed event into the event that travels on sinks.
///
/// # Errors
/// [`EventSigningError::Unreadable`] when the envelope cannot be written as JSON, which cannot
/// happen for an event that was signed.
pub fn wrap_signed_event(
    envelope: &SignedEventEnvelopeV1,
) -> Result<CloudEventV1, EventSigningError> {
    Ok(CloudEventV1 {
        specversion: SPEC_VERSION.to_owned(),
        id: envelope.event.id.clone(),
        source: SIGNED_ENVELOPE_SOURCE.to_owned(),
        ty: SIGNED_ENVELOPE_EVENT_TYPE.to_owned(),
        datacontenttype: Some(JSON_CONTENT_TYPE.to_owned()),
        data: Some(serde_json::to_value(envelope)?),
        time: envelope.event.time.clone(),
        traceparent: envelope.event.traceparent.clone(),
        cexauthorityclass: None,
        cextrustceiling: None,
        cexsessionid: None,
        cexparenttrace: None,
        cexreceipthash: None,
        cexdoctrinecite: None,
        cexrevocation: None,
    })
}

/// Takes the signed event out of the event that carried it.
///
/// The wrapper is not signed, so what it copies from the event inside has to be equal to it;
/// otherwise a reader of the wrapper would be told something that nobody signed.
///
/// # Errors
/// [`EventSigningError::NotAWrapper`], [`EventSigningError::Unreadable`],
/// [`EventSigningError::UnknownAttribute`], [`EventSigningError::WrapperMismatch`].
pub fn unwrap_signed_event(
    wrapper: &CloudEventV1,
) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    if wrapper.ty != SIGNED_ENVELOPE_EVENT_TYPE {
        return Err(EventSigningError::NotAWrapper {
            id: wrapper.id.clone(),
            ty: wrapper.ty.clone(),
        });
    }
    let envelope = envelope_from_value(wrapper.data.as_ref().unwrap_or(&Value::Null))?;
    let expected = wrap_signed_event(&envelope)?;
    let attributes = [
        ("specversion", wrapper.specversion == expected.specversion),
        ("id", wrapper.id == expected.id),
        ("source", wrapper.source == expected.source),
        (
            "datacontenttype",
            wrapper.datacontenttype == expected.datacontenttype,
        ),
        ("time", wrapper.time == expected.time),
        ("traceparent", wrapper.traceparent == expected.traceparent),
        ("cexauthorityclass", wrapper.cexauthorityclass.is_none()),
        ("cextrustceiling", wrapper.cextrustceiling.is_none()),
        ("cexsessionid", wrapper.cexsessionid.is_none()),
        ("cexparenttrace", wrapper.cexparenttrace.is_none()),
        ("cexreceipthash", wrapper.cexreceipthash.is_none()),
        ("cexdoctrinecite", wrapper.cexdoctrinecite.is_none()),
        ("cexrevocation", wrapper.cexrevocation.is_none()),
    ];
    match attributes.into_iter().find(|(_, equal)| !equal) {
        None => Ok(envelope),
        Some((attribute, _)) => Err(EventSigningError::WrapperMismatch {
            attribute,
            id: envelope.event.id,
        }),
    }
}

/// Takes the signed event out of its wrapper and verifies it.
///
/// # Errors
/// Those of [`unwrap_signed_event`] and [`verify_signed_event`].
pub fn verify_wrapped_event(
    wrapper: &CloudEventV1,
    keys: &EventVerifyKeys,
    revoked: &RevokedKids,
) -> Result<CloudEventV1, EventSigningError> {
    let envelope = unwrap_signed_event(wrapper)?;
    verify_signed_event(&envelope, keys, revoked)?;
    Ok(envelope.event)
}

/// Reads the text of a bare signed event.
///
/// Stricter than deserialising it: a key that stands twice, and an attribute of the event that
/// the signature does not cover, are refused.
///
/// # Errors
/// [`EventSigningError::Unreadable`] and [`EventSigningError::UnknownAttribute`].
pub fn parse_signed_event(text: &[u8]) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    envelope_from_value(&strict_json::value_from_slice(text)?)
}

/// Reads one line of a signed log: a wrapper with a signed event inside.
///
/// # Errors
/// Those of [`unwrap_signed_event`]; unknown attributes of the wrapper are refused as well.
pub fn parse_signed_event_line(line: &[u8]) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    let value = strict_json::value_from_slice(line)?;
    refuse_unknown_attributes(&value)?;
    unwrap_signed_event(&CloudEventV1::deserialize(&value)?)
}

fn envelope_from_value(value: &Value) -> Result<SignedEventEnvelopeV1, EventSigningError> {
    let envelope = value.as_object().ok_or(EventSigningError::NotAnObject)?;
    if let Some(event) = envelope.get("event") {
        refuse_unknown_attributes(event)?;
    }
    Ok(SignedEventEnvelopeV1::deserialize(value)?)
}

fn refuse_unknown_attributes(event: &Value) -> Result<(), EventSigningError> {
    let attributes = event.as_object().ok_or(EventSigningError::NotAnObject)?;
    match attributes
        .keys()
        .find(|key| !KNOWN_ATTRIBUTES.contains(&key.as_str()))
    {
        None => Ok(()),
        Some(name) => Err(EventSigningError::UnknownAttribute { name: name.clone() }),
    }
}

fn signed_bytes(event: &CloudEventV1) -> Result<Vec<u8>, EventSigningError> {
    canonical_payload(event).map_err(|source| EventSigningError::Canonical {
        id: event.id.clone(),
        source,
    })
}

fn hmac_of(key: &HmacKey, message: &[u8]) -> Hmac<Sha256> {
    // RFC 2104 has no key length that HMAC could refuse; a longer key is hashed first. The block
    // of a key is built by hand, because the constructor for slices returns a `Result` all the same.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    let bytes = key.as_bytes();
    if bytes.len() <= block.len() {
        block[..bytes.len()].copy_from_slice(bytes);
    } else {
        use sha2::Digest as _;
        let hashed = Sha256::digest(bytes);
        block[..hashed.len()].copy_from_slice(&hashed);
    }
    let mut mac = Hmac::<Sha256>::new(&block);
    zeroize::Zeroize::zeroize(block.as_mut_slice());
    mac.update(message);
    mac
}

fn envelope(
    event: CloudEventV1,
    kid: &str,
    algorithm: SignatureAlgorithm,
    signature: &[u8],
) -> SignedEventEnvelopeV1 {
    SignedEventEnvelopeV1 {
        event,
        signer_kid: kid.to_owned(),
        algorithm,
        signature: base64url_encode(signature),
        not_before: None,
        not_after: None,
    }
}
