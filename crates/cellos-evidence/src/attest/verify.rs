//! Checking an envelope.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

use super::{
    ATTESTED_ON,
    dsse::{Envelope, PAYLOAD_TYPE, pre_authentication_encoding},
    statement::{STATEMENT_TYPE, Statement},
};
use crate::keyset::{KeyFault, Keyset, KeysetKey};

/// Largest envelope in bytes: a document of 1 MiB and 8 MiB of events, in base64, fit.
pub const MAX_ENVELOPE_BYTES: usize = 16 * 1024 * 1024;
/// Most signatures of one envelope that are looked at: each costs a check against the keys.
pub const MAX_SIGNATURES: usize = 16;
/// Most subjects of one statement.
pub const MAX_SUBJECTS: usize = 10_000;

/// An attestation that is by a trusted key.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// What is attested.
    pub statement: Statement,
    /// Ids of the keys whose signatures are good, in the order of the signatures.
    pub kids: Vec<String>,
    /// When it was made, where it says so.
    pub attested_on: Option<Timestamp>,
}

/// Why an envelope is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is larger than envelopes may be.
    #[error("it has {found} bytes, and {MAX_ENVELOPE_BYTES} is the most")]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// It is no envelope, or holds a key twice.
    #[error("it is no DSSE envelope: {0}")]
    Envelope(#[source] serde_json::Error),
    /// It carries something else than a statement.
    #[error("its payload type is {found:?}, not {PAYLOAD_TYPE}")]
    PayloadType {
        /// The type found.
        found: String,
    },
    /// A part is no base64.
    #[error("its {part} is not base64: {source}")]
    Base64 {
        /// `payload` or `signature`.
        part: &'static str,
        /// What the decoder found.
        source: base64::DecodeError,
    },
    /// There is no signature, or there are too many.
    #[error("it has {found} signatures; 1 to {MAX_SIGNATURES} are looked at")]
    Signatures {
        /// How many there are.
        found: usize,
    },
    /// Two signatures name one key.
    #[error("two of its signatures are by key {kid}")]
    KeyTwice {
        /// Id of the key.
        kid: String,
    },
    /// No signature is by a key of the keyset.
    #[error("it is signed by {}, and the keyset has no such key", kids.join(", "))]
    UnknownKey {
        /// The ids that the signatures give.
        kids: Vec<String>,
    },
    /// A signature is not by the key that it names.
    #[error("the signature by key {kid} does not verify: it was changed, or is by another key")]
    SignatureInvalid {
        /// Id of the key.
        kid: String,
    },
    /// The key counts for nothing any more, or did not when the attestation was made.
    #[error("key {kid} does not count: {fault}")]
    Key {
        /// Id of the key.
        kid: String,
        /// Why.
        fault: KeyFault,
    },
    /// The key is valid for a time and the attestation does not say when it was made.
    #[error(
        "key {kid} is valid for a time only, and the attestation does not say when it was made"
    )]
    NoTime {
        /// Id of the key.
        kid: String,
    },
    /// The payload is no statement, or holds a key twice.
    #[error("its payload is no in-toto statement: {0}")]
    Statement(#[source] serde_json::Error),
    /// The statement breaks a rule of the format.
    #[error("its statement: {0}")]
    Invalid(&'static str),
}

/// Verifies one envelope. The signature is checked before anything in the payload is believed; the
/// payload is never written anew.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(envelope: &[u8], keys: &Keyset) -> Result<Verified, VerifyError> {
    if envelope.len() > MAX_ENVELOPE_BYTES {
        return Err(VerifyError::TooLarge {
            found: envelope.len(),
        });
    }
    let envelope = cellos_core::strict_json_value(envelope)
        .and_then(Envelope::deserialize)
        .map_err(VerifyError::Envelope)?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(VerifyError::PayloadType {
            found: envelope.payload_type,
        });
    }
    let payload = decode("payload", &envelope.payload)?;
    let signers = signers(&envelope, &payload, keys)?;
    let statement = cellos_core::strict_json_value(&payload)
        .and_then(Statement::deserialize)
        .map_err(VerifyError::Statement)?;
    check(&statement)?;
    let attested_on = attested_on(&statement)?;
    for (kid, key) in &signers {
        count(kid, key, attested_on)?;
    }
    Ok(Verified {
        statement,
        kids: signers.into_iter().map(|(kid, _)| kid).collect(),
        attested_on,
    })
}

/// The keys of the keyset that signed. At least one has; a signature that names a known key and is
/// not by it spoils the envelope.
fn signers<'k>(
    envelope: &Envelope,
    payload: &[u8],
    keys: &'k Keyset,
) -> Result<Vec<(String, &'k KeysetKey)>, VerifyError> {
    let found = envelope.signatures.len();
    if !(1..=MAX_SIGNATURES).contains(&found) {
        return Err(VerifyError::Signatures { found });
    }
    let message = pre_authentication_encoding(PAYLOAD_TYPE, payload);
    let mut signers: Vec<(String, &KeysetKey)> = Vec::new();
    for signature in &envelope.signatures {
        let bytes = decode("signature", &signature.sig)?;
        let fits = |key: &KeysetKey| {
            <[u8; 64]>::try_from(bytes.as_slice())
                .is_ok_and(|bytes| key.public.verifies(&message, &bytes))
        };
        // The id is only a hint: without one, any key may be the one.
        let signer = match keys.get(&signature.keyid) {
            Some(key) if fits(key) => Some((signature.keyid.clone(), key)),
            Some(_) => {
                return Err(VerifyError::SignatureInvalid {
                    kid: signature.keyid.clone(),
                });
            }
            None => keys
                .iter()
                .find(|(_, key)| signature.keyid.is_empty() && fits(key))
                .map(|(kid, key)| (kid.to_owned(), key)),
        };
        let Some((kid, key)) = signer else { continue };
        if signers.iter().any(|(other, _)| *other == kid) {
            return Err(VerifyError::KeyTwice { kid });
        }
        signers.push((kid, key));
    }
    if signers.is_empty() {
        return Err(VerifyError::UnknownKey {
            kids: envelope
                .signatures
                .iter()
                .map(|signature| match signature.keyid.as_str() {
                    "" => "a key without an id".to_owned(),
                    kid => format!("key {kid}"),
                })
                .collect(),
        });
    }
    Ok(signers)
}

/// What the format asks of a statement.
fn check(statement: &Statement) -> Result<(), VerifyError> {
    let problem = match statement {
        Statement { ty, .. } if ty != STATEMENT_TYPE => "`_type` is of another version",
        Statement { subject, .. } if subject.is_empty() => "it has no subject",
        Statement { subject, .. } if subject.len() > MAX_SUBJECTS => "it has too many subjects",
        Statement { subject, .. } if subject.iter().any(|one| one.digest.is_empty()) => {
            "a subject has no digest"
        }
        Statement { predicate_type, .. } if predicate_type.is_empty() => "it has no predicate type",
        _ => return Ok(()),
    };
    Err(VerifyError::Invalid(problem))
}

/// When the attestation says that it was made, in either predicate of ours.
fn attested_on(statement: &Statement) -> Result<Option<Timestamp>, VerifyError> {
    let predicate = &statement.predicate;
    let metadata = predicate
        .get("runDetails")
        .and_then(|details| details.get("metadata"))
        .or_else(|| predicate.get("metadata"));
    match metadata.and_then(|metadata| metadata.get(ATTESTED_ON)) {
        None => Ok(None),
        Some(Value::String(time)) => time
            .parse()
            .map(Some)
            .map_err(|_| VerifyError::Invalid("the time at which it was made is no RFC 3339 time")),
        Some(_) => Err(VerifyError::Invalid(
            "the time at which it was made is no text",
        )),
    }
}

/// Whether a key counts for what was made at a time.
fn count(kid: &str, key: &KeysetKey, at: Option<Timestamp>) -> Result<(), VerifyError> {
    let has_window = key.not_before.is_some() || key.not_after.is_some();
    let moment = match at {
        Some(at) => at,
        // Of a key without a window only the revocation counts, which has no time.
        None if !has_window || key.revoked.is_some() => Timestamp::UNIX_EPOCH,
        None => {
            return Err(VerifyError::NoTime {
                kid: kid.to_owned(),
            });
        }
    };
    key.judge(moment).map_err(|fault| VerifyError::Key {
        kid: kid.to_owned(),
        fault,
    })
}

/// Either alphabet, with or without padding, as the protocol asks.
fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, VerifyError> {
    let alphabet = match text.bytes().any(|byte| matches!(byte, b'-' | b'_')) {
        true => &URL_SAFE,
        false => &STANDARD,
    };
    let padding =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, padding)
        .decode(text)
        .map_err(|source| VerifyError::Base64 { part, source })
}

#[cfg(test)]
mod tests;
