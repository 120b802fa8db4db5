//! The keys that a log is checked with, and when each of them counts.
//!
//! A keyset is read from a keyring (`{kid: base64url}`), from one signed trust envelope, or from a
//! chain of them, oldest first.

mod error;
mod read;

use std::{collections::BTreeMap, fmt};

use cellos_core::signing::{
    KeysetDocumentError, KeysetEntry, TrustAnchorPublicKey, TrustVerifyKeys,
};
use jiff::Timestamp;

use crate::finding::FindingKind;

pub use error::KeysetError;

/// Longest file of keys that is read, in bytes: more than a full chain of full keysets needs whose
/// names are of usual length.
pub const MAX_KEYSET_BYTES: u64 = 8 << 20;
/// Most envelopes of a chain: each costs a verifier a signature check for every signer, and repeats
/// the keys of the one before. A writer leaves the oldest ones out.
pub const MAX_KEYSET_ENVELOPES: usize = 64;
/// Most signatures of one envelope.
pub const MAX_ENVELOPE_SIGNATURES: usize = 64;

/// Public keys by id.
#[derive(Debug, Clone, Default)]
pub struct Keyset {
    keys: BTreeMap<String, KeysetKey>,
    published: Option<Published>,
}

/// Where a keyset comes from that was published in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// `keysetId` of the document.
    pub keyset_id: String,
    /// `sha256:` and the digest of the newest payload.
    pub digest: String,
    /// How many envelopes the chain has.
    pub envelopes: usize,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysetKey {
    /// The public key.
    pub public: TrustAnchorPublicKey,
    /// Signatures on events before this do not count.
    pub not_before: Option<Timestamp>,
    /// Signatures on events after this do not count.
    pub not_after: Option<Timestamp>,
    /// Whether it was revoked. A revoked key counts for nothing, whenever it signed: whoever holds
    /// it can date a signature as they like.
    pub revoked: Option<Revocation>,
}

/// The revocation of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
}

/// Why a file of keys is believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The file itself was obtained in a way that is trusted. Every envelope has to be signed all
    /// the same: the first by a key of its own, each other by a key of the one before it. Keyrings
    /// are accepted.
    SelfContained,
    /// The file may come from anywhere: only what one of these keys signed is believed, and what
    /// keys believed so have signed since. A keyring is refused, for nobody signed it.
    Anchored(TrustVerifyKeys),
}

/// Why a key does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It was revoked, at whatever time.
    #[error("it was revoked at {}{}", .0.at, reason(.0))]
    Revoked(Revocation),
    /// The moment is before its validity.
    #[error("it is valid from {not_before} on")]
    NotYetValid {
        /// First moment of its validity.
        not_before: Timestamp,
    },
    /// The moment is after its validity.
    #[error("it was valid until {not_after}")]
    Expired {
        /// Last moment of its validity.
        not_after: Timestamp,
    },
}

fn reason(revocation: &Revocation) -> impl fmt::Display {
    match revocation.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    }
}

impl KeysetKey {
    /// A key that is valid without limit.
    #[must_use]
    pub const fn new(public: TrustAnchorPublicKey) -> Self {
        Self {
            public,
            not_before: None,
            not_after: None,
            revoked: None,
        }
    }

    /// Whether a signature of this key counts that was made at a moment. Both ends of the validity
    /// belong to it.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn judge(&self, at: Timestamp) -> Result<(), KeyFault> {
        if let Some(revocation) = &self.revoked {
            return Err(KeyFault::Revoked(revocation.clone()));
        }
        match (self.not_before, self.not_after) {
            (Some(not_before), _) if at < not_before => Err(KeyFault::NotYetValid { not_before }),
            (_, Some(not_after)) if not_after < at => Err(KeyFault::Expired { not_after }),
            _ => Ok(()),
        }
    }

    /// As [`Self::judge`], of a signature over something with this time, if any.
    ///
    /// # Errors
    /// What is found, and its detail, which names the key `kid`.
    pub fn judge_dated(
        &self,
        kid: &str,
        at: Option<Timestamp>,
    ) -> Result<(), (FindingKind, String)> {
        let is_limited = self.not_before.is_some() || self.not_after.is_some();
        let at = match (&self.revoked, at) {
            (None, _) if !is_limited => return Ok(()),
            (_, Some(at)) => at,
            (Some(_), None) => Timestamp::UNIX_EPOCH,
            (None, None) => {
                let detail = format!(
                    "key {kid:?} does not count here: there is no time, and the key is not valid \
                     for ever"
                );
                return Err((FindingKind::KeyOutsideValidity, detail));
            }
        };
        self.judge(at).map_err(|fault| match fault {
            KeyFault::Revoked(_) => (
                FindingKind::RevokedKey,
                format!("key {kid:?} counts for nothing: {fault}"),
            ),
            KeyFault::NotYetValid { .. } | KeyFault::Expired { .. } => (
                FindingKind::KeyOutsideValidity,
                format!("key {kid:?} does not count at {at}: {fault}"),
            ),
        })
    }
}

impl TryFrom<&KeysetEntry> for KeysetKey {
    type Error = KeysetDocumentError;

    fn try_from(entry: &KeysetEntry) -> Result<Self, KeysetDocumentError> {
        Ok(Self {
            public: entry.public()?,
            not_before: entry.not_before,
            not_after: entry.not_after,
            revoked: entry.revoked_at.map(|at| Revocation {
                at,
                reason: entry.revocation_reason.clone().unwrap_or_default(),
            }),
        })
    }
}

impl Keyset {
    /// The key of an id.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&KeysetKey> {
        self.keys.get(kid)
    }

    /// All keys, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KeysetKey)> {
        self.keys.iter().map(|(kid, key)| (kid.as_str(), key))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Where it was published; `None` for a keyring.
    #[must_use]
    pub const fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// The keys that are not revoked, whatever their validity.
    #[must_use]
    pub fn unrevoked(&self) -> TrustVerifyKeys {
        self.iter()
            .filter(|(_, key)| key.revoked.is_none())
            .map(|(kid, key)| (kid.to_owned(), key.public))
            .collect()
    }
}

impl FromIterator<(String, KeysetKey)> for Keyset {
    fn from_iter<I: IntoIterator<Item = (String, KeysetKey)>>(keys: I) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            published: None,
        }
    }
}

impl From<&TrustVerifyKeys> for Keyset {
    fn from(keyring: &TrustVerifyKeys) -> Self {
        keyring
            .iter()
            .map(|(kid, key)| (kid.to_owned(), KeysetKey::new(*key)))
            .collect()
    }
}
