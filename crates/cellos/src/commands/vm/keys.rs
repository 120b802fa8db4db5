//! The key that bundles made on this host are signed with, and the keyring that the backend trusts.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::signing::{SeedError, Signer as _, SoftwareSigner};
use sha2::{Digest as _, Sha256};

use crate::machines::Places;

/// Random bytes of a seed, RFC 8032.
const SEED_BYTES: usize = 32;
/// Hexadecimal digits of a public key's hash that make its id.
const KID_DIGITS: usize = 16;
/// Longest key file that is read, in bytes; a seed has 43 characters.
const MAX_KEY_FILE_BYTES: u64 = 256;
/// Longest keyring that is read, in bytes.
const MAX_KEYRING_BYTES: u64 = 1 << 20;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} can be read by others (mode {mode:03o}): chmod 600 it, or sign with another key", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("{}: {source}", path.display())]
    Seed { path: PathBuf, source: SeedError },
    #[error("{} is no keyring: {source}", path.display())]
    Keyring {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl KeyError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The signer of this host. Where there is no key yet, one is made, and the backend of this host
/// trusts it from then on.
pub(super) fn signer(places: &Places, named: Option<&Path>) -> Result<SoftwareSigner, KeyError> {
    if let Some(path) = named {
        return read(path);
    }
    let path = &places.signing_key;
    if !path.exists() {
        make(path)?;
    }
    let signer = read(path)?;
    trust(&places.trusted_keys, &signer)?;
    Ok(signer)
}

fn read(path: &Path) -> Result<SoftwareSigner, KeyError> {
    let file = File::open(path).map_err(KeyError::io("read the signing key", path))?;
    let metadata = file
        .metadata()
        .map_err(KeyError::io("look at the signing key", path))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(KeyError::io("read the signing key", path))?;
    let seed_error = |source| KeyError::Seed {
        path: path.to_owned(),
        source,
    };
    let nameless =
        SoftwareSigner::from_base64url_seed(String::new(), text.trim()).map_err(seed_error)?;
    let kid = kid_of(nameless.verifying_key().as_bytes());
    SoftwareSigner::from_base64url_seed(kid, text.trim()).map_err(seed_error)
}

/// An id that follows from the key, so that nobody has to choose one.
fn kid_of(public_key: &[u8]) -> String {
    let digest = Sha256::digest(public_key);
    let mut kid = String::from("vm-");
    for byte in digest.iter().take(KID_DIGITS / 2) {
        kid.push_str(&format!("{byte:02x}"));
    }
    kid
}

fn make(path: &Path) -> Result<(), KeyError> {
    make_folder(path)?;
    let mut seed = zeroize::Zeroizing::new([0; SEED_BYTES]);
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed[..]))
        .map_err(KeyError::io("read", Path::new("/dev/urandom")))?;
    let text = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.encode(&seed[..]));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        });
    match written {
        // Somebody else was quicker; theirs is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(KeyError::io("write the signing key", path)),
    }
}

/// Adds the public half to the keyring, which is replaced whole.
fn trust(path: &Path, signer: &SoftwareSigner) -> Result<(), KeyError> {
    let mut keys: BTreeMap<String, String> = match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(MAX_KEYRING_BYTES)
                .read_to_string(&mut text)
                .map_err(KeyError::io("read the keyring", path))?;
            serde_json::from_str(&text).map_err(|source| KeyError::Keyring {
                path: path.to_owned(),
                source,
            })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(KeyError::io("read the keyring", path)(error)),
    };
    let public = URL_SAFE_NO_PAD.encode(signer.verifying_key().as_bytes());
    if keys.get(signer.kid()) == Some(&public) {
        return Ok(());
    }
    keys.insert(signer.kid().to_owned(), public);
    make_folder(path)?;
    let text = serde_json::to_string_pretty(&keys).map_err(|source| KeyError::Keyring {
        path: path.to_owned(),
        source,
    })?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, text + "\n")
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(KeyError::io("write the keyring", path))
}

fn make_folder(of: &Path) -> Result<(), KeyError> {
    let Some(folder) = of.parent() else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(KeyError::io("make the folder", folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn places(folder: &Path) -> Places {
        Places {
            bundle: folder.join("vm"),
            trusted_keys: folder.join("keys/trusted.json"),
            revoked_keys: None,
            signing_key: folder.join("keys/signing.key"),
            run: folder.join("run"),
        }
    }

    #[test]
    fn a_key_is_made_once_kept_private_and_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let first = signer(&places, None).unwrap();
        let second = signer(&places, None).unwrap();
        assert_eq!(first.kid(), second.kid());
        assert_eq!(first.verifying_key(), second.verifying_key());
        let mode = std::fs::metadata(&places.signing_key).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let keyring = std::fs::read(&places.trusted_keys).unwrap();
        let keyring = cellos_core::signing::TrustVerifyKeys::parse(&keyring).unwrap();
        assert_eq!(keyring.get(first.kid()), Some(&first.verifying_key()));
    }

    #[test]
    fn a_key_that_others_can_read_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        signer(&places, None).unwrap();
        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&places.signing_key, open).unwrap();
        assert!(matches!(
            signer(&places, None),
            Err(KeyError::Readable { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_named_key_is_not_trusted_by_being_used() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let named = folder.path().join("named.key");
        make(&named).unwrap();
        signer(&places, Some(&named)).unwrap();
        assert!(!places.trusted_keys.exists());
    }
}
