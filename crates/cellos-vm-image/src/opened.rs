//! Opening a bundle: its manifest is believed, and its files are the ones that the manifest names.

use std::{
    io,
    path::{Path, PathBuf},
};

use cellos_core::vm_manifest::{
    self, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, ManifestTrust, Role, Sha256Digest,
};

use crate::{
    ImageError,
    build::{MANIFEST_FILE, SIGNATURE_FILE},
    file,
};

/// A file that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// What it is for.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// The digest of its content.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

impl BundleFile {
    /// Hashes a file.
    pub(crate) fn of(role: Role, path: PathBuf) -> Result<Self, ImageError> {
        let (digest, bytes) =
            file::digest(file::open(&path)?).map_err(ImageError::io("read", &path))?;
        Ok(Self {
            role,
            path,
            digest,
            bytes,
        })
    }
}

/// A bundle that may be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedBundle {
    /// Its files, in the order of [`Role::ALL`].
    pub files: Vec<BundleFile>,
    /// Id of the trusted key that signed the manifest; `None` only where unsigned manifests are
    /// allowed.
    pub signer_kid: Option<String>,
}

impl OpenedBundle {
    /// The file of a role.
    #[must_use]
    pub fn get(&self, role: Role) -> Option<&BundleFile> {
        self.files.iter().find(|file| file.role == role)
    }
}

/// Opens a bundle: verifies its manifest, then every file against it.
///
/// The files can be changed afterwards by whoever may write them; a bundle belongs where only the
/// operator can.
///
/// # Errors
/// [`ImageError`], in particular [`ImageError::Signature`] and [`ImageError::DigestMismatch`].
pub fn open_bundle(folder: &Path, trust: &ManifestTrust<'_>) -> Result<OpenedBundle, ImageError> {
    let manifest = file::read(&folder.join(MANIFEST_FILE), MAX_MANIFEST_BYTES as u64)?;
    let signature = match file::read(&folder.join(SIGNATURE_FILE), MAX_SIGNATURE_BYTES as u64) {
        Ok(signature) => Some(signature),
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let verified = vm_manifest::verify(&manifest, signature.as_deref(), trust)?;
    let files = verified.manifest.entries().map(|entry| {
        let file = BundleFile::of(entry.role, folder.join(&entry.path))?;
        if file.digest != entry.digest {
            return Err(ImageError::DigestMismatch {
                role: file.role,
                path: file.path,
                expected: entry.digest,
                actual: file.digest,
            });
        }
        Ok(file)
    });
    Ok(OpenedBundle {
        files: files.collect::<Result<_, _>>()?,
        signer_kid: verified.signer_kid,
    })
}
