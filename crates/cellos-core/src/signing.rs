//! Signatures: event envelopes, trust envelopes, the keys that verify them and revocation.
//!
//! Nothing here reads a file or the clock; contents and the present time are arguments.

mod epoch;
mod event;
mod keys;
mod keyset_document;
mod revocation;
mod signer;
mod trust_envelope;

pub(crate) use trust_envelope::window_contains;

pub use epoch::{EpochAnchor, EpochError};
pub use event::{
    EventSigningError, EventVerifyKeys, SIGNED_ENVELOPE_EVENT_TYPE, SIGNED_ENVELOPE_SOURCE,
    SignatureAlgorithm, SignedEventEnvelopeV1, parse_signed_event, parse_signed_event_line,
    sign_event_ed25519, sign_event_hmac, unwrap_signed_event, verify_signed_event,
    verify_wrapped_event, wrap_signed_event,
};
pub use keys::{
    HmacKey, HmacVerifyKeys, KeyFileError, RoleKeys, TrustAnchorPublicKey, TrustVerifyKeys,
};
pub use keyset_document::{
    ED25519, KeysetDocumentError, KeysetDocumentV1, KeysetEntry, MAX_KEY_NAME_BYTES,
    MAX_KEYSET_KEYS, MAX_REASON_BYTES,
};
pub use revocation::{RevocationEntry, RevocationError, RevocationListV1, RevokedKids};
pub use signer::{SeedError, Signer, SoftwareSigner};
pub use trust_envelope::{
    SUPPORTED_SCHEMA_VERSION, SignedTrustKeysetEnvelope, TrustEnvelopeError, TrustPayloadType,
    TrustSignature, TrustVerification, VerifiedTrustPayload, parse_trust_envelope,
    parse_trust_envelope_chain, sign_trust_payload, verify_signed_trust_keyset_chain,
    verify_signed_trust_keyset_envelope,
};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// base64url: written without padding, read with or without.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn base64url_decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    BASE64URL.decode(text)
}

pub(crate) fn base64url_encode(bytes: &[u8]) -> String {
    BASE64URL.encode(bytes)
}
