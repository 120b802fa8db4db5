//! Removes a folder that a hostile process may have filled.

use std::{
    collections::hash_map::RandomState,
    ffi::{CStr, CString},
    hash::{BuildHasher as _, Hasher as _},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat},
    io::Errno,
};

/// How deep the removal goes at once, each level with a descriptor. The jailer makes two levels.
/// What lies deeper, and was made to exhaust us, is moved up first.
const MAX_DEPTH: usize = 16;

/// Removes a folder as [`remove_tree`] does, by its path.
///
/// # Errors
/// As [`remove_tree`]; `NotFound` where there is none, `InvalidInput` for what is no path of a folder.
pub(crate) fn remove_folder_at(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    path.symlink_metadata()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    remove_tree(parent.as_fd(), name)
}

/// Removes the folder `name` with all it holds, going from descriptor to descriptor: no link is
/// followed and no mount entered. One that is gone is fine.
///
/// # Errors
/// The first thing that could not be removed; the others are tried all the same.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    let top = match open_folder(parent, &name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| named(&name, error))?,
    };
    while empty(&top, &top, 0)? == Left::MovedUp {}
    absent_is_fine(unlinkat(parent, &name, AtFlags::REMOVEDIR)).map_err(|error| named(&name, error))
}

/// What is left in a folder that was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Something was too deep, and is now in the topmost folder.
    MovedUp,
}

fn empty(folder: &OwnedFd, top: &OwnedFd, depth: usize) -> io::Result<Left> {
    let mut left = Left::Nothing;
    let mut first = Ok(());
    let unreadable = |error| named(c"a folder of the jail", error);
    for entry in Dir::read_from(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        let removed = if entry.file_type() == FileType::Directory {
            remove_folder(folder, child, top, depth)
        } else {
            absent_is_fine(unlinkat(folder, child, AtFlags::empty()))
                .map(|()| Left::Nothing)
                .map_err(|error| named(child, error))
        };
        match removed {
            Ok(Left::Nothing) => {}
            Ok(Left::MovedUp) => left = Left::MovedUp,
            Err(error) => first = first.and(Err(error)),
        }
    }
    first.map(|()| left)
}

fn remove_folder(parent: &OwnedFd, name: &CStr, top: &OwnedFd, depth: usize) -> io::Result<Left> {
    let failed = |error| named(name, error);
    let folder = open_folder(parent.as_fd(), name).map_err(failed)?;
    let left = if depth < MAX_DEPTH {
        empty(&folder, top, depth + 1)?
    } else {
        // A name that whoever filled the jail could not know.
        let free = format!("{:016x}", RandomState::new().build_hasher().finish());
        renameat(parent, name, top, free).map_err(failed)?;
        return Ok(Left::MovedUp);
    };
    unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
    Ok(left)
}

fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
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

fn named(name: &CStr, error: Errno) -> io::Error {
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

    #[test]
    fn depth_does_not_keep_a_folder_from_being_removed() {
        let folder = tempfile::tempdir().unwrap();
        let parent = File::open(folder.path()).unwrap();
        // Deeper than a path may be long, as a hostile process can make it.
        let mut at = std::os::fd::OwnedFd::from(parent.try_clone().unwrap());
        for name in std::iter::once("jail").chain(std::iter::repeat_n("d", 3000)) {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "beside", Mode::RWXU).ok();
            at = open_folder(at.as_fd(), &CString::new(name).unwrap()).unwrap();
        }
        remove_tree(parent.as_fd(), "jail").unwrap();
        assert!(!folder.path().join("jail").exists());
    }
}
