//! Removes a folder that a hostile process may have filled.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, unlinkat},
    io::Errno,
};

/// How deep a jail may be. The jailer makes two levels; a deeper one was made to exhaust us.
const MAX_DEPTH: usize = 16;

/// Removes the folder `name` with all it holds, going from descriptor to descriptor: no link is
/// followed and no mount entered, whatever is renamed meanwhile. One that is gone is fine.
///
/// # Errors
/// The first thing that could not be removed; the others are tried all the same.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    remove_folder(parent, &name, 0)
}

fn remove_folder(parent: BorrowedFd<'_>, name: &CString, depth: usize) -> io::Result<()> {
    let folder = match open_folder(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| named(name, error))?,
    };
    if depth == MAX_DEPTH {
        return Err(io::Error::other(format!("{name:?} is too deep")));
    }
    let mut first = Ok(());
    for entry in Dir::read_from(&folder).map_err(|error| named(name, error))? {
        let entry = entry.map_err(|error| named(name, error))?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        let removed = if entry.file_type() == FileType::Directory {
            remove_folder(folder.as_fd(), &child.to_owned(), depth + 1)
        } else {
            absent_is_fine(unlinkat(&folder, child, AtFlags::empty()))
                .map_err(|error| named(child, error))
        };
        first = first.and(removed);
    }
    first?;
    absent_is_fine(unlinkat(parent, name, AtFlags::REMOVEDIR)).map_err(|error| named(name, error))
}

fn open_folder(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    openat2(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
    )
}

fn absent_is_fine(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn named(name: &std::ffi::CStr, error: Errno) -> io::Error {
    let source = io::Error::from(error);
    io::Error::new(
        source.kind(),
        format!("{}: {source}", name.to_string_lossy()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, fs::File};

    #[test]
    fn links_are_removed_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let jail = folder.path().join("jail");
        fs::create_dir_all(jail.join("a/b")).unwrap();
        fs::write(jail.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, jail.join("a/b/link")).unwrap();
        let parent = File::open(folder.path()).unwrap();
        remove_tree(parent.as_fd(), "jail").unwrap();
        assert!(!jail.exists());
        assert!(kept.join("file").exists());
        remove_tree(parent.as_fd(), "jail").unwrap();
        std::os::unix::fs::symlink(&kept, &jail).unwrap();
        remove_tree(parent.as_fd(), "jail").unwrap_err();
        assert!(kept.join("file").exists());
    }
}
