//! A base from a directory of the host.
//!
//! Each directory is opened from the one above it without following a symbolic link, so what is
//! read lies below the directory that was named, whatever changes meanwhile.

use std::{fs::File, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{Base, BaseError, content_error};
use crate::tree::{Directory, Metadata, Node, TreePath, symlink};

/// The bits of a mode that stay: permissions and the sticky bit.
const KEPT_MODE: u32 = 0o1777;

/// Mode of what is only read.
const NO_MODE: Mode = Mode::empty();

/// Puts everything in a directory into the base.
pub(super) fn load(base: &mut Base, folder: &Path) -> Result<(), BaseError> {
    let root = TreePath::parse(b"")?;
    let error = |errno| io_error(folder, &root, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(folder, flags, NO_MODE).map_err(error)?;
    let metadata = metadata(fs::fstat(&directory).map_err(error)?.st_mode);
    base.tree
        .insert(&root, Node::Directory(Directory::new(metadata)))?;
    walk(base, folder, &root, &directory)
}

fn walk(
    base: &mut Base,
    folder: &Path,
    here: &TreePath,
    directory: &OwnedFd,
) -> Result<(), BaseError> {
    let error = |errno| io_error(folder, here, errno);
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    for name in names {
        let path = here.join(std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes()))?;
        let error = |errno| io_error(folder, &path, errno);
        let stat = fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = fs::openat(directory, &name, flags, NO_MODE).map_err(error)?;
                let node = Node::Directory(Directory::new(metadata(stat.st_mode)));
                base.tree.insert(&path, node)?;
                walk(base, folder, &path, &child)?;
            }
            FileType::RegularFile => {
                // A FIFO that took the file's place must not block.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::openat(directory, &name, flags, NO_MODE).map_err(error)?;
                let stat = fs::fstat(&file).map_err(error)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind != FileType::RegularFile {
                    return Err(special(folder, &path, kind));
                }
                let content = base
                    .spool
                    .append(File::from(file))
                    .map_err(|source| content_error(folder.join(path.to_path()), source))?;
                let metadata = metadata(stat.st_mode);
                base.tree.insert(&path, Node::File { metadata, content })?;
            }
            FileType::Symlink => {
                let target = fs::readlinkat(directory, &name, Vec::new()).map_err(error)?;
                let node = symlink(&path, metadata(stat.st_mode), target.into_bytes())?;
                base.tree.insert(&path, node)?;
            }
            kind => return Err(special(folder, &path, kind)),
        }
    }
    Ok(())
}

fn metadata(mode: u32) -> Metadata {
    Metadata {
        mode: u16::try_from(mode & KEPT_MODE).unwrap_or_default(),
        uid: 0,
        gid: 0,
    }
}

fn special(folder: &Path, path: &TreePath, kind: FileType) -> BaseError {
    BaseError::Special {
        path: folder.join(path.to_path()),
        kind: match kind {
            FileType::CharacterDevice | FileType::BlockDevice => "device nodes",
            FileType::Fifo => "FIFOs",
            FileType::Socket => "sockets",
            _ => "files of an unknown kind",
        },
    }
}

fn io_error(folder: &Path, path: &TreePath, errno: Errno) -> BaseError {
    BaseError::Io {
        path: folder.join(path.to_path()),
        source: errno.into(),
    }
}
