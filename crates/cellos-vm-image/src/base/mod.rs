//! Where the files of the read-only base come from.

mod busybox;
mod directory;
mod oci;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    ImageError, Progress,
    debian::DebianPackage,
    spool::Spool,
    tree::{MAX_CONTENT_BYTES, Tree, TreeError},
};

pub use busybox::MAX_APPLETS;
pub use oci::{
    MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, MAX_LAYER_BYTES, MAX_LAYERS, OciError,
    OciImage,
};

/// Where the files of the base come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseSource {
    /// Debian's static busybox, with a link for each program it can be.
    Busybox,
    /// A directory. Everything in it comes to belong to root, and loses its set-user-ID and
    /// set-group-ID bits, because the accounts of the building host mean nothing in a cell.
    Directory(PathBuf),
    /// An image in an OCI image layout. Owners and modes are the ones in its layers.
    Oci(OciImage),
}

/// Why a base cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The tree cannot be.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Something is neither a file nor a directory nor a symbolic link.
    #[error("{path}: {kind} are refused", path = path.display())]
    Special {
        /// The path.
        path: PathBuf,
        /// What it is, in the plural.
        kind: &'static str,
    },
    /// The contents are too many.
    #[error("more than {MAX_CONTENT_BYTES} bytes of files")]
    TooLarge,
    /// A file cannot be read, or kept for the image.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image is wrong.
    #[error("OCI image {layout}: {source}", layout = layout.display())]
    Oci {
        /// The folder of the layout.
        layout: PathBuf,
        /// Why.
        source: OciError,
    },
    /// The package does not have the program.
    #[error("the package busybox-static has no program busybox")]
    NoBusybox,
    /// The program does not list what it can be.
    #[error("busybox --list: {problem}")]
    Applets {
        /// What is wrong.
        problem: String,
    },
}

/// The files of a base.
pub(crate) struct Base {
    pub(crate) tree: Tree,
    pub(crate) spool: Spool,
    /// The package it is from.
    pub(crate) package: Option<DebianPackage>,
}

/// Reads the files of a base. Packages and contents are kept in `scratch`.
pub(crate) fn load(
    source: &BaseSource,
    scratch: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Base, ImageError> {
    let spool =
        Spool::new(scratch, MAX_CONTENT_BYTES).map_err(ImageError::io("create", scratch))?;
    let mut base = Base {
        tree: Tree::new(),
        spool,
        package: None,
    };
    progress(Progress::ReadingBase);
    match source {
        BaseSource::Busybox => busybox::load(&mut base, scratch, progress)?,
        BaseSource::Directory(folder) => directory::load(&mut base, folder)?,
        BaseSource::Oci(image) => oci::load(&mut base, image, progress)?,
    }
    base.tree.add_mount_points().map_err(BaseError::from)?;
    Ok(base)
}

/// An error of reading or keeping the content of a file.
fn content_error(path: PathBuf, source: io::Error) -> BaseError {
    match source.kind() {
        io::ErrorKind::FileTooLarge => BaseError::TooLarge,
        _ => BaseError::Io { path, source },
    }
}
