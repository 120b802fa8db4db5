//! Files that nobody but their owner can read: making them, replacing them, reading them, and the
//! Ed25519 seeds in them.
//!
//! A seed is written as PKCS#8 (RFC 8410) in PEM, which other tools read and write too
//! (`openssl genpkey -algorithm ed25519`). The 32 bytes in base64url are read as well.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cellos_core::signing::{SeedError, Signer as _, SoftwareSigner};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Random bytes of a seed (RFC 8032, 5.1.5).
const SEED_BYTES: usize = 32;
/// Longest private file that is read, in bytes: a key in PEM has 119, and people add comments.
const MAX_PRIVATE_FILE_BYTES: u64 = 4096;
/// Hexadecimal digits of a public key's hash that make its name.
const NAME_DIGITS: usize = 16;
/// What stands before the seed in the DER form of a key (RFC 8410, 7).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why a private file cannot be used. No content appears in a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivateError {
    /// The kernel refuses.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It is a folder, a device or a pipe.
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    /// Others may read or change it.
    #[error(
        "{} can be read by others (mode {mode:03o}): chmod 600 it, or sign with another key",
        path.display()
    )]
    Readable { path: PathBuf, mode: u32 },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, who could change it: chown it to user {us}", path.display())]
    Foreign { path: PathBuf, owner: u32, us: u32 },
    /// It is too long.
    #[error("{} is longer than the {MAX_PRIVATE_FILE_BYTES} bytes that are read", path.display())]
    TooLong { path: PathBuf },
    /// It holds no text.
    #[error("{} is no text", path.display())]
    NotText { path: PathBuf },
    /// It is PEM and no key of ours.
    #[error(
        "{} is no unencrypted Ed25519 key in PKCS#8, as openssl genpkey -algorithm ed25519 makes it",
        path.display()
    )]
    NotPkcs8 { path: PathBuf },
    /// It is neither PEM nor a seed.
    #[error("{}: {source}", path.display())]
    Seed { path: PathBuf, source: SeedError },
}

/// Makes an error of the kernel's.
pub(crate) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> PrivateError {
    let path = path.to_owned();
    move |source| PrivateError::Io {
        operation,
        path,
        source,
    }
}

/// A fresh seed, from the kernel.
pub(crate) fn fresh_seed() -> Result<Zeroizing<[u8; SEED_BYTES]>, PrivateError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    let source = Path::new("/dev/urandom");
    File::open(source)
        .and_then(|mut random| random.read_exact(&mut seed[..]))
        .map_err(failed("read", source))?;
    Ok(seed)
}

/// A name that follows from the key, so that nobody has to choose one.
pub(crate) fn name_of(prefix: &str, public_key: &[u8]) -> String {
    let digest = Sha256::digest(public_key);
    let mut name = prefix.to_owned();
    for byte in digest.iter().take(NAME_DIGITS / 2) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// A seed as it is written.
pub(crate) fn to_pem(seed: &[u8; SEED_BYTES]) -> Zeroizing<String> {
    let mut der = Zeroizing::new(PKCS8_HEAD.to_vec());
    der.extend_from_slice(seed);
    let body = Zeroizing::new(STANDARD.encode(&der[..]));
    Zeroizing::new(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", &body[..]))
}

/// Reads a key. `name` makes its name of its public half.
pub(crate) fn read_key(
    path: &Path,
    name: impl FnOnce(&[u8; 32]) -> String,
) -> Result<SoftwareSigner, PrivateError> {
    let text = read(path)?;
    match text.split_once(PEM_BEGIN) {
        Some((_, rest)) => {
            let seed = pkcs8_seed(rest).ok_or_else(|| PrivateError::NotPkcs8 {
                path: path.to_owned(),
            })?;
            Ok(SoftwareSigner::from_seed(String::new(), *seed))
        }
        None if text.contains("-----BEGIN") => Err(PrivateError::NotPkcs8 {
            path: path.to_owned(),
        }),
        None => SoftwareSigner::from_base64url_seed(String::new(), text.trim()).map_err(|source| {
            PrivateError::Seed {
                path: path.to_owned(),
                source,
            }
        }),
    }
    .map(|signer| {
        let name = name(signer.verifying_key().as_bytes());
        signer.named(name)
    })
}

fn pkcs8_seed(after_begin: &str) -> Option<Zeroizing<[u8; SEED_BYTES]>> {
    let (body, _) = after_begin.split_once(PEM_END)?;
    let body: Zeroizing<String> =
        Zeroizing::new(body.split_ascii_whitespace().collect::<Vec<_>>().concat());
    let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    let seed = der.strip_prefix(&PKCS8_HEAD)?;
    Some(Zeroizing::new(seed.try_into().ok()?))
}

/// Reads a file that nobody but us or root may read or change. Links are followed: what is looked
/// at is the file that was opened.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, PrivateError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed("read", path))?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    let path = || path.to_owned();
    if !metadata.is_file() {
        return Err(PrivateError::NotAFile { path: path() });
    }
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us && metadata.uid() != 0 {
        return Err(PrivateError::Foreign {
            path: path(),
            owner: metadata.uid(),
            us,
        });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateError::Readable { path: path(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(MAX_PRIVATE_FILE_BYTES + 1).unwrap_or_default(),
    ));
    file.take(MAX_PRIVATE_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", &path()))?;
    if bytes.len() as u64 > MAX_PRIVATE_FILE_BYTES {
        return Err(PrivateError::TooLong { path: path() });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(PrivateError::NotText { path: path() }),
    }
}

/// Writes a private file that must not exist yet, and waits for the disk.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), PrivateError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(failed("write", path))?;
    sync_folder_of(path)
}

/// Replaces a file: a reader finds the old content or the new one, also after a crash. Callers
/// exclude each other.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PrivateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What is left of a failed try is of no use; that it cannot be removed changes nothing.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed("write", path))?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> Result<(), PrivateError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("flush the folder", folder))
}

/// Makes a folder that only we can enter, where it is missing.
pub(crate) fn make_folder(folder: &Path) -> Result<(), PrivateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("make the folder", folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The private key of RFC 8410, 10.3.
    const PUBLISHED: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    fn key_file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        write_new(&path, content.as_bytes()).unwrap();
        (folder, path)
    }

    fn public(path: &Path) -> Result<[u8; 32], PrivateError> {
        read_key(path, |_| "a".to_owned()).map(|signer| *signer.verifying_key().as_bytes())
    }

    #[test]
    fn the_published_example_is_read() {
        let (_folder, path) = key_file(&format!("a comment\n{PUBLISHED}"));
        assert_eq!(
            STANDARD.encode(public(&path).unwrap()),
            "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
        );
    }

    #[test]
    fn what_is_written_is_read_in_both_forms() {
        let seed = fresh_seed().unwrap();
        let expected = *SoftwareSigner::from_seed("", *seed)
            .verifying_key()
            .as_bytes();
        let bare = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&seed[..]);
        for content in [to_pem(&seed).to_string(), bare] {
            let (_folder, path) = key_file(&content);
            assert_eq!(public(&path).unwrap(), expected);
        }
    }

    #[test]
    fn other_content_is_refused_without_being_shown() {
        for content in [
            "",
            "not a key but a secret",
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEINTuctv5E1hK1bbY8fdp\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
            &"A".repeat(5000),
        ] {
            let (_folder, path) = key_file(content);
            let error = public(&path).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let (_folder, path) = key_file(PUBLISHED);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(
                public(&path),
                Err(PrivateError::Readable { mode: found, .. }) if found == mode
            ));
        }
    }

    #[test]
    fn a_pipe_or_folder_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [folder.path(), &pipe] {
            assert!(matches!(public(path), Err(PrivateError::NotAFile { .. })));
        }
    }

    #[test]
    fn nothing_is_overwritten_by_accident() {
        let (_folder, path) = key_file(PUBLISHED);
        assert!(write_new(&path, b"other").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), PUBLISHED);
        replace(&path, b"other", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }
}
