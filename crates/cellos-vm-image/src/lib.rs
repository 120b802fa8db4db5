//! Makes what a microVM boots from: a *bundle*, one folder that holds
//!
//! * `kernel`: an uncompressed ELF kernel, which Firecracker and QEMU's `microvm` machine both take,
//! * `initrd`: an uncompressed archive with the guest program as `/init` and the kernel modules it
//!   loads,
//! * `base`: the read-only root file system of every cell, a squashfs image,
//! * `manifest` and `manifest.sig`: the digests of all of it, and who vouches for them
//!   ([`cellos_core::vm_manifest`]).
//!
//! The same inputs give the same bytes: times are zero, names are sorted, owners are the ones that
//! the source states. A bundle is written beside its place and renamed into it whole.
#![forbid(unsafe_code)]

mod base;
mod build;
mod compression;
mod cpio;
mod debian;
mod error;
mod file;
mod initrd;
mod kernel;
mod opened;
mod progress;
mod publish;
mod spool;
mod squashfs;
mod tree;

pub use base::{
    BaseError, BaseSource, MAX_APPLETS, MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH,
    MAX_LAYER_BYTES, MAX_LAYERS, OciError, OciImage,
};
pub use build::{
    BASE_FILE, BundleReport, BundleSpec, INITRD_FILE, KERNEL_FILE, MANIFEST_FILE, PinnedProgram,
    SIGNATURE_FILE, build_bundle,
};
pub use compression::{Compression, DecompressError};
pub use debian::{DebianError, DebianPackage};
pub use error::ImageError;
pub use initrd::{MAX_GUEST_BINARY_BYTES, MODULES_FOLDER, MODULES_LIST};
pub use kernel::{
    KernelError, KernelSource, MAX_KERNEL_FILE_BYTES, MAX_MODULE_BYTES, MAX_MODULE_FILES,
    MAX_VMLINUX_BYTES, ModuleError, OPTIONAL_MODULES, REQUIRED_MODULES,
};
pub use opened::{BundleFile, OpenedBundle, open_bundle};
pub use progress::Progress;
pub use publish::Existing;
pub use tree::{
    MAX_CONTENT_BYTES, MAX_NAME_BYTES, MAX_NAMES_BYTES, MAX_NODES, MAX_PATH_BYTES, MAX_PATH_DEPTH,
    MAX_SYMLINKS, TreeError,
};
