//! Where the guest's kernel and its modules come from.

mod elf;
mod image;
mod modules;

use std::path::{Path, PathBuf};

use crate::{
    ImageError, Progress,
    debian::{DebianPackage, Packages},
    file,
};

pub(crate) use elf::is_elf_for_x86_64;
pub use image::{KernelError, MAX_VMLINUX_BYTES};
pub(crate) use modules::Module;
pub use modules::{
    MAX_MODULE_BYTES, MAX_MODULE_FILES, ModuleError, OPTIONAL_MODULES, REQUIRED_MODULES,
};

/// Largest kernel file, in bytes: Debian's uncompressed one has 53 MB, one with every driver built
/// in about ten times that.
pub const MAX_KERNEL_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// The package that depends on Debian's present kernel for virtual machines.
const DEBIAN_KERNEL: &str = "linux-image-cloud-amd64";

/// Where the guest's kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// Debian's kernel for virtual machines, fetched and not installed.
    Debian,
    /// Files that are there.
    Files {
        /// A bzImage or an ELF kernel, for `x86_64`.
        kernel: PathBuf,
        /// The folder of its modules, as `/lib/modules/VERSION`; `None` when the kernel has built
        /// in what it needs.
        modules: Option<PathBuf>,
    },
}

/// A kernel to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The ELF file.
    pub(crate) vmlinux: Vec<u8>,
    /// Its version, as `uname -r` prints it.
    pub(crate) release: String,
    /// The modules to load, in their order.
    pub(crate) modules: Vec<Module>,
    /// The package it is from.
    pub(crate) package: Option<DebianPackage>,
}

/// Gets the kernel. Packages are unpacked in `scratch`.
pub(crate) fn load(
    source: &KernelSource,
    scratch: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Kernel, ImageError> {
    match source {
        KernelSource::Files { kernel, modules } => {
            from_files(kernel, modules.as_deref(), None, progress)
        }
        KernelSource::Debian => {
            let packages = Packages::new(&scratch.join("apt"), DEBIAN_KERNEL, progress)?;
            let name = packages.kernel_of(DEBIAN_KERNEL)?;
            let unpacked = packages.unpack(&name, progress)?;
            let release = name.strip_prefix("linux-image-").unwrap_or(&name);
            let kernel = unpacked
                .folder
                .join("boot")
                .join(format!("vmlinuz-{release}"));
            let modules = ["lib/modules", "usr/lib/modules"]
                .map(|folder| unpacked.folder.join(folder).join(release))
                .into_iter()
                .find(|folder| folder.is_dir());
            from_files(
                &kernel,
                modules.as_deref(),
                Some(unpacked.package),
                progress,
            )
        }
    }
}

fn from_files(
    kernel: &Path,
    modules: Option<&Path>,
    package: Option<DebianPackage>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Kernel, ImageError> {
    progress(Progress::ExtractingKernel { file: kernel });
    let of_kernel = |source| ImageError::Kernel {
        path: kernel.to_path_buf(),
        source,
    };
    let vmlinux = image::vmlinux(file::read(kernel, MAX_KERNEL_FILE_BYTES)?).map_err(of_kernel)?;
    let release = image::release(&vmlinux).map_err(of_kernel)?;
    let modules = match modules {
        None => Vec::new(),
        Some(folder) => modules::select(folder, &release)?,
    };
    Ok(Kernel {
        vmlinux,
        release,
        modules,
        package,
    })
}
