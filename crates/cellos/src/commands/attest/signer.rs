//! The key that attestations are signed with.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::signing::{SeedError, Signer, SoftwareSigner};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

/// Longest key file that is read, in bytes; a seed has 43 characters.
const MAX_KEY_FILE_BYTES: u64 = 256;
/// Bytes of a public key's hash that make its id.
const KID_BYTES: usize = 8;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
enum SignerError {
    #[error("signing key {}: cannot be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("signing key {}: can be read by others (mode {mode:03o}): chmod 600 it", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("{}: {source}", path.display())]
    Seed { path: PathBuf, source: SeedError },
}

/// The signer whose seed is in a file, in base64url. Its id follows from the key.
pub(crate) fn signer(path: &Path) -> Result<Arc<dyn Signer>, Failure> {
    read(path).map_err(Failure::call)
}

fn read(path: &Path) -> Result<Arc<dyn Signer>, SignerError> {
    let failed = |source: io::Error| SignerError::Io {
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?,
    );
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SignerError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let seed_error = |source| SignerError::Seed {
        path: path.to_owned(),
        source,
    };
    let nameless = SoftwareSigner::from_base64url_seed("", text.trim()).map_err(seed_error)?;
    let kid = kid_of(nameless.verifying_key().as_bytes());
    let signer = SoftwareSigner::from_base64url_seed(kid, text.trim()).map_err(seed_error)?;
    Ok(Arc::new(signer))
}

fn kid_of(public_key: &[u8]) -> String {
    let mut kid = String::from("ed25519-");
    for byte in Sha256::digest(public_key).iter().take(KID_BYTES) {
        let _ = write!(kid, "{byte:02x}");
    }
    kid
}
