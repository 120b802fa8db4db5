//! The folder of keys: `<name>.key` for each private key, `current` with the name of the one that
//! signs, and `keyset.json`, the signed chain that publishes the public halves.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::signing::{KeysetDocumentV1, SignedTrustKeysetEnvelope, Signer};
use cellos_evidence::keyset::MAX_KEYSET_BYTES;
use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    pkcs11::{Pkcs11Error, Pkcs11Signer},
    private::{self, PrivateError, failed},
};

/// Longest wait for another command that changes the folder.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Time between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// How the lock is opened: neither through a link nor waiting for the other end of a pipe.
const LOCK_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// Why the folder of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// A private file cannot be used.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// A key in a token cannot be used.
    #[error("key {kid:?}: {source}")]
    Token { kid: String, source: Pkcs11Error },
    /// There is no place for it.
    #[error("there is no place for keys: neither HOME nor XDG_CONFIG_HOME is set")]
    Nowhere,
    /// Others may put keys into it.
    #[error(
        "others can write to the key folder {} (owner {owner}, mode {mode:03o}): chown it and chmod 700 it",
        path.display()
    )]
    Open {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    /// Another command holds the lock.
    #[error("another command has kept the key folder {} locked for {} s", path.display(), LOCK_WAIT.as_secs())]
    Locked { path: PathBuf },
    /// There is no private key of this name.
    #[error("there is no key {kid:?} in {}", path.display())]
    NoSuchKey { kid: String, path: PathBuf },
    /// `current` does not hold a name.
    #[error("{} holds no name of a key", path.display())]
    Current { path: PathBuf },
    /// The keyset is there and nothing says which key signs.
    #[error("{} is missing, so that nothing says which key signs", path.display())]
    NoCurrent { path: PathBuf },
    /// The keyset cannot be read.
    #[error("{}: {source}", path.display())]
    Keyset {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The folder of keys.
#[derive(Debug, Clone)]
pub(crate) struct KeyFolder {
    root: PathBuf,
}

/// What is looked at of an envelope that is not verified.
#[derive(serde::Deserialize)]
struct Unverified<'a> {
    payload: &'a str,
}

/// What is kept of a private key.
pub(crate) enum KeptKey {
    /// The key itself.
    Seed(Zeroizing<[u8; 32]>),
    /// The URI of a token that holds it.
    Token(String),
}

/// Where the private half of a published key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PrivateHalf {
    /// In this file.
    File(PathBuf),
    /// In a token, whose URI this file holds.
    Token(PathBuf),
    /// Not on this host.
    Absent,
}

/// The right to change the folder.
pub(crate) struct FolderLock {
    _lock: File,
}

impl KeyFolder {
    /// Where it is: as named, else `CELLOS_KEY_DIR`, else `/etc/cellos/keys` for root and
    /// `cellos/keys` in the configuration folder for others.
    pub(crate) fn locate(
        explicit: Option<&Path>,
        environment: impl Fn(&str) -> Option<OsString>,
        effective_uid: u32,
    ) -> Result<Self, FolderError> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        let configuration = || {
            variable("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))
                .map(|path| path.join("cellos/keys"))
        };
        let root = match (explicit, variable("CELLOS_KEY_DIR"), effective_uid) {
            (Some(path), ..) => path.to_owned(),
            (None, Some(path), _) => path.into(),
            (None, None, 0) => "/etc/cellos/keys".into(),
            (None, None, _) => configuration().ok_or(FolderError::Nowhere)?,
        };
        Ok(Self { root })
    }

    /// As this process's environment says.
    pub(crate) fn of_this_process(explicit: Option<&Path>) -> Result<Self, FolderError> {
        let uid = rustix::process::geteuid().as_raw();
        Self::locate(explicit, |name| std::env::var_os(name), uid)
    }

    /// A folder that is known.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// The chain that is published.
    pub(crate) fn keyset_path(&self) -> PathBuf {
        self.root.join("keyset.json")
    }

    /// The private key of a name.
    pub(crate) fn key_path(&self, kid: &str) -> PathBuf {
        self.root.join(format!("{kid}.key"))
    }

    /// The URI of a key in a token.
    fn uri_path(&self, kid: &str) -> PathBuf {
        self.root.join(format!("{kid}.uri"))
    }

    fn current_path(&self) -> PathBuf {
        self.root.join("current")
    }

    /// Whether there is a folder, and nobody else can put keys into it.
    pub(crate) fn exists(&self) -> Result<bool, FolderError> {
        let metadata = match std::fs::metadata(&self.root) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("look at the key folder", &self.root)(error).into()),
        };
        let us = rustix::process::geteuid().as_raw();
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
        if (owner != us && owner != 0) || mode & 0o022 != 0 {
            return Err(FolderError::Open {
                path: self.root.clone(),
                owner,
                mode,
            });
        }
        Ok(true)
    }

    /// Makes the folder where it is missing, and keeps other commands from changing it.
    pub(crate) fn lock(&self) -> Result<FolderLock, FolderError> {
        private::make_folder(&self.root)?;
        self.exists()?;
        let path = self.root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(LOCK_FLAGS.bits().cast_signed())
            .open(&path)
            .map_err(failed("open", &path))?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(FolderLock { _lock: lock }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_WAIT => thread::sleep(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(FolderError::Locked {
                        path: self.root.clone(),
                    });
                }
                Err(errno) => return Err(failed("lock", &path)(errno.into()).into()),
            }
        }
    }

    /// The name of the key that signs. `None` where no key was made yet.
    pub(crate) fn current(&self) -> Result<Option<String>, FolderError> {
        let path = self.current_path();
        match private::read(&path) {
            Ok(text) => {
                let kid = text.trim();
                if cellos_core::admission::is_portable_id(kid) {
                    Ok(Some(kid.to_owned()))
                } else {
                    Err(FolderError::Current { path })
                }
            }
            Err(PrivateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match self.keyset_path().exists() {
                    true => Err(FolderError::NoCurrent { path }),
                    false => Ok(None),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Names the key that signs from now on.
    pub(crate) fn set_current(&self, _lock: &FolderLock, kid: &str) -> Result<(), FolderError> {
        let content = format!("{kid}\n");
        Ok(private::replace(
            &self.current_path(),
            content.as_bytes(),
            0o600,
        )?)
    }

    /// Writes a private key of a name that is not taken.
    pub(crate) fn add_key(
        &self,
        _lock: &FolderLock,
        kid: &str,
        key: &KeptKey,
    ) -> Result<(), FolderError> {
        match key {
            KeptKey::Seed(seed) => {
                private::write_new(&self.key_path(kid), private::to_pem(seed).as_bytes())?;
            }
            KeptKey::Token(uri) => {
                private::write_new(&self.uri_path(kid), format!("{uri}\n").as_bytes())?;
            }
        }
        Ok(())
    }

    /// The private key of a name.
    pub(crate) fn signer(&self, kid: &str) -> Result<Arc<dyn Signer>, FolderError> {
        let no_such_key = || FolderError::NoSuchKey {
            kid: kid.to_owned(),
            path: self.root.clone(),
        };
        // What is no portable name could lead out of the folder.
        if !cellos_core::admission::is_portable_id(kid) {
            return Err(no_such_key());
        }
        match private::read_key(&self.key_path(kid), |_| kid.to_owned()) {
            Ok(signer) => Ok(Arc::new(signer)),
            Err(error) if is_absent(&error) => match private::read(&self.uri_path(kid)) {
                Ok(uri) => Pkcs11Signer::open(uri.trim(), |_| kid.to_owned())
                    .map(|signer| Arc::new(signer) as Arc<dyn Signer>)
                    .map_err(|source| FolderError::Token {
                        kid: kid.to_owned(),
                        source,
                    }),
                Err(error) if is_absent(&error) => Err(no_such_key()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The URI of a key that lies in a token. `None` also where it cannot be read.
    pub(crate) fn token(&self, kid: &str) -> Option<String> {
        if !cellos_core::admission::is_portable_id(kid) {
            return None;
        }
        let uri = private::read(&self.uri_path(kid)).ok()?;
        Some(uri.trim().to_owned())
    }

    /// The URI of the key that signs, where it lies in a token.
    pub(crate) fn current_token(&self) -> Option<String> {
        self.token(&self.current().ok()??)
    }

    /// The bytes of the published chain. `None` where nothing was published yet.
    pub(crate) fn published(&self) -> Result<Option<Vec<u8>>, FolderError> {
        let path = self.keyset_path();
        let mut bytes = Vec::new();
        match open_regular(&path)
            .and_then(|file| file.take(MAX_KEYSET_BYTES + 1).read_to_end(&mut bytes))
        {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error).into()),
        }
    }

    /// The newest document of the chain, believed because it lies in this folder: whoever can
    /// change it can change the keys. Nothing is verified, so it costs little.
    pub(crate) fn newest(&self) -> Result<Option<KeysetDocumentV1>, FolderError> {
        let Some(bytes) = self.published()? else {
            return Ok(None);
        };
        let chain: Vec<&RawValue> =
            serde_json::from_slice(&bytes).map_err(|error| self.unreadable(error))?;
        let newest = chain
            .last()
            .ok_or_else(|| self.unreadable("the chain is empty"))?;
        let envelope: Unverified<'_> =
            serde_json::from_str(newest.get()).map_err(|error| self.unreadable(error))?;
        let payload = URL_SAFE_NO_PAD
            .decode(envelope.payload)
            .map_err(|error| self.unreadable(error))?;
        serde_json::from_slice(&payload)
            .map(Some)
            .map_err(|error| self.unreadable(error))
    }

    /// Replaces the published chain.
    pub(crate) fn publish(
        &self,
        _lock: &FolderLock,
        chain: &[SignedTrustKeysetEnvelope],
    ) -> Result<(), FolderError> {
        let mut text = serde_json::to_string(chain).map_err(|error| self.unreadable(error))?;
        text.push('\n');
        Ok(private::replace(
            &self.keyset_path(),
            text.as_bytes(),
            0o644,
        )?)
    }

    pub(crate) fn unreadable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> FolderError {
        FolderError::Keyset {
            path: self.keyset_path(),
            source: source.into(),
        }
    }

    /// Where the private half of a published key is. No token is asked.
    pub(crate) fn private_half(&self, kid: &str, public_key: &[u8; 32]) -> PrivateHalf {
        if !cellos_core::admission::is_portable_id(kid) {
            return PrivateHalf::Absent;
        }
        let (file, token) = (self.key_path(kid), self.uri_path(kid));
        match private::read_key(&file, |_| kid.to_owned()) {
            Ok(signer) if signer.verifying_key().as_bytes() == public_key => {
                PrivateHalf::File(file)
            }
            Err(_) if token.exists() => PrivateHalf::Token(token),
            _ => PrivateHalf::Absent,
        }
    }
}

/// Opens a file without waiting for the other end of a pipe that stands in its place.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

fn is_absent(error: &PrivateError) -> bool {
    matches!(error, PrivateError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(values: &[(&str, &str)], uid: u32) -> Option<PathBuf> {
        let environment = |name: &str| {
            values
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        };
        KeyFolder::locate(None, environment, uid)
            .ok()
            .map(|folder| folder.root)
    }

    #[test]
    fn root_and_others_have_folders_of_their_own() {
        for (values, uid, place) in [
            (&[][..], 0, Some("/etc/cellos/keys")),
            (&[("HOME", "/h")], 0, Some("/etc/cellos/keys")),
            (&[("CELLOS_KEY_DIR", "/k"), ("HOME", "/h")], 0, Some("/k")),
            (&[("HOME", "/h")], 7, Some("/h/.config/cellos/keys")),
            (
                &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")],
                7,
                Some("/x/cellos/keys"),
            ),
            (
                &[("HOME", "/h"), ("XDG_CONFIG_HOME", "relative")],
                7,
                Some("/h/.config/cellos/keys"),
            ),
            (&[], 7, None),
        ] {
            assert_eq!(locate(values, uid), place.map(PathBuf::from), "{values:?}");
        }
    }

    #[test]
    fn a_pipe_or_a_link_in_the_folder_is_refused_without_waiting() {
        let place = tempfile::tempdir().unwrap();
        let folder = KeyFolder::at(place.path().join("keys"));
        private::make_folder(folder.path()).unwrap();
        let pipe = |name: &str| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                folder.path().join(name),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )
            .unwrap();
        };
        pipe("keyset.json");
        assert!(folder.newest().is_err());
        pipe("lock");
        assert!(folder.lock().is_err());
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        let outside = place.path().join("outside");
        std::os::unix::fs::symlink(&outside, folder.path().join("lock")).unwrap();
        assert!(folder.lock().is_err());
        assert!(!outside.exists());
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = KeyFolder::at(place.path().join("keys"));
        let lock = folder.lock().unwrap();
        private::write_new(
            &place.path().join("outside.key"),
            private::to_pem(&[7; 32]).as_bytes(),
        )
        .unwrap();
        let key = KeptKey::Seed(Zeroizing::new([8; 32]));
        folder.add_key(&lock, "inside", &key).unwrap();
        assert!(folder.signer("inside").is_ok());
        for name in ["../outside", "", ".", "a/b", "outside"] {
            assert!(matches!(
                folder.signer(name),
                Err(FolderError::NoSuchKey { .. })
            ));
        }
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let folder = KeyFolder::at(place.path().join("keys"));
        assert!(!folder.exists().unwrap());
        drop(folder.lock().unwrap());
        assert!(folder.exists().unwrap());
        let open = std::fs::Permissions::from_mode(0o770);
        std::fs::set_permissions(folder.path(), open).unwrap();
        assert!(matches!(
            folder.exists(),
            Err(FolderError::Open { mode: 0o770, .. })
        ));
    }
}
