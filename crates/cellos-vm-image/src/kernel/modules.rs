//! The modules that the guest loads, in an order in which each finds what it needs.
//!
//! Dependencies are read from the modules themselves (`depends=` in `.modinfo`, which the kernel's
//! build writes and `depmod` confirms), because a package's folder has no `modules.dep` before it
//! is installed.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::elf;
use crate::{
    ImageError,
    compression::{Compression, DecompressError, decompress},
    file,
};

/// Modules without which a cell cannot start: the transport and the devices of a microVM, and the
/// base's file system.
pub const REQUIRED_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "squashfs",
];

/// Modules that are taken where the kernel has them: entropy early after boot, and a network device.
pub const OPTIONAL_MODULES: &[&str] = &["virtio_rng", "virtio_net"];

/// Most module files in one folder: Debian's largest kernel has about 4000.
pub const MAX_MODULE_FILES: usize = 20_000;

/// Deepest folder that modules are looked for in; Debian's are 7 deep.
const MAX_FOLDER_DEPTH: usize = 16;

/// Largest uncompressed module, in bytes; the largest of Debian, a display driver, has 15 MB.
pub const MAX_MODULE_BYTES: u64 = 64 * 1024 * 1024;

/// Largest list of built-in modules, in bytes; Debian's has 15 kB.
const MAX_LIST_BYTES: u64 = 1024 * 1024;

/// Most modules that are loaded together.
const MAX_SELECTED: usize = 256;

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// There is no such module.
    #[error("no module {name}, and it is not built in")]
    Missing {
        /// Name of the module.
        name: String,
    },
    /// Modules need each other in a circle.
    #[error("module {name} needs itself")]
    Circle {
        /// Name of a module of the circle.
        name: String,
    },
    /// There are too many modules.
    #[error("more than {limit} modules")]
    TooMany {
        /// The most there may be.
        limit: usize,
    },
    /// The folder is too deep.
    #[error("more than {MAX_FOLDER_DEPTH} folders deep")]
    TooDeep,
    /// The file is no module.
    #[error("{name} is no kernel module: it has no .modinfo")]
    NotAModule {
        /// Name of the module.
        name: String,
    },
    /// The module is for another kernel.
    #[error("module {name} is for kernel {found:?}, not for {expected:?}")]
    Version {
        /// Name of the module.
        name: String,
        /// The version it is for.
        found: String,
        /// The version of the kernel.
        expected: String,
    },
    /// The module cannot be decompressed.
    #[error("module {name}: {source}")]
    Decompress {
        /// Name of the module.
        name: String,
        /// Why.
        source: DecompressError,
    },
}

/// A module to load.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its name, with underscores.
    pub(crate) name: String,
    /// The uncompressed ELF file.
    pub(crate) content: Vec<u8>,
}

/// The modules that the guest loads, from a folder as `/lib/modules/VERSION`.
pub(super) fn select(folder: &Path, release: &str) -> Result<Vec<Module>, ImageError> {
    let mut selection = Selection {
        folder,
        release,
        files: files(folder)?,
        built_in: built_in(folder)?,
        visiting: Vec::new(),
        modules: Vec::new(),
    };
    for name in REQUIRED_MODULES {
        selection.add(name)?;
    }
    for name in OPTIONAL_MODULES {
        if selection.files.contains_key(*name) {
            selection.add(name)?;
        }
    }
    Ok(selection.modules)
}

struct Selection<'a> {
    folder: &'a Path,
    release: &'a str,
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    visiting: Vec<String>,
    modules: Vec<Module>,
}

impl Selection<'_> {
    /// Adds a module after everything that it needs.
    fn add(&mut self, name: &str) -> Result<(), ImageError> {
        let taken = self.modules.iter().any(|module| module.name == name);
        if taken || self.built_in.iter().any(|built_in| built_in == name) {
            return Ok(());
        }
        if self.visiting.iter().any(|visited| visited == name) {
            return Err(self.error(ModuleError::Circle { name: name.into() }));
        }
        if self.modules.len() + self.visiting.len() >= MAX_SELECTED {
            return Err(self.error(ModuleError::TooMany {
                limit: MAX_SELECTED,
            }));
        }
        let Some(path) = self.files.get(name) else {
            return Err(self.error(ModuleError::Missing { name: name.into() }));
        };
        let content = self.content(name, path)?;
        let needed = self.needed(name, &content)?;
        self.visiting.push(name.to_owned());
        for other in needed {
            self.add(&other)?;
        }
        self.visiting.pop();
        self.modules.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }

    fn content(&self, name: &str, path: &Path) -> Result<Vec<u8>, ImageError> {
        let data = file::read(path, MAX_MODULE_BYTES)?;
        match Compression::detect(&data) {
            None => Ok(data),
            Some(compression) => {
                decompress(compression, &data, MAX_MODULE_BYTES).map_err(|source| {
                    self.error(ModuleError::Decompress {
                        name: name.to_owned(),
                        source,
                    })
                })
            }
        }
    }

    /// The modules that one needs, after checking that it is for this kernel.
    fn needed(&self, name: &str, content: &[u8]) -> Result<Vec<String>, ImageError> {
        let information = elf::section(content, b".modinfo").ok_or_else(|| {
            self.error(ModuleError::NotAModule {
                name: name.to_owned(),
            })
        })?;
        let field = |key: &[u8]| {
            information
                .split(|byte| *byte == 0)
                .find_map(|entry| entry.strip_prefix(key))
                .map(String::from_utf8_lossy)
                .unwrap_or_default()
        };
        let magic = field(b"vermagic=");
        let found = magic.split(' ').next().unwrap_or_default();
        if found != self.release {
            return Err(self.error(ModuleError::Version {
                name: name.to_owned(),
                found: found.to_owned(),
                expected: self.release.to_owned(),
            }));
        }
        Ok(field(b"depends=")
            .split(',')
            .filter(|other| !other.is_empty())
            .map(normal_name)
            .collect())
    }

    fn error(&self, source: ModuleError) -> ImageError {
        ImageError::Module {
            path: self.folder.to_path_buf(),
            source,
        }
    }
}

/// The module files below a folder, by name. Symbolic links, as `build`, are not followed.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ImageError> {
    let error = |source| ImageError::Module {
        path: folder.to_path_buf(),
        source,
    };
    let mut files = BTreeMap::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((here, depth)) = folders.pop() {
        let entries = fs::read_dir(&here).map_err(ImageError::io("list", &here))?;
        for entry in entries {
            let entry = entry.map_err(ImageError::io("list", &here))?;
            let kind = entry
                .file_type()
                .map_err(ImageError::io("examine", entry.path()))?;
            if kind.is_dir() {
                if depth >= MAX_FOLDER_DEPTH {
                    return Err(error(ModuleError::TooDeep));
                }
                folders.push((entry.path(), depth + 1));
            } else if let Some(name) = kind
                .is_file()
                .then(|| module_name(&entry.file_name()))
                .flatten()
            {
                files.insert(name, entry.path());
                if files.len() > MAX_MODULE_FILES {
                    return Err(error(ModuleError::TooMany {
                        limit: MAX_MODULE_FILES,
                    }));
                }
            }
        }
    }
    Ok(files)
}

/// The names of the modules that are part of the kernel; none where there is no list.
fn built_in(folder: &Path) -> Result<Vec<String>, ImageError> {
    let list = match file::read(&folder.join("modules.builtin"), MAX_LIST_BYTES) {
        Ok(list) => list,
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&list)
        .lines()
        .filter_map(|line| module_name(Path::new(line).file_name()?))
        .collect())
}

/// The name of the module in a file, as `virtio_rng` for `virtio-rng.ko.xz`.
fn module_name(file: &OsStr) -> Option<String> {
    let file = file.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| normal_name(name))
}

/// The kernel takes both characters for the same.
fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_under_every_suffix() {
        for file in ["virtio-rng.ko", "virtio_rng.ko.xz", "virtio-rng.ko.zst"] {
            assert_eq!(module_name(OsStr::new(file)).unwrap(), "virtio_rng");
        }
        for file in ["modules.dep", "a.ko.bak", "a.o"] {
            assert_eq!(module_name(OsStr::new(file)), None);
        }
    }
}
