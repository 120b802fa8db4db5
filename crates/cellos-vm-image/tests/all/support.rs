//! Made-up kernels, modules and layers, and reading images back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use backhand::{FilesystemReader, InnerNode};
use cellos_core::signing::{Signer, TrustVerifyKeys};
use cellos_vm_image::{
    BASE_FILE, BaseSource, BundleReport, BundleSpec, Existing, ImageError, KernelSource,
    build_bundle,
};

/// Whether a program can be run.
pub(crate) fn runs(program: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// The keyring with the key of one signer.
pub(crate) fn keys_of(signer: &dyn Signer) -> TrustVerifyKeys {
    [(signer.kid().to_owned(), signer.verifying_key())]
        .into_iter()
        .collect()
}

/// The head of an ELF file for `x86_64`, and what follows it.
pub(crate) fn elf(content: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf.extend_from_slice(content);
    elf
}

/// What a kernel of the made-up version 6.1.0-test looks like.
pub(crate) fn kernel() -> Vec<u8> {
    elf(b"Linux version 6.1.0-test (x@y) #1")
}

/// A folder with a kernel and a guest program.
pub(crate) struct Sources {
    pub(crate) kernel: KernelSource,
    pub(crate) guest: PathBuf,
}

impl Sources {
    pub(crate) fn new(folder: &Path) -> Self {
        let kernel_file = folder.join("vmlinux");
        let guest = folder.join("guest");
        fs::write(&kernel_file, kernel()).unwrap();
        fs::write(&guest, elf(b"guest program")).unwrap();
        Self {
            kernel: KernelSource::Files {
                kernel: kernel_file,
                modules: None,
            },
            guest,
        }
    }

    pub(crate) fn spec<'a>(&'a self, base: &'a BaseSource) -> BundleSpec<'a> {
        BundleSpec {
            kernel: &self.kernel,
            base,
            guest_binary: &self.guest,
            programs: &[],
            signer: None,
            existing: Existing::Keep,
        }
    }
}

/// Makes a bundle from a base, in a folder that it is alone in.
pub(crate) fn bundle_of(base: &BaseSource, target: &Path) -> Result<BundleReport, ImageError> {
    let folder = tempfile::TempDir::new().unwrap();
    let sources = Sources::new(folder.path());
    build_bundle(&sources.spec(base), target, &mut |_| ())
}

/// What stands at a path of an image: `d755 0:0`, `f644 0:0 content` or `l777 0:0 target`.
pub(crate) fn image(bundle: &Path) -> BTreeMap<String, String> {
    let file = BufReader::new(File::open(bundle.join(BASE_FILE)).unwrap());
    let reader = FilesystemReader::from_reader(file).unwrap();
    reader
        .files()
        .map(|node| {
            let header = node.header;
            assert_eq!(header.mtime, 0);
            let (kind, rest) = match &node.inner {
                InnerNode::Dir(_) => ('d', String::new()),
                InnerNode::Symlink(link) => ('l', format!(" {}", link.link.display())),
                InnerNode::File(file) => {
                    let mut content = String::new();
                    reader
                        .file(file)
                        .reader()
                        .read_to_string(&mut content)
                        .unwrap();
                    ('f', format!(" {content}"))
                }
                _ => panic!("{} is special", node.fullpath.display()),
            };
            let text = format!(
                "{kind}{:o} {}:{}{rest}",
                header.permissions, header.uid, header.gid
            );
            (node.fullpath.display().to_string(), text)
        })
        .collect()
}
