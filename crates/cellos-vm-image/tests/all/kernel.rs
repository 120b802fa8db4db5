//! Which modules are taken, and which kernels are refused.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use cellos_vm_image::{
    BaseSource, BundleReport, BundleSpec, ImageError, KernelError, KernelSource, ModuleError,
    build_bundle,
};
use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use crate::support::{Sources, kernel};

/// An ELF file with nothing but the section that describes a module.
fn module(release: &str, depends: &str) -> Vec<u8> {
    let information = format!("license=GPL\0depends={depends}\0vermagic={release} SMP\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    let first = elf.len();
    elf.extend_from_slice(information.as_bytes());
    let second = elf.len();
    elf.extend_from_slice(names);
    let table = elf.len();
    elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    elf[0x3c] = 3;
    elf[0x3e] = 2;
    for (name, start, size) in [
        (0_u32, 0, 0),
        (1, first, information.len()),
        (10, second, names.len()),
    ] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf
}

struct Kernel {
    folder: TempDir,
}

impl Kernel {
    /// The modules that a microVM needs, with some in other forms.
    fn new() -> Self {
        let kernel = Self {
            folder: TempDir::new().unwrap(),
        };
        fs::create_dir(kernel.path("root")).unwrap();
        fs::create_dir_all(kernel.path("modules/kernel/deep/down")).unwrap();
        for (name, depends) in [
            ("virtio_ring", ""),
            ("virtio", "virtio-ring"),
            ("virtio_mmio", "virtio,virtio_ring"),
            ("virtio_console", "virtio"),
            ("vmw_vsock_virtio_transport", "vsock"),
            ("vsock", ""),
            ("unneeded", ""),
            ("virtio-rng", "virtio"),
        ] {
            kernel.add(name, &module("6.1.0-test", depends));
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&module("6.1.0-test", "virtio")).unwrap();
        let packed = kernel.path("modules/kernel/deep/down/virtio_blk.ko.gz");
        fs::write(packed, gzip.finish().unwrap()).unwrap();
        let built_in = "kernel/fs/squashfs/squashfs.ko\n";
        fs::write(kernel.path("modules/modules.builtin"), built_in).unwrap();
        kernel
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, name: &str, content: &[u8]) {
        fs::write(
            self.path(&format!("modules/kernel/deep/{name}.ko")),
            content,
        )
        .unwrap();
    }

    fn build(&self) -> Result<BundleReport, ImageError> {
        self.build_with(&kernel())
    }

    fn build_with(&self, vmlinux: &[u8]) -> Result<BundleReport, ImageError> {
        let sources = Sources::new(self.folder.path());
        let file = self.path("vmlinux");
        fs::write(&file, vmlinux).unwrap();
        let source = KernelSource::Files {
            kernel: file,
            modules: Some(self.path("modules")),
        };
        let base = BaseSource::Directory(self.path("root"));
        let spec = BundleSpec {
            kernel: &source,
            ..sources.spec(&base)
        };
        build_bundle(&spec, &self.path("bundle"), &mut |_| ())
    }

    fn refused(&self) -> ModuleError {
        match self.build().unwrap_err() {
            ImageError::Module { source, .. } => source,
            other => panic!("{other}"),
        }
    }
}

fn position(list: &[String], name: &str) -> usize {
    list.iter()
        .position(|module| module == name)
        .unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

#[test]
fn modules_stand_after_what_they_need() {
    let kernel = Kernel::new();
    let report = kernel.build().unwrap();
    assert_eq!(report.kernel_release, "6.1.0-test");
    let list = &report.modules;
    for (first, second) in [
        ("virtio_ring", "virtio"),
        ("virtio", "virtio_mmio"),
        ("virtio", "virtio_blk"),
        ("vsock", "vmw_vsock_virtio_transport"),
    ] {
        assert!(position(list, first) < position(list, second), "{list:?}");
    }
    // Each once, none that is built in or not needed, and the optional one that is there.
    assert_eq!(list.len(), 8, "{list:?}");
    position(list, "virtio_rng");
    let initrd = fs::read(kernel.path("bundle/initrd")).unwrap();
    let names: String = list.iter().map(|name| format!("{name}.ko\n")).collect();
    assert!(
        initrd
            .windows(names.len())
            .any(|part| part == names.as_bytes())
    );
    let uncompressed = module("6.1.0-test", "virtio");
    let copies = initrd
        .windows(uncompressed.len())
        .filter(|part| *part == uncompressed)
        .count();
    assert_eq!(copies, 3, "console, blk and rng");
}

#[test]
fn modules_that_cannot_be_used_are_refused() {
    type Change = fn(&Kernel);
    type Expected = fn(&ModuleError) -> bool;
    let cases: [(Change, Expected); 5] = [
        (
            |kernel| kernel.add("vsock", &module("6.1.0-other", "")),
            |error| matches!(error, ModuleError::Version { found, .. } if found == "6.1.0-other"),
        ),
        (
            |kernel| kernel.add("vsock", &module("6.1.0-test", "absent")),
            |error| matches!(error, ModuleError::Missing { name } if name == "absent"),
        ),
        (
            |kernel| kernel.add("virtio_ring", &module("6.1.0-test", "virtio")),
            |error| matches!(error, ModuleError::Circle { .. }),
        ),
        (
            |kernel| kernel.add("vsock", b"no module"),
            |error| matches!(error, ModuleError::NotAModule { .. }),
        ),
        (
            |kernel| kernel.add("vsock", b"\x1f\x8b broken"),
            |error| matches!(error, ModuleError::Decompress { .. }),
        ),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let kernel = Kernel::new();
        change(&kernel);
        let error = kernel.refused();
        assert!(expected(&error), "case {index}: {error}");
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    let kernel = Kernel::new();
    let error = kernel.build_with(b"MZ").unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Kernel {
                source: KernelError::NotAKernel,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_folder_in_place_of_the_kernel_is_refused() {
    let kernel = Kernel::new();
    let sources = Sources::new(kernel.folder.path());
    let source = KernelSource::Files {
        kernel: Path::new("/proc").to_path_buf(),
        modules: None,
    };
    let base = BaseSource::Directory(kernel.path("root"));
    let spec = BundleSpec {
        kernel: &source,
        ..sources.spec(&base)
    };
    let error = build_bundle(&spec, &kernel.path("bundle"), &mut |_| ()).unwrap_err();
    assert!(matches!(error, ImageError::NotAFile { .. }), "{error}");
}
