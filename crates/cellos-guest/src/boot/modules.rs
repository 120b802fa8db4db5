//! Modules of the kernel that the initial RAM disk brings.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use rustix::io::Errno;

use super::{BootError, Step as _, command_line::module_parameters};

/// Where the initial RAM disk has its modules.
pub const MODULES_FOLDER: &str = "/modules";

/// The list of files in that folder, one name on each line, in the order to load them.
pub const MODULES_LIST: &str = "modules.order";

/// Most modules that are loaded; a machine needs about 15.
pub const MAX_MODULES: usize = 256;

/// Largest list, in bytes: every module with a name of the longest kind.
const MAX_LIST_BYTES: u64 = (MAX_MODULES * 256) as u64;

/// Loads every module of the list, with what the kernel's command line says to it, and removes the
/// folder, whose files take memory. A kernel that needs none has no folder.
pub(super) fn load_all(folder: &Path, command_line: &str) -> Result<(), BootError> {
    let list = folder.join(MODULES_LIST);
    let text = match read(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.on("read", &list)?,
    };
    let names = parse(&text).map_err(|problem| BootError::ModuleList {
        path: list,
        problem,
    })?;
    for name in names {
        load(&folder.join(name), command_line).map_err(|source| BootError::Module {
            name: name.to_owned(),
            source,
        })?;
    }
    // Only memory is at stake.
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

fn read(list: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed shows a list that is longer.
    File::open(list)?
        .take(MAX_LIST_BYTES + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The names of a list.
fn parse(text: &str) -> Result<Vec<&str>, String> {
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > MAX_LIST_BYTES) {
        return Err(format!("has more than {MAX_LIST_BYTES} bytes"));
    }
    let names: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    if names.len() > MAX_MODULES {
        return Err(format!(
            "has {} names, at most {MAX_MODULES} are allowed",
            names.len()
        ));
    }
    match names
        .iter()
        .find(|name| name.contains('/') || name.starts_with('.'))
    {
        Some(name) => Err(format!("{name:?} is not the name of a module's file")),
        None => Ok(names),
    }
}

fn load(path: &Path, command_line: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let module = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let parameters = CString::new(module_parameters(command_line, module))?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        // Built into this kernel, or loaded for another that needs it.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use cellos_testkit::{require, test_name};

    use super::*;
    use crate::boot::namespaces::{Namespaces, inside};

    #[test]
    fn a_list_is_names_in_their_order() {
        assert_eq!(
            parse("virtio_ring.ko\nvirtio.ko\n\nsquashfs.ko").unwrap(),
            ["virtio_ring.ko", "virtio.ko", "squashfs.ko"]
        );
    }

    #[test]
    fn a_list_with_paths_or_too_many_names_is_refused() {
        for text in ["../a.ko", "/a.ko", "a/b.ko", "a.ko\n..\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"a\n".repeat(MAX_MODULES)).is_ok());
        assert!(parse(&"a\n".repeat(MAX_MODULES + 1)).is_err());
    }

    #[test]
    fn a_machine_without_modules_needs_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        load_all(&folder.path().join("none"), "").unwrap();
    }

    #[test]
    fn a_missing_module_is_named_and_the_folder_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MODULES_LIST), "absent.ko\n").unwrap();
        let error = load_all(folder.path(), "").unwrap_err();
        assert!(
            matches!(&error, BootError::Module { name, .. } if name == "absent.ko"),
            "{error}"
        );
        assert!(folder.path().exists());
    }

    #[test]
    fn the_first_module_that_the_kernel_refuses_is_named() {
        require!("userns");
        // Where it refuses every module, whoever runs this.
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            fs::write(folder.join(MODULES_LIST), "first.ko\nsecond.ko\n").unwrap();
            for name in ["first.ko", "second.ko"] {
                fs::write(folder.join(name), "not a module").unwrap();
            }
            let error = load_all(folder, "first.parameter=1").unwrap_err();
            assert!(
                matches!(&error, BootError::Module { name, .. } if name == "first.ko"),
                "{error}"
            );
            assert!(folder.join("second.ko").exists());
        });
    }

    #[test]
    fn a_list_that_cannot_be_one_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join(MODULES_LIST);
        let longest = usize::try_from(MAX_LIST_BYTES).unwrap();
        for text in [b"a/b.ko".to_vec(), vec![b'a'; longest + 1]] {
            fs::write(&list, text).unwrap();
            let error = load_all(folder.path(), "").unwrap_err();
            assert!(
                matches!(&error, BootError::ModuleList { path, .. } if *path == list),
                "{error}"
            );
        }
        // Not text; and then not even a file.
        fs::write(&list, [0xff, 0xfe]).unwrap();
        let refused = || {
            matches!(
                load_all(folder.path(), ""),
                Err(BootError::File { operation: "read", path, .. }) if path == list
            )
        };
        assert!(refused());
        fs::remove_file(&list).unwrap();
        fs::create_dir(&list).unwrap();
        assert!(refused());
    }

    #[test]
    fn the_folder_of_an_empty_list_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(modules.join(MODULES_LIST), "\n").unwrap();
        fs::write(modules.join("unused.ko"), "").unwrap();
        load_all(&modules, "").unwrap();
        assert!(!modules.exists());
    }
}
