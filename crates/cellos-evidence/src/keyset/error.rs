//! Why a file of keys was refused.

use std::{io, path::PathBuf};

use cellos_core::signing::{KeyFileError, KeysetDocumentError, TrustEnvelopeError};

use super::{MAX_ENVELOPE_SIGNATURES, MAX_KEYSET_BYTES, MAX_KEYSET_ENVELOPES};

/// Why a file of keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysetError {
    /// The file cannot be read.
    #[error("keyset {path:?} cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The file is too long.
    #[error("keyset is longer than the {MAX_KEYSET_BYTES} bytes that are read")]
    TooLong,
    /// The text is neither a keyring, nor an envelope, nor a chain of envelopes.
    #[error("keyset is neither a keyring, nor a signed keyset, nor a chain of them: {0}")]
    Unreadable(serde_json::Error),
    /// The keyring is not well formed.
    #[error(transparent)]
    Keyring(#[from] KeyFileError),
    /// A keyring where something signed is needed.
    #[error(
        "keyset is a plain keyring, which nobody signed, and there are keys that should have \
         signed it: name the signed keyset"
    )]
    UnsignedKeyring,
    /// The chain is empty or too long.
    #[error("keyset: a chain has 1 to {MAX_KEYSET_ENVELOPES} envelopes, this one has {found}")]
    ChainLength {
        /// How many it has.
        found: usize,
    },
    /// An envelope has too many signatures.
    #[error("keyset envelope {index}: {found} signatures, the limit is {MAX_ENVELOPE_SIGNATURES}")]
    TooManySignatures {
        /// Position, oldest first, from 0.
        index: usize,
        /// How many it has.
        found: usize,
    },
    /// The envelope does not verify.
    #[error("keyset envelope {index}: {source}")]
    Envelope {
        /// Position, oldest first, from 0.
        index: usize,
        /// Why.
        source: TrustEnvelopeError,
    },
    /// No envelope is signed by a key that is trusted.
    #[error("keyset: no envelope is signed by one of the trusted keys")]
    NotAnchored,
    /// The payload is no keyset.
    #[error("keyset envelope {index}: {source}")]
    Document {
        /// Position, oldest first, from 0.
        index: usize,
        /// Why.
        source: KeysetDocumentError,
    },
    /// A later envelope is about another set.
    #[error("keyset envelope {index}: keysetId {found:?} follows {expected:?}")]
    OtherKeyset {
        /// Position, oldest first, from 0.
        index: usize,
        /// The name before.
        expected: String,
        /// Its name.
        found: String,
    },
    /// A name means another key than before.
    #[error("keyset envelope {index}: key {kid:?} is another key than before")]
    KeyChanged {
        /// Position, oldest first, from 0.
        index: usize,
        /// Name of the key.
        kid: String,
    },
    /// A key was revoked and is not any more.
    #[error("keyset envelope {index}: key {kid:?} was revoked before and is not any more")]
    Unrevoked {
        /// Position, oldest first, from 0.
        index: usize,
        /// Name of the key.
        kid: String,
    },
}
