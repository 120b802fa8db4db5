//! A base from an image in an OCI image layout (OCI image specification 1.1).
//!
//! Every document and layer is checked against the digest it is named by, and the uncompressed
//! layers against the digests in the image's configuration. Layers are untrusted all the same: they
//! are unpacked into a tree in memory, and never onto the host.

mod layer;
mod layout;

use std::{io, path::PathBuf};

use super::{Base, BaseError};
use crate::Progress;
use cellos_core::vm_manifest::{DigestError, Sha256Digest};

pub use layer::MAX_LAYER_BYTES;
pub use layout::{MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, MAX_LAYERS};

/// An image in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciImage {
    /// The folder with `oci-layout`, `index.json` and `blobs`.
    pub layout: PathBuf,
    /// The image's `org.opencontainers.image.ref.name`; `None` where there is only one image.
    pub reference: Option<String>,
}

/// Why an image was refused.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file, from the layout's folder.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is larger than it may be.
    #[error("{file}: more than {limit} bytes")]
    TooLarge {
        /// The file, from the layout's folder.
        file: String,
        /// The most it may have, in bytes.
        limit: u64,
    },
    /// A document cannot be read.
    #[error("{file}: {source}")]
    Document {
        /// The file, from the layout's folder.
        file: String,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// The layout or a document has a version that is not known.
    #[error("{file}: version {found:?} is not known")]
    Version {
        /// The file.
        file: String,
        /// The version found.
        found: String,
    },
    /// A digest cannot be used.
    #[error("{digest:?}: {source}")]
    Digest {
        /// The digest, shortened.
        digest: String,
        /// Why.
        source: DigestError,
    },
    /// A file is not the one that it is named as.
    #[error("{file} has digest {actual}, not {expected}")]
    DigestMismatch {
        /// The file.
        file: String,
        /// The digest it must have.
        expected: Sha256Digest,
        /// The digest it has.
        actual: Sha256Digest,
    },
    /// A file has another size than its descriptor says.
    #[error("{file} has {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The file.
        file: String,
        /// The size it must have, in bytes.
        expected: u64,
        /// The size it has, in bytes.
        actual: u64,
    },
    /// A descriptor is of a kind that is of no use where it stands.
    #[error("{place}: media type {found:?} is not supported")]
    MediaType {
        /// Where it stands.
        place: &'static str,
        /// The media type, shortened.
        found: String,
    },
    /// There is not exactly one image to take.
    #[error("{count} images for linux/amd64{named}; exactly one is needed")]
    Choice {
        /// How many there are.
        count: usize,
        /// What they should be called, as ` named X`, or nothing.
        named: String,
    },
    /// Indexes are nested too deeply.
    #[error("indexes are nested more than {MAX_INDEX_DEPTH} deep")]
    TooDeep,
    /// There are too many layers, or the configuration lists another number of them.
    #[error("{layers} layers and {diff_ids} diff_ids; they must be as many, at most {MAX_LAYERS}")]
    Layers {
        /// Layers of the manifest.
        layers: usize,
        /// Digests of uncompressed layers in the configuration.
        diff_ids: usize,
    },
    /// The image is for another system.
    #[error("for {os}/{architecture}, not linux/amd64")]
    Platform {
        /// Its operating system.
        os: String,
        /// Its processor.
        architecture: String,
    },
    /// A layer is wrong.
    #[error("layer {number}: {source}")]
    Layer {
        /// Number of the layer, from 1.
        number: usize,
        /// Why.
        source: Box<BaseError>,
    },
    /// An archive cannot be read.
    #[error("archive: {0}")]
    Archive(#[source] io::Error),
    /// An archive holds an entry of a kind that is not known.
    #[error("{path}: entries of type {kind:#04x} are not supported", path = path.display())]
    EntryType {
        /// The entry.
        path: PathBuf,
        /// The byte that says its type.
        kind: u8,
    },
    /// The header of an entry cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    Header {
        /// The entry.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Puts the layers of an image into the base, one over the other.
pub(super) fn load(
    base: &mut Base,
    image: &OciImage,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), BaseError> {
    let of_image = |source| BaseError::Oci {
        layout: image.layout.clone(),
        source,
    };
    let layers = layout::layers(image).map_err(of_image)?;
    let of = layers.len();
    for (index, layer) in layers.iter().enumerate() {
        let number = index + 1;
        progress(Progress::UnpackingLayer { number, of });
        layer::apply(base, &image.layout, layer).map_err(|source| {
            of_image(OciError::Layer {
                number,
                source: Box::new(source),
            })
        })?;
    }
    Ok(())
}

impl OciError {
    /// An error about the layout as one about the base, before it is known which layer it is in.
    fn inside(self, image: &std::path::Path) -> BaseError {
        BaseError::Oci {
            layout: image.to_path_buf(),
            source: self,
        }
    }
}
