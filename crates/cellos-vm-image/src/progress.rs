//! What a build is doing, for whoever shows it.

use std::path::Path;

/// One step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The package lists are fetched, because the host has none that know the package.
    UpdatingPackageLists,
    /// A Debian package is downloaded.
    Downloading {
        /// Name of the package.
        package: &'a str,
    },
    /// A Debian package is unpacked.
    Unpacking {
        /// Name of the package.
        package: &'a str,
    },
    /// The kernel is taken out of its compressed image.
    ExtractingKernel {
        /// The image.
        file: &'a Path,
    },
    /// The initial RAM disk is put together.
    WritingInitrd,
    /// The files of the base are read.
    ReadingBase,
    /// A layer of an OCI image is unpacked.
    UnpackingLayer {
        /// Number of the layer, from 1.
        number: usize,
        /// How many layers there are.
        of: usize,
    },
    /// The base's image is written.
    WritingBase,
    /// The files are hashed, and the manifest is written and signed.
    WritingManifest,
}
