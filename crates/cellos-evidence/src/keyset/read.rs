//! Reading files of keys, which may come from anywhere.

use std::{collections::BTreeMap, fs::File, io::Read as _, num::NonZeroU32, path::Path};

use cellos_core::signing::{
    KeysetDocumentV1, RevokedKids, SignedTrustKeysetEnvelope, TrustEnvelopeError, TrustPayloadType,
    TrustVerification, TrustVerifyKeys, VerifiedTrustPayload, parse_trust_envelope,
    parse_trust_envelope_chain, verify_signed_trust_keyset_envelope,
};
use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Keyset, KeysetError, KeysetKey, MAX_ENVELOPE_SIGNATURES, MAX_KEYSET_BYTES,
    MAX_KEYSET_ENVELOPES, Published, Trust,
};

impl Keyset {
    /// Reads a file; see [`Keyset::parse`].
    ///
    /// # Errors
    /// [`KeysetError`].
    pub fn read(path: &Path, trust: &Trust, now: Timestamp) -> Result<Self, KeysetError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_KEYSET_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| KeysetError::Io {
                path: path.to_owned(),
                source,
            })?;
        Self::parse(&bytes, trust, now)
    }

    /// Reads a keyring, a signed envelope, or a chain of envelopes, oldest first, and returns the
    /// keys of the newest.
    ///
    /// `now` is for the windows of the envelopes' signatures alone; whether a key counts is asked of
    /// [`KeysetKey::judge`].
    ///
    /// # Errors
    /// [`KeysetError`].
    pub fn parse(bytes: &[u8], trust: &Trust, now: Timestamp) -> Result<Self, KeysetError> {
        if bytes.len() as u64 > MAX_KEYSET_BYTES {
            return Err(KeysetError::TooLong);
        }
        match form(bytes)? {
            Form::Keyring => match trust {
                Trust::SelfContained => Ok(Self::from(&TrustVerifyKeys::parse(bytes)?)),
                Trust::Anchored(_) => Err(KeysetError::UnsignedKeyring),
            },
            Form::Envelope => {
                let envelope = parse_trust_envelope(bytes).map_err(|source| at(0, source))?;
                chain(&[envelope], trust, now)
            }
            Form::Chain => {
                let envelopes =
                    parse_trust_envelope_chain(bytes).map_err(|source| at(0, source))?;
                chain(&envelopes, trust, now)
            }
        }
    }
}

/// What a file of keys looks like.
enum Form {
    Keyring,
    Envelope,
    Chain,
}

fn form(bytes: &[u8]) -> Result<Form, KeysetError> {
    /// The fields that tell an envelope from a keyring.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marks {
        payload_type: Option<IgnoredAny>,
        payload: Option<IgnoredAny>,
    }
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Ok(Form::Chain);
    }
    let marks: Marks = serde_json::from_slice(bytes).map_err(KeysetError::Unreadable)?;
    Ok(match (marks.payload_type, marks.payload) {
        (Some(IgnoredAny), Some(IgnoredAny)) => Form::Envelope,
        _ => Form::Keyring,
    })
}

fn at(index: usize, source: TrustEnvelopeError) -> KeysetError {
    KeysetError::Envelope { index, source }
}

/// Follows a chain from the first envelope that is believed to the newest.
fn chain(
    envelopes: &[SignedTrustKeysetEnvelope],
    trust: &Trust,
    now: Timestamp,
) -> Result<Keyset, KeysetError> {
    if envelopes.is_empty() || envelopes.len() > MAX_KEYSET_ENVELOPES {
        return Err(KeysetError::ChainLength {
            found: envelopes.len(),
        });
    }
    for (index, envelope) in envelopes.iter().enumerate() {
        let found = envelope.signatures.len();
        if found > MAX_ENVELOPE_SIGNATURES {
            return Err(KeysetError::TooManySignatures { index, found });
        }
    }
    let (first, mut newest) = first(envelopes, trust, now)?;
    for (index, envelope) in envelopes.iter().enumerate().skip(first + 1) {
        newest = follow(index, envelope, &newest, trust, now)?;
    }
    Ok(newest)
}

/// The oldest envelope that is believed for itself, and its place.
fn first(
    envelopes: &[SignedTrustKeysetEnvelope],
    trust: &Trust,
    now: Timestamp,
) -> Result<(usize, Keyset), KeysetError> {
    match trust {
        Trust::SelfContained => {
            let envelope = envelopes.first().ok_or(KeysetError::NotAnchored)?;
            let payload = envelope
                .unverified_payload()
                .map_err(|source| at(0, source))?;
            let own = keys(0, &document(0, &payload)?)?.unrevoked();
            let verified = verify(0, envelope, &own, now)?;
            Ok((0, published(0, &verified)?))
        }
        Trust::Anchored(anchors) => {
            for (index, envelope) in envelopes.iter().enumerate() {
                match verify(index, envelope, anchors, now) {
                    Ok(verified) => return Ok((index, published(index, &verified)?)),
                    // Older than the anchors: it does not count, and the next one may.
                    Err(KeysetError::Envelope {
                        source:
                            TrustEnvelopeError::NoneVerified | TrustEnvelopeError::TooFewSigners { .. },
                        ..
                    }) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(KeysetError::NotAnchored)
        }
    }
}

/// One envelope further: signed by what was believed so far, and replacing it.
fn follow(
    index: usize,
    envelope: &SignedTrustKeysetEnvelope,
    before: &Keyset,
    trust: &Trust,
    now: Timestamp,
) -> Result<Keyset, KeysetError> {
    let mut believed: BTreeMap<String, _> = match trust {
        Trust::SelfContained => BTreeMap::new(),
        Trust::Anchored(anchors) => anchors
            .iter()
            .filter(|(kid, _)| before.get(kid).is_none())
            .map(|(kid, key)| (kid.to_owned(), *key))
            .collect(),
    };
    let signers = match trust {
        Trust::SelfContained => before.unrevoked(),
        Trust::Anchored(_) => lasting(before),
    };
    believed.extend(signers.iter().map(|(kid, key)| (kid.to_owned(), *key)));
    let verified = verify(index, envelope, &believed.into_iter().collect(), now)?;
    let mut newest = published(index, &verified)?;
    let (Some(old), Some(new)) = (&before.published, &mut newest.published) else {
        return Err(KeysetError::NotAnchored);
    };
    if envelope.replaces_envelope_digest.as_ref() != Some(&old.digest) {
        return Err(at(
            index,
            TrustEnvelopeError::BrokenLink {
                index,
                stated: envelope
                    .replaces_envelope_digest
                    .clone()
                    .unwrap_or_else(|| "nothing".to_owned()),
                actual: old.digest.clone(),
            },
        ));
    }
    if old.keyset_id != new.keyset_id {
        return Err(KeysetError::OtherKeyset {
            index,
            expected: old.keyset_id.clone(),
            found: new.keyset_id.clone(),
        });
    }
    new.envelopes = old.envelopes + 1;
    for (kid, key) in before.iter() {
        let Some(now) = newest.get(kid) else {
            continue;
        };
        let kid = || kid.to_owned();
        if now.public != key.public {
            return Err(KeysetError::KeyChanged { index, kid: kid() });
        }
        if key.revoked.is_some() && now.revoked.is_none() {
            return Err(KeysetError::Unrevoked { index, kid: kid() });
        }
    }
    Ok(newest)
}

/// The keys that may say what comes next: not revoked, and with no end before that of another one.
/// A key that has an end while another goes on has been replaced, and whoever gets hold of it later
/// could date an envelope back.
fn lasting(before: &Keyset) -> TrustVerifyKeys {
    let end = |key: &KeysetKey| key.not_after.unwrap_or(Timestamp::MAX);
    let unrevoked = || before.iter().filter(|(_, key)| key.revoked.is_none());
    let last = unrevoked().map(|(_, key)| end(key)).max();
    unrevoked()
        .filter(|(_, key)| Some(end(key)) == last)
        .map(|(kid, key)| (kid.to_owned(), key.public))
        .collect()
}

fn verify(
    index: usize,
    envelope: &SignedTrustKeysetEnvelope,
    keys: &TrustVerifyKeys,
    now: Timestamp,
) -> Result<VerifiedTrustPayload, KeysetError> {
    let verified = verify_signed_trust_keyset_envelope(
        envelope,
        &TrustVerification {
            keys,
            revoked: &RevokedKids::default(),
            now,
            minimum_signers: NonZeroU32::MIN,
        },
    )
    .map_err(|source| at(index, source))?;
    verified
        .expect_type(TrustPayloadType::Keyset)
        .map_err(|source| at(index, source))?;
    Ok(verified)
}

fn document(index: usize, payload: &[u8]) -> Result<KeysetDocumentV1, KeysetError> {
    KeysetDocumentV1::parse(payload).map_err(|source| KeysetError::Document { index, source })
}

fn published(index: usize, verified: &VerifiedTrustPayload) -> Result<Keyset, KeysetError> {
    let document = document(index, &verified.payload)?;
    let mut keyset = keys(index, &document)?;
    keyset.published = Some(Published {
        keyset_id: document.keyset_id,
        digest: verified.digest.clone(),
        envelopes: 1,
    });
    Ok(keyset)
}

fn keys(index: usize, document: &KeysetDocumentV1) -> Result<Keyset, KeysetError> {
    document
        .keys
        .iter()
        .map(|entry| match KeysetKey::try_from(entry) {
            Ok(key) => Ok((entry.kid.clone(), key)),
            Err(source) => Err(KeysetError::Document { index, source }),
        })
        .collect()
}

#[cfg(test)]
mod tests;
