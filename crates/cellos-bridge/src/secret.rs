//! Values that must not be printed, and those that must not repeat.

use std::fmt;

use zeroize::Zeroizing;

use crate::message::{MAX_ENTROPY_BYTES, MIN_ENTROPY_BYTES};

/// Size of keys and nonces in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// The key under which a guest authenticates its exit: known to the host and to PID 1 of one
/// machine, used for one cell. Wiped when dropped; cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(Zeroizing<[u8; KEY_BYTES]>);

impl SessionKey {
    /// A key of random bytes, which the caller draws from the operating system.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(hidden)")
    }
}

/// Random bytes from the host for the guest's generator. Wiped when dropped; cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Entropy(Zeroizing<Vec<u8>>);

impl Entropy {
    /// `None` for fewer than [`MIN_ENTROPY_BYTES`] or more than [`MAX_ENTROPY_BYTES`].
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (MIN_ENTROPY_BYTES..=MAX_ENTROPY_BYTES)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entropy({} bytes, hidden)", self.0.len())
    }
}

/// A random number that was never used before. Not secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; KEY_BYTES]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
