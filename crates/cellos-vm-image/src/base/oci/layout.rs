//! The documents of an OCI image layout: from `index.json` to the layers of one image.
//!
//! Only the members that matter here are read; the specification has readers ignore the others.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use cellos_core::vm_manifest::Sha256Digest;
use serde::{Deserialize, de::DeserializeOwned};

use super::{OciError, OciImage};
use crate::{ImageError, compression::Compression, file};

/// Largest document of a layout, in bytes: what registries accept for a manifest.
pub const MAX_DOCUMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Largest compressed layer, in bytes.
pub const MAX_BLOB_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Most layers of one image: what overlay file systems of container engines take.
pub const MAX_LAYERS: usize = 128;

/// Most indexes one inside the other; one is usual.
pub const MAX_INDEX_DEPTH: usize = 4;

/// The annotation that names an image in a layout.
const REFERENCE: &str = "org.opencontainers.image.ref.name";

/// Longest excerpt of a text of a document in a message, in characters.
const EXCERPT_CHARS: usize = 96;

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

const LAYER_TYPES: [(&str, Option<Compression>); 5] = [
    ("application/vnd.oci.image.layer.v1.tar", None),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        Some(Compression::Gzip),
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        Some(Compression::Zstd),
    ),
    ("application/vnd.docker.image.rootfs.diff.tar", None),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        Some(Compression::Gzip),
    ),
];

/// A layer to unpack.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) blob: Blob,
    pub(super) compression: Option<Compression>,
    /// The digest of the uncompressed archive.
    pub(super) diff_id: Sha256Digest,
}

/// A file that is named by its digest.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: Sha256Digest,
    pub(super) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Configuration {
    os: String,
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The layers of an image, lowest first.
pub(super) fn layers(image: &OciImage) -> Result<Vec<Layer>, OciError> {
    let layout: LayoutFile = document(&image.layout, "oci-layout", None)?;
    if layout.image_layout_version != "1.0.0" {
        return Err(OciError::Version {
            file: "oci-layout".to_owned(),
            found: excerpt(&layout.image_layout_version),
        });
    }
    let index: Index = document(&image.layout, "index.json", None)?;
    check_schema("index.json", index.schema_version)?;
    let manifest = manifest(image, index)?;
    let configuration: Configuration = document_of(&image.layout, &manifest.config)?;
    if !is_for_us(&configuration.os, &configuration.architecture) {
        return Err(OciError::Platform {
            os: excerpt(&configuration.os),
            architecture: excerpt(&configuration.architecture),
        });
    }
    let diff_ids = configuration.rootfs.diff_ids;
    if manifest.layers.len() != diff_ids.len() || diff_ids.len() > MAX_LAYERS {
        return Err(OciError::Layers {
            layers: manifest.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    manifest
        .layers
        .iter()
        .zip(&diff_ids)
        .map(|(descriptor, diff_id)| {
            let known = LAYER_TYPES
                .into_iter()
                .find(|(name, _)| *name == descriptor.media_type);
            let (_, compression) = known.ok_or_else(|| OciError::MediaType {
                place: "layer",
                found: excerpt(&descriptor.media_type),
            })?;
            let blob = descriptor.blob()?;
            if blob.size > MAX_BLOB_BYTES {
                return Err(OciError::TooLarge {
                    file: blob.file(),
                    limit: MAX_BLOB_BYTES,
                });
            }
            Ok(Layer {
                blob,
                compression,
                diff_id: digest(diff_id)?,
            })
        })
        .collect()
}

impl Blob {
    /// The file, from the layout's folder.
    pub(super) fn file(&self) -> String {
        format!("blobs/sha256/{}", self.digest.to_hex())
    }

    /// Opens the file and checks its size.
    pub(super) fn open(&self, layout: &Path) -> Result<File, OciError> {
        let file = open(layout, &self.file())?;
        let actual = file
            .metadata()
            .map_err(|source| OciError::Io {
                file: self.file(),
                source,
            })?
            .len();
        if actual != self.size {
            return Err(OciError::SizeMismatch {
                file: self.file(),
                expected: self.size,
                actual,
            });
        }
        Ok(file)
    }

    /// Fails unless the digest is the one of the file's name.
    pub(super) fn check(&self, actual: Sha256Digest) -> Result<(), OciError> {
        if actual == self.digest {
            return Ok(());
        }
        Err(OciError::DigestMismatch {
            file: self.file(),
            expected: self.digest,
            actual,
        })
    }
}

impl Descriptor {
    fn blob(&self) -> Result<Blob, OciError> {
        Ok(Blob {
            digest: digest(&self.digest)?,
            size: self.size,
        })
    }

    fn is(&self, types: [&str; 2]) -> bool {
        types.contains(&self.media_type.as_str())
    }
}

/// The manifest of the one image that is meant.
fn manifest(image: &OciImage, mut index: Index) -> Result<Manifest, OciError> {
    for depth in 0..=MAX_INDEX_DEPTH {
        // Only the outermost index names images.
        let reference = image.reference.as_ref().filter(|_| depth == 0);
        let mut fitting: Vec<Descriptor> = index
            .manifests
            .into_iter()
            .filter(|descriptor| {
                reference.is_none_or(|name| descriptor.annotations.get(REFERENCE) == Some(name))
            })
            .filter(|descriptor| {
                descriptor
                    .platform
                    .as_ref()
                    .is_none_or(|platform| is_for_us(&platform.os, &platform.architecture))
            })
            .collect();
        let (Some(chosen), true) = (fitting.pop(), fitting.is_empty()) else {
            return Err(OciError::Choice {
                count: fitting.len(),
                named: reference.map_or_else(String::new, |name| format!(" named {name}")),
            });
        };
        if chosen.is(MANIFEST_TYPES) {
            let manifest: Manifest = document_of(&image.layout, &chosen)?;
            check_schema("manifest", manifest.schema_version)?;
            return Ok(manifest);
        }
        if !chosen.is(INDEX_TYPES) {
            return Err(OciError::MediaType {
                place: "index",
                found: excerpt(&chosen.media_type),
            });
        }
        index = document_of(&image.layout, &chosen)?;
        check_schema("index", index.schema_version)?;
    }
    Err(OciError::TooDeep)
}

fn document_of<T: DeserializeOwned>(layout: &Path, descriptor: &Descriptor) -> Result<T, OciError> {
    let blob = descriptor.blob()?;
    document(layout, &blob.file(), Some(&blob))
}

/// Reads a document, and checks it where it is named by its digest.
fn document<T: DeserializeOwned>(
    layout: &Path,
    name: &str,
    blob: Option<&Blob>,
) -> Result<T, OciError> {
    let mut content = Vec::new();
    let file = match blob {
        Some(blob) => blob.open(layout)?,
        None => open(layout, name)?,
    };
    file.take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|source| OciError::Io {
            file: name.to_owned(),
            source,
        })?;
    if content.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(OciError::TooLarge {
            file: name.to_owned(),
            limit: MAX_DOCUMENT_BYTES,
        });
    }
    if let Some(blob) = blob {
        use sha2::Digest as _;
        let actual = sha2::Sha256::digest(&content).into();
        blob.check(Sha256Digest::from_bytes(actual))?;
    }
    serde_json::from_slice(&content).map_err(|source| OciError::Document {
        file: name.to_owned(),
        source,
    })
}

fn open(layout: &Path, name: &str) -> Result<File, OciError> {
    file::open(&layout.join(name)).map_err(|error| {
        let source = match error {
            ImageError::Io { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        };
        OciError::Io {
            file: name.to_owned(),
            source,
        }
    })
}

fn digest(text: &str) -> Result<Sha256Digest, OciError> {
    text.parse().map_err(|source| OciError::Digest {
        digest: excerpt(text),
        source,
    })
}

fn check_schema(file: &str, version: u32) -> Result<(), OciError> {
    if version == 2 {
        return Ok(());
    }
    Err(OciError::Version {
        file: file.to_owned(),
        found: version.to_string(),
    })
}

fn is_for_us(os: &str, architecture: &str) -> bool {
    (os, architecture) == ("linux", "amd64")
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}
