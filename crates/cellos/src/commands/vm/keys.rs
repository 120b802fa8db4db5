//! The key that bundles made on this host are signed with, and the keyring that the backend trusts.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::signing::{Signer as _, SoftwareSigner};

use crate::{
    keys::private::{self, PrivateError, failed},
    machines::Places,
};

/// Longest keyring that is read, in bytes.
const MAX_KEYRING_BYTES: u64 = 1 << 20;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error(transparent)]
    Private(#[from] PrivateError),
    #[error("{} is no keyring: {source}", path.display())]
    Keyring {
        path: PathBuf,
        source: serde_json::Error,
    },
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
    Ok(private::read_key(path, |public| {
        private::name_of("vm-", public)
    })?)
}

fn make(path: &Path) -> Result<(), KeyError> {
    make_folder_of(path)?;
    let seed = private::fresh_seed()?;
    match private::write_new(path, private::to_pem(&seed).as_bytes()) {
        // Somebody else was quicker; theirs is as good.
        Err(PrivateError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Adds the public half to the keyring, which is replaced whole.
fn trust(path: &Path, signer: &SoftwareSigner) -> Result<(), KeyError> {
    let mut keys: BTreeMap<String, String> = match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(MAX_KEYRING_BYTES)
                .read_to_string(&mut text)
                .map_err(failed("read the keyring", path))?;
            serde_json::from_str(&text).map_err(|source| KeyError::Keyring {
                path: path.to_owned(),
                source,
            })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(failed("read the keyring", path)(error).into()),
    };
    let public = URL_SAFE_NO_PAD.encode(signer.verifying_key().as_bytes());
    if keys.get(signer.kid()) == Some(&public) {
        return Ok(());
    }
    keys.insert(signer.kid().to_owned(), public);
    make_folder_of(path)?;
    let text = serde_json::to_string_pretty(&keys).map_err(|source| KeyError::Keyring {
        path: path.to_owned(),
        source,
    })?;
    Ok(private::replace(path, (text + "\n").as_bytes(), 0o644)?)
}

fn make_folder_of(path: &Path) -> Result<(), KeyError> {
    match path.parent() {
        Some(folder) => Ok(private::make_folder(folder)?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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
            Err(KeyError::Private(PrivateError::Readable {
                mode: 0o640,
                ..
            }))
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
