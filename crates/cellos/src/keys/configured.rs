//! Which key signs the events, if any.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::signing::{KeysetDocumentError, KeysetDocumentV1, Signer};
use cellos_evidence::{
    keyset::{KeyFault, Keyset, KeysetError, KeysetKey, Trust},
    log::{KnownKeys, LogConfig},
};
use jiff::Timestamp;

use super::{
    folder::{FolderError, KeyFolder},
    pkcs11::{self, Pkcs11Error, Pkcs11Signer, SCHEME},
    private::{self, PrivateError},
};
use crate::{evidence_guard::Hidden, failure::Failure, units::switch};

/// Names the key.
const KEY_VARIABLE: &str = "CELLOS_SIGNING_KEY";
/// Demands one.
const REQUIRE_VARIABLE: &str = "CELLOS_REQUIRE_SIGNING";

/// Who signs the events of a command.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SigningOptions {
    /// Sign with this key: a file, the name of a key in the key folder, or the pkcs11: URI of one
    /// in a token [default:
    /// CELLOS_SIGNING_KEY, else the current key of the key folder, if there is one]
    #[arg(long, value_name = "KEY", conflicts_with = "no_signing")]
    signing_key: Option<OsString>,
    /// Sign nothing, although there is a key
    #[arg(long)]
    no_signing: bool,
    /// Refuse to start when nothing would be signed; also CELLOS_REQUIRE_SIGNING=1
    #[arg(long, conflicts_with = "no_signing")]
    require_signing: bool,
    /// Key folder [default: CELLOS_KEY_DIR, else /etc/cellos/keys for root, $XDG_CONFIG_HOME/cellos/keys for others]
    #[arg(long, value_name = "DIR")]
    key_dir: Option<PathBuf>,
}

/// Why nothing can be signed.
#[derive(Debug, thiserror::Error)]
enum SigningError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Private(#[from] PrivateError),
    #[error("{REQUIRE_VARIABLE} is {value:?}, a switch is 1, true, yes, on or 0, false, no, off")]
    Switch { value: String },
    #[error(transparent)]
    Token(#[from] Pkcs11Error),
    #[error("the PKCS#11 URI of the key is no UTF-8")]
    NotUtf8,
    #[error("signing is required, and there is no key")]
    Required,
    #[error("signing is required by {REQUIRE_VARIABLE}, and --no-signing forbids it")]
    RequiredAndForbidden,
    #[error("{key:?} is neither a file (which has a / in it) nor the name of a key")]
    NotAName { key: OsString },
    #[error("key file {}: its name without .key is the name of the key, and is none", path.display())]
    NamelessFile { path: PathBuf },
    #[error("key {kid:?} is not in {}, so that nobody could check its signatures", keyset.display())]
    Unpublished { kid: String, keyset: PathBuf },
    #[error("key {kid:?} is another one than {} publishes", keyset.display())]
    OtherKey { kid: String, keyset: PathBuf },
    #[error("{}: {source}", keyset.display())]
    Document {
        keyset: PathBuf,
        source: KeysetDocumentError,
    },
    #[error("keyset {}: {source}", path.display())]
    Keyset { path: PathBuf, source: KeysetError },
    #[error("key {kid:?} cannot sign now: {fault}")]
    Invalid { kid: String, fault: KeyFault },
}

impl SigningError {
    fn failure(self) -> Failure {
        let hint = match &self {
            Self::Required => Some("cellos keys generate makes one"),
            Self::Invalid {
                fault: KeyFault::Expired { .. },
                ..
            } => Some("cellos keys rotate makes the next one"),
            Self::Invalid { .. } | Self::Unpublished { .. } => {
                Some("cellos keys show lists the keys that can sign")
            }
            Self::NotAName { .. } => Some("a file in this folder is ./NAME"),
            Self::Folder(FolderError::NoSuchKey { .. }) => {
                Some("cellos keys show lists them; a file in this folder is ./NAME")
            }
            _ => None,
        };
        let failure = Failure::call(self);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Who signs, and who may have signed before.
#[derive(Clone)]
pub(crate) struct Signing {
    /// Who signs.
    pub(crate) signer: Arc<dyn Signer>,
    /// The keys that are published with its own, which is among them.
    known_keys: Arc<KnownKeys>,
}

impl Signing {
    fn new(signer: Arc<dyn Signer>, document: Option<&KeysetDocumentV1>) -> Self {
        let mut known_keys: KnownKeys = document
            .iter()
            .flat_map(|document| &document.keys)
            // One that is none has signed nothing.
            .filter_map(|entry| Some((entry.kid.clone(), KeysetKey::try_from(entry).ok()?.public)))
            .collect();
        known_keys.insert(signer.kid().to_owned(), signer.verifying_key());
        Self {
            signer,
            known_keys: Arc::new(known_keys),
        }
    }
}

/// What a command signs with that was given a key, or runs on a host that has one. `None` where
/// nothing is to be signed.
///
/// Nothing is created, and no other process asked: a run pays for reading three small files.
pub(crate) fn signing(options: &SigningOptions) -> Result<Option<Signing>, Failure> {
    find(options, |name| std::env::var_os(name)).map_err(SigningError::failure)
}

/// The signer alone, for what is no log.
pub(crate) fn configured(options: &SigningOptions) -> Result<Option<Arc<dyn Signer>>, Failure> {
    Ok(signing(options)?.map(|signing| signing.signer))
}

/// A log that is signed so.
pub(crate) fn signed(log: &Path, signing: Option<Signing>) -> LogConfig {
    let (signer, known_keys) = match signing {
        Some(signing) => (Some(signing.signer), Some(signing.known_keys)),
        None => (None, None),
    };
    LogConfig {
        signer,
        known_keys,
        ..LogConfig::new(log)
    }
}

/// The keyset that publishes the configured signer, believed because it lies in the folder that
/// the signer comes from. `None` where its key is not published.
pub(crate) fn published_with(
    options: &SigningOptions,
    signer: &dyn Signer,
) -> Result<Option<Keyset>, Failure> {
    let published = || {
        let folder = match key(options, |name| std::env::var_os(name)) {
            Some(Key::File(path)) => KeyFolder::at(path.parent().unwrap_or(Path::new(""))),
            _ => match KeyFolder::of_this_process(options.key_dir.as_deref()) {
                Err(FolderError::Nowhere) => return Ok(None),
                other => other?,
            },
        };
        let path = folder.keyset_path();
        if !path.exists() {
            return Ok(None);
        }
        let keys = Keyset::read(&path, &Trust::SelfContained, Timestamp::now())
            .map_err(|source| SigningError::Keyset { path, source })?;
        let is_published = keys
            .get(signer.kid())
            .is_some_and(|key| key.public.as_bytes() == signer.verifying_key().as_bytes());
        Ok(is_published.then_some(keys))
    };
    published().map_err(SigningError::failure)
}

/// What no cell may see: the key folder, the file of a key that is named, and the file with the PIN of
/// a token.
pub(crate) fn private_places(options: &SigningOptions) -> Vec<Hidden> {
    let folder = KeyFolder::of_this_process(options.key_dir.as_deref()).ok();
    let (file, uri) = match key(options, |name| std::env::var_os(name)) {
        Some(Key::File(path)) => (Some(path), None),
        Some(Key::Token(uri)) => (None, uri.into_string().ok()),
        Some(Key::Named(name)) => (
            None,
            folder.as_ref().and_then(|it| it.token(name.to_str()?)),
        ),
        None => (None, folder.as_ref().and_then(KeyFolder::current_token)),
    };
    let keys = |place| Hidden {
        what: "the signing keys",
        place,
    };
    let pin = uri
        .and_then(|uri| pkcs11::pin_file(&uri))
        .map(|place| Hidden {
            what: "the PIN of the token",
            place,
        });
    let folder = folder.map(|folder| folder.path().to_owned());
    let keys = [folder, file].into_iter().flatten().map(keys);
    keys.chain(pin).collect()
}

/// How a key is named.
enum Key {
    File(PathBuf),
    Named(OsString),
    Token(OsString),
}

fn key(options: &SigningOptions, environment: impl Fn(&str) -> Option<OsString>) -> Option<Key> {
    let text = options
        .signing_key
        .clone()
        .or_else(|| environment(KEY_VARIABLE))
        .filter(|text| !text.is_empty())?;
    let bytes = text.as_encoded_bytes();
    Some(if bytes.starts_with(SCHEME.as_bytes()) {
        Key::Token(text)
    } else if bytes.contains(&b'/') {
        Key::File(text.into())
    } else {
        Key::Named(text)
    })
}

fn find(
    options: &SigningOptions,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Signing>, SigningError> {
    let required = options.require_signing || required_by(&environment)?;
    if options.no_signing {
        return match required {
            true => Err(SigningError::RequiredAndForbidden),
            false => Ok(None),
        };
    }
    let uid = rustix::process::geteuid().as_raw();
    let folder = || KeyFolder::locate(options.key_dir.as_deref(), &environment, uid);
    let signer = match key(options, &environment) {
        Some(Key::File(path)) => Some(from_file(&path)?),
        Some(Key::Token(uri)) => Some(from_token(&uri, folder())?),
        Some(Key::Named(name)) => Some(from_folder(&folder()?, &name)?),
        None => match folder() {
            Ok(folder) => current_of(&folder)?,
            Err(FolderError::Nowhere) => None,
            Err(error) => return Err(error.into()),
        },
    };
    match signer {
        None if required => Err(SigningError::Required),
        signer => Ok(signer),
    }
}

fn required_by(environment: impl Fn(&str) -> Option<OsString>) -> Result<bool, SigningError> {
    let Some(value) = environment(REQUIRE_VARIABLE) else {
        return Ok(false);
    };
    let value = value.to_string_lossy();
    switch(&value).ok_or_else(|| SigningError::Switch {
        value: value.into_owned(),
    })
}

/// `<folder>/<name>.key`: its name is the key's, and a keyset beside it has to have it.
fn from_file(path: &Path) -> Result<Signing, SigningError> {
    let kid = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .filter(|stem| cellos_core::admission::is_portable_id(stem))
        .ok_or_else(|| SigningError::NamelessFile {
            path: path.to_owned(),
        })?;
    let signer = private::read_key(path, |_| kid.to_owned())?;
    let beside = KeyFolder::at(path.parent().unwrap_or(Path::new("")));
    let document = beside.newest()?;
    if let Some(document) = &document {
        judge(&signer, document, &beside)?;
    }
    Ok(Signing::new(Arc::new(signer), document.as_ref()))
}

fn from_folder(folder: &KeyFolder, name: &OsString) -> Result<Signing, SigningError> {
    let kid = name
        .to_str()
        .ok_or_else(|| SigningError::NotAName { key: name.clone() })?;
    folder.exists()?;
    let signer = folder.signer(kid)?;
    let document = folder.newest()?;
    if let Some(document) = &document {
        judge(&*signer, document, folder)?;
    }
    Ok(Signing::new(signer, document.as_ref()))
}

/// A key in a token has the name that it was published under, else one that follows from it.
fn from_token(
    uri: &OsString,
    folder: Result<KeyFolder, FolderError>,
) -> Result<Signing, SigningError> {
    let uri = uri.to_str().ok_or(SigningError::NotUtf8)?;
    let folder = match folder {
        Ok(folder) if folder.exists()? => Some(folder),
        Ok(_) | Err(FolderError::Nowhere) => None,
        Err(error) => return Err(error.into()),
    };
    let document = match &folder {
        Some(folder) => folder.newest()?,
        None => None,
    };
    let published = |public: &[u8; 32]| {
        let public = URL_SAFE_NO_PAD.encode(public);
        let mut keys = document.iter().flat_map(|document| &document.keys);
        keys.find(|key| key.public_key.trim_end_matches('=') == public)
            .map(|key| key.kid.clone())
    };
    let signer = Pkcs11Signer::open(uri, |public| {
        published(public).unwrap_or_else(|| private::name_of("key-", public))
    })?;
    // One that is not published stands beside no other.
    let beside = match published(signer.verifying_key().as_bytes()) {
        Some(_) => document.as_ref(),
        None => None,
    };
    if let (Some(folder), Some(document)) = (&folder, beside) {
        judge(&signer, document, folder)?;
    }
    Ok(Signing::new(Arc::new(signer), beside))
}

fn current_of(folder: &KeyFolder) -> Result<Option<Signing>, SigningError> {
    if !folder.exists()? {
        return Ok(None);
    }
    match folder.current()? {
        Some(kid) => from_folder(folder, &kid.into()).map(Some),
        None => Ok(None),
    }
}

/// Refuses a key whose signatures would not count.
fn judge(
    signer: &dyn Signer,
    document: &KeysetDocumentV1,
    folder: &KeyFolder,
) -> Result<(), SigningError> {
    let kid = || signer.kid().to_owned();
    let keyset = || folder.keyset_path();
    let Some(entry) = document.keys.iter().find(|key| key.kid == signer.kid()) else {
        return Err(SigningError::Unpublished {
            kid: kid(),
            keyset: keyset(),
        });
    };
    let own = URL_SAFE_NO_PAD.encode(signer.verifying_key().as_bytes());
    if entry.public_key.trim_end_matches('=') != own {
        return Err(SigningError::OtherKey {
            kid: kid(),
            keyset: keyset(),
        });
    }
    KeysetKey::try_from(entry)
        .map_err(|source| SigningError::Document {
            keyset: keyset(),
            source,
        })?
        .judge(Timestamp::now())
        .map_err(|fault| SigningError::Invalid { kid: kid(), fault })
}
