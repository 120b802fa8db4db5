//! Why a bundle could not be made or opened.

use std::{io, path::PathBuf};

use cellos_core::vm_manifest::{ManifestError, Role, Sha256Digest, SignatureError};

use crate::{
    base::BaseError,
    debian::DebianError,
    kernel::{KernelError, ModuleError},
};

/// Why a bundle could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The operating system refused something.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something stands where the bundle belongs.
    #[error("{path} exists already", path = path.display())]
    TargetExists {
        /// The place.
        path: PathBuf,
    },
    /// What stands where the bundle belongs is none, so it is not replaced.
    #[error("{path} is no bundle (it holds no manifest) and is not replaced", path = path.display())]
    NotABundle {
        /// The place.
        path: PathBuf,
    },
    /// The place has no name, as `/` or `..`.
    #[error("{path} cannot be the place of a bundle: it has no name", path = path.display())]
    NoName {
        /// The place.
        path: PathBuf,
    },
    /// A file is larger than it may be.
    #[error("{path} has more than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most it may have, in bytes.
        limit: u64,
    },
    /// The file is no regular one.
    #[error("{path} is no regular file", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The guest program is none for this machine.
    #[error("{path} is no ELF program, and the kernel could not start it as init", path = path.display())]
    GuestBinary {
        /// The file.
        path: PathBuf,
    },
    /// No kernel could be made.
    #[error("kernel {path}: {source}", path = path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// A kernel module cannot be used.
    #[error("kernel modules in {path}: {source}", path = path.display())]
    Module {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: ModuleError,
    },
    /// A Debian package cannot be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The base cannot be made.
    #[error("base: {0}")]
    Base(#[from] BaseError),
    /// The base's image cannot be written.
    #[error("squashfs image {path}: {message}", path = path.display())]
    Squashfs {
        /// The file.
        path: PathBuf,
        /// What the library said.
        message: String,
    },
    /// A role was given that the bundle fills itself.
    #[error("role {role} is filled by the bundle and cannot be pinned as a program")]
    PinnedRole {
        /// The role.
        role: Role,
    },
    /// A path cannot stand in a manifest.
    #[error("{path} is no absolute path in UTF-8, and a manifest cannot name it", path = path.display())]
    PinnedPath {
        /// The path.
        path: PathBuf,
    },
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest cannot be signed or is not believed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A file of the bundle is not the one that its manifest names.
    #[error("{role} digest mismatch: the manifest has {expected}, {path} has {actual}", path = path.display())]
    DigestMismatch {
        /// Role of the file.
        role: Role,
        /// The file.
        path: PathBuf,
        /// The digest in the manifest.
        expected: Sha256Digest,
        /// The digest of the file.
        actual: Sha256Digest,
    },
}

impl ImageError {
    /// An error of the system, with what was tried on what.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
