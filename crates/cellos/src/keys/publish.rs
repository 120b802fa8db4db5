//! Making, replacing and revoking keys, each of which publishes a new keyset.

use std::{sync::Arc, time::Duration};

use cellos_core::{
    CellosError,
    signing::{
        KeysetDocumentError, KeysetDocumentV1, KeysetEntry, SUPPORTED_SCHEMA_VERSION,
        SignedTrustKeysetEnvelope, Signer, SoftwareSigner, TrustPayloadType,
        parse_trust_envelope_chain, sign_trust_payload,
    },
};
use cellos_evidence::keyset::{
    KeyFault, Keyset, KeysetError, KeysetKey, MAX_KEYSET_ENVELOPES, Trust,
};
use jiff::Timestamp;

use super::{
    folder::{FolderError, FolderLock, KeptKey, KeyFolder},
    pkcs11::{Pkcs11Error, Pkcs11Signer},
    private::{self, PrivateError},
};

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] Pkcs11Error),
    /// There is a key already.
    #[error("there is a key already in {folder}, which signs: {kid}")]
    AlreadyThere { folder: String, kid: String },
    /// There is none yet.
    #[error("there is no key in {folder}")]
    NothingYet { folder: String },
    /// A name that is none.
    #[error("{name:?} is not 1 to 128 of A-Z a-z 0-9 . _ - with a letter or digit first")]
    Name { name: String },
    /// A name that stands for another key.
    #[error("the name {kid:?} is taken by another key of the keyset")]
    Taken { kid: String },
    /// The published keyset does not verify.
    #[error("the published keyset: {0}")]
    Keyset(#[from] KeysetError),
    /// The new keyset would be none.
    #[error(transparent)]
    Document(#[from] KeysetDocumentError),
    /// The key is not in the keyset.
    #[error("the keyset has no key {kid:?}")]
    Unpublished { kid: String },
    /// The key was revoked before.
    #[error("key {kid:?}: {fault}")]
    AlreadyRevoked { kid: String, fault: KeyFault },
    /// The key that signs cannot be revoked: nothing could sign that.
    #[error("key {kid:?} is the one that signs")]
    RevokesCurrent { kid: String },
    /// The reason is empty.
    #[error("a revocation needs a reason")]
    NoReason,
    /// The validity would end later than times can be.
    #[error("the overlap is too long")]
    Overlap,
    /// A signer does not sign.
    #[error("the keyset cannot be signed: {0}")]
    Sign(CellosError),
    /// The keyset cannot be written as JSON.
    #[error("the keyset cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<PrivateError> for KeysError {
    fn from(error: PrivateError) -> Self {
        Self::Folder(error.into())
    }
}

/// What a new key is called.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewKey {
    /// Its name; one that follows from the key when absent.
    pub(crate) kid: Option<String>,
    /// The URI of a token that holds it already; a fresh key when absent.
    pub(crate) token: Option<String>,
}

/// Makes the first key of a folder and publishes its keyset.
pub(crate) fn generate(
    folder: &KeyFolder,
    new: &NewKey,
    keyset_id: Option<&str>,
    now: Timestamp,
) -> Result<String, KeysError> {
    let lock = folder.lock()?;
    let current = folder.current()?;
    let signer = match current {
        Some(kid)
            if folder.published()?.is_some() || new.kid.as_ref().is_some_and(|it| *it != kid) =>
        {
            return Err(KeysError::AlreadyThere {
                folder: folder.path().display().to_string(),
                kid,
            });
        }
        // An earlier call died before it could publish the key.
        Some(kid) => folder.signer(&kid)?,
        None => {
            let (signer, key) = fresh(new)?;
            folder.add_key(&lock, signer.kid(), &key)?;
            folder.set_current(&lock, signer.kid())?;
            signer
        }
    };
    let public = signer.verifying_key();
    let document = KeysetDocumentV1 {
        schema_version: SUPPORTED_SCHEMA_VERSION.to_owned(),
        keyset_id: match keyset_id {
            Some(id) => named(id)?.to_owned(),
            None => private::name_of("keyset-", public.as_bytes()),
        },
        keys: vec![KeysetEntry {
            not_before: Some(whole_second(now)),
            ..KeysetEntry::new(signer.kid(), &public)
        }],
    };
    publish(folder, &lock, Vec::new(), &document, &[&*signer], now)?;
    Ok(signer.kid().to_owned())
}

/// A key and the one it follows.
pub(crate) struct Rotated {
    /// The key that signs from now on.
    pub(crate) kid: String,
    /// The one before.
    pub(crate) before: String,
    /// The last moment of the one before.
    pub(crate) until: Timestamp,
}

/// Makes a key that signs from now on. The one before stays valid for the overlap, because runs
/// that have begun sign with it to their end.
pub(crate) fn rotate(
    folder: &KeyFolder,
    new: &NewKey,
    overlap: Duration,
    now: Timestamp,
) -> Result<Rotated, KeysError> {
    let lock = folder.lock()?;
    let (chain, mut document) = verified(folder, now)?;
    let old = current(folder)?;
    let until = whole_second(now)
        .checked_add(jiff::SignedDuration::try_from(overlap).map_err(|_| KeysError::Overlap)?)
        .map_err(|_| KeysError::Overlap)?;
    let entry = entry(&mut document, old.kid(), now)?;
    let until = entry.not_after.map_or(until, |end| end.min(until));
    entry.not_after = Some(until.max(entry.not_before.unwrap_or(until)));
    let (signer, key) = fresh(new)?;
    if document.keys.iter().any(|key| key.kid == signer.kid()) {
        return Err(KeysError::Taken {
            kid: signer.kid().to_owned(),
        });
    }
    document.keys.push(KeysetEntry {
        not_before: Some(whole_second(now)),
        ..KeysetEntry::new(signer.kid(), &signer.verifying_key())
    });
    document.check()?;
    folder.add_key(&lock, signer.kid(), &key)?;
    publish(folder, &lock, chain, &document, &[&*old, &*signer], now)?;
    folder.set_current(&lock, signer.kid())?;
    Ok(Rotated {
        kid: signer.kid().to_owned(),
        before: old.kid().to_owned(),
        until,
    })
}

/// Revokes a key: nothing that it signed counts any more, whenever it signed it.
pub(crate) fn revoke(
    folder: &KeyFolder,
    kid: &str,
    reason: &str,
    now: Timestamp,
) -> Result<(), KeysError> {
    if reason.trim().is_empty() {
        return Err(KeysError::NoReason);
    }
    let lock = folder.lock()?;
    let (chain, mut document) = verified(folder, now)?;
    let signer = current(folder)?;
    let entry = entry(&mut document, kid, now)?;
    if signer.kid() == kid {
        return Err(KeysError::RevokesCurrent {
            kid: kid.to_owned(),
        });
    }
    entry.revoked_at = Some(whole_second(now));
    entry.revocation_reason = Some(reason.to_owned());
    publish(folder, &lock, chain, &document, &[&*signer], now)
}

fn named(name: &str) -> Result<&str, KeysError> {
    match cellos_core::admission::is_portable_id(name) {
        true => Ok(name),
        false => Err(KeysError::Name {
            name: name.to_owned(),
        }),
    }
}

fn fresh(new: &NewKey) -> Result<(Arc<dyn Signer>, KeptKey), KeysError> {
    if let Some(kid) = &new.kid {
        named(kid)?;
    }
    let name = |public: &[u8; 32]| match &new.kid {
        Some(kid) => kid.clone(),
        None => private::name_of("key-", public),
    };
    if let Some(uri) = &new.token {
        let signer = Pkcs11Signer::open(uri, name)?;
        return Ok((Arc::new(signer), KeptKey::Token(uri.clone())));
    }
    let seed = private::fresh_seed()?;
    let nameless = SoftwareSigner::from_seed(String::new(), *seed);
    let kid = name(nameless.verifying_key().as_bytes());
    Ok((Arc::new(nameless.named(kid)), KeptKey::Seed(seed)))
}

fn current(folder: &KeyFolder) -> Result<Arc<dyn Signer>, KeysError> {
    match folder.current()? {
        Some(kid) => Ok(folder.signer(&kid)?),
        None => Err(nothing_yet(folder)),
    }
}

fn nothing_yet(folder: &KeyFolder) -> KeysError {
    KeysError::NothingYet {
        folder: folder.path().display().to_string(),
    }
}

/// The published chain and its newest document, after all of it was verified.
fn verified(
    folder: &KeyFolder,
    now: Timestamp,
) -> Result<(Vec<SignedTrustKeysetEnvelope>, KeysetDocumentV1), KeysError> {
    let bytes = folder.published()?.ok_or_else(|| nothing_yet(folder))?;
    Keyset::parse(&bytes, &Trust::SelfContained, now)?;
    let chain = parse_trust_envelope_chain(&bytes).map_err(|error| folder.unreadable(error))?;
    let document = folder.newest()?.ok_or_else(|| nothing_yet(folder))?;
    Ok((chain, document))
}

/// The entry of a key that was not revoked.
fn entry<'d>(
    document: &'d mut KeysetDocumentV1,
    kid: &str,
    now: Timestamp,
) -> Result<&'d mut KeysetEntry, KeysError> {
    let entry = document
        .keys
        .iter_mut()
        .find(|key| key.kid == kid)
        .ok_or_else(|| KeysError::Unpublished {
            kid: kid.to_owned(),
        })?;
    match KeysetKey::try_from(&*entry)?.judge(now) {
        Err(fault @ KeyFault::Revoked(_)) => Err(KeysError::AlreadyRevoked {
            kid: kid.to_owned(),
            fault,
        }),
        _ => Ok(entry),
    }
}

fn publish(
    folder: &KeyFolder,
    lock: &FolderLock,
    mut chain: Vec<SignedTrustKeysetEnvelope>,
    document: &KeysetDocumentV1,
    signers: &[&dyn Signer],
    now: Timestamp,
) -> Result<(), KeysError> {
    document.check()?;
    let envelope = sign_trust_payload(
        TrustPayloadType::Keyset,
        &document.to_payload()?,
        signers,
        chain.last().map(|before| before.payload_digest.clone()),
        whole_second(now),
    )
    .map_err(KeysError::Sign)?;
    chain.push(envelope);
    // The oldest are left out: the first envelope of a chain may replace anything.
    let surplus = chain.len().saturating_sub(MAX_KEYSET_ENVELOPES);
    chain.drain(..surplus);
    folder.publish(lock, &chain)?;
    Ok(())
}

/// Validities are whole seconds, rounded down: a key is valid for events of the second it was made
/// in.
fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}
