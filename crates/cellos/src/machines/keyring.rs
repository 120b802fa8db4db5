//! Reading the keys that may sign what machines boot from, and those that may not any more.

use std::{io, path::Path};

use cellos_core::signing::{
    KeyFileError, RevocationError, RevocationListV1, RevokedKids, TrustVerifyKeys,
};

/// Why a file of keys cannot be used. Whoever asked for it names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no keyring.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// It is no list of revoked keys.
    #[error(transparent)]
    Revoked(#[from] RevocationError),
}

/// The keys of a keyring.
pub(crate) fn trusted(path: &Path) -> Result<TrustVerifyKeys, KeyringError> {
    Ok(TrustVerifyKeys::parse(&std::fs::read(path)?)?)
}

/// The ids on a list of revoked keys.
pub(crate) fn revoked(path: &Path) -> Result<RevokedKids, KeyringError> {
    Ok(RevocationListV1::parse(&std::fs::read(path)?)?.kids())
}
