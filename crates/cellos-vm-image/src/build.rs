//! Making a bundle.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use cellos_core::{
    signing::Signer,
    vm_manifest::{self, Manifest, ManifestEntry, Role},
};

use crate::{
    ImageError, Progress,
    base::{self, BaseSource},
    debian::DebianPackage,
    initrd,
    kernel::{self, KernelSource},
    opened::BundleFile,
    publish::{Existing, Staging},
    squashfs,
};

/// The uncompressed ELF kernel.
pub const KERNEL_FILE: &str = "kernel";

/// The initial RAM disk.
pub const INITRD_FILE: &str = "initrd";

/// The read-only root file system.
pub const BASE_FILE: &str = "base";

/// The digests of the bundle's files.
pub const MANIFEST_FILE: &str = "manifest";

/// Who vouches for the manifest.
pub const SIGNATURE_FILE: &str = "manifest.sig";

/// What goes into a bundle.
#[derive(Clone, Copy)]
pub struct BundleSpec<'a> {
    /// Where the kernel and its modules come from.
    pub kernel: &'a KernelSource,
    /// Where the files of the read-only base come from.
    pub base: &'a BaseSource,
    /// The guest program: a static ELF program for `x86_64`, which becomes `/init`.
    pub guest_binary: &'a Path,
    /// Programs of the host that the manifest is to pin.
    pub programs: &'a [PinnedProgram],
    /// Who signs the manifest; `None` leaves it unsigned, and it is then used only where that is
    /// allowed.
    pub signer: Option<&'a dyn Signer>,
    /// What becomes of a bundle that stands in the place already.
    pub existing: Existing,
}

/// A program of the host whose digest stands in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedProgram {
    /// What it is: `firecracker`, `jailer` or `qemu`.
    pub role: Role,
    /// Where it is, absolute.
    pub path: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleReport {
    /// Where it is.
    pub folder: PathBuf,
    /// The version of the kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// The modules in the initial RAM disk, in the order they are loaded.
    pub modules: Vec<String>,
    /// The Debian packages that were used.
    pub packages: Vec<DebianPackage>,
    /// What the manifest names.
    pub files: Vec<BundleFile>,
    /// Id of the key that signed the manifest.
    pub signer_kid: Option<String>,
}

/// Makes a bundle at `target`. Either all of it comes to be there, or nothing.
///
/// # Errors
/// [`ImageError`]; what was written on the way is removed.
pub fn build_bundle(
    spec: &BundleSpec<'_>,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BundleReport, ImageError> {
    let staging = Staging::new(target, spec.existing)?;
    let (folder, scratch) = (staging.bundle(), staging.scratch());

    let kernel = kernel::load(spec.kernel, &scratch, progress)?;
    write(&folder.join(KERNEL_FILE), &kernel.vmlinux)?;
    progress(Progress::WritingInitrd);
    initrd::write(
        &folder.join(INITRD_FILE),
        spec.guest_binary,
        &kernel.modules,
    )?;
    let base = base::load(spec.base, &scratch, progress)?;
    progress(Progress::WritingBase);
    squashfs::write(&folder.join(BASE_FILE), &base.tree, &base.spool)?;

    progress(Progress::WritingManifest);
    let packages: Vec<DebianPackage> = kernel.package.into_iter().chain(base.package).collect();
    let files = files(&folder, spec.programs)?;
    let manifest = manifest(&files, &packages)?;
    write(&folder.join(MANIFEST_FILE), manifest.as_bytes())?;
    if let Some(signer) = spec.signer {
        let signature = vm_manifest::sign(manifest.as_bytes(), signer)?;
        write(&folder.join(SIGNATURE_FILE), &signature)?;
    }
    staging.publish()?;

    let modules = kernel.modules.into_iter().map(|module| module.name);
    let in_place = |file: BundleFile| match file.path.strip_prefix(&folder) {
        Ok(name) => BundleFile {
            path: target.join(name),
            ..file
        },
        Err(_) => file,
    };
    Ok(BundleReport {
        folder: target.to_path_buf(),
        kernel_release: kernel.release,
        modules: modules.collect(),
        packages,
        files: files.into_iter().map(in_place).collect(),
        signer_kid: spec.signer.map(|signer| signer.kid().to_owned()),
    })
}

/// The files that the manifest names, with their digests.
fn files(folder: &Path, programs: &[PinnedProgram]) -> Result<Vec<BundleFile>, ImageError> {
    let own = [
        (Role::Kernel, KERNEL_FILE),
        (Role::Rootfs, BASE_FILE),
        (Role::Initrd, INITRD_FILE),
    ]
    .map(|(role, name)| (role, folder.join(name)));
    for program in programs {
        match program.role {
            Role::Firecracker | Role::Jailer | Role::Qemu => {}
            role @ (Role::Kernel | Role::Rootfs | Role::Initrd) => {
                return Err(ImageError::PinnedRole { role });
            }
        }
        if !program.path.is_absolute() {
            return Err(ImageError::PinnedPath {
                path: program.path.clone(),
            });
        }
    }
    let pinned = programs
        .iter()
        .map(|program| (program.role, program.path.clone()));
    own.into_iter()
        .chain(pinned)
        .map(|(role, path)| BundleFile::of(role, path))
        .collect()
}

fn manifest(files: &[BundleFile], packages: &[DebianPackage]) -> Result<String, ImageError> {
    let entries = files.iter().map(|file| {
        let path = match file.role {
            Role::Kernel => KERNEL_FILE,
            Role::Rootfs => BASE_FILE,
            Role::Initrd => INITRD_FILE,
            Role::Firecracker | Role::Jailer | Role::Qemu => {
                file.path.to_str().ok_or_else(|| ImageError::PinnedPath {
                    path: file.path.clone(),
                })?
            }
        };
        Ok(ManifestEntry {
            role: file.role,
            digest: file.digest,
            path: path.to_owned(),
        })
    });
    let manifest = Manifest::new(entries.collect::<Result<Vec<_>, ImageError>>()?)?;
    let mut text = String::from("# CellOS microVM bundle\n");
    for package in packages {
        let DebianPackage {
            name,
            version,
            digest,
        } = package;
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "# from Debian package {name} {version} {digest}");
    }
    text.push_str(&manifest.to_string());
    Ok(text)
}

/// Writes a new file, and waits until it is on disk.
fn write(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(ImageError::io("write", path))
}
