//! The keys that a log is checked with, and when each of them counts.

use std::collections::BTreeMap;

use cellos_core::signing::TrustAnchorPublicKey;
use jiff::Timestamp;

/// Public keys by id.
#[derive(Debug, Clone, Default)]
pub struct Keyset {
    keys: BTreeMap<String, KeysetKey>,
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
}

impl FromIterator<(String, KeysetKey)> for Keyset {
    fn from_iter<I: IntoIterator<Item = (String, KeysetKey)>>(keys: I) -> Self {
        Self {
            keys: keys.into_iter().collect(),
        }
    }
}
