//! Opens the sources of declared mounts with the launcher's rights, before the cell exists.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use cellos_core::document::{Mount, MountAccess};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use super::identity;
use crate::{
    protocol::Failure,
    sys::{Depth, MOUNT_ATTR_IDMAP, MS_PRIVATE, MountAttributes, mount_setattr},
};

/// A source that was opened, not yet mapped to a cell.
pub(super) struct Source {
    mount: Mount,
    descriptor: OwnedFd,
    stat: Stat,
}

impl Source {
    /// Whether it is a folder, and not a regular file.
    pub(super) fn is_folder(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Opens every source. A symbolic link anywhere in its path is refused, because whoever can
/// change the link would decide what the cell sees.
pub(super) fn open_all(mounts: &[Mount]) -> Result<Vec<Source>, Failure> {
    mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| open(index, mount))
        .collect()
}

fn open(index: usize, mount: &Mount) -> Result<Source, Failure> {
    let refuse = |why: String| {
        Failure::InvalidSpec(format!(
            "spec.authority.filesystem.mounts[{index}].source: {:?} {why}",
            mount.source
        ))
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let descriptor = openat2(CWD, &mount.source, flags, Mode::empty(), resolve).map_err(
        |error| match error {
            Errno::LOOP => {
                refuse("has a symbolic link in its path; give the path it leads to".to_owned())
            }
            Errno::NOENT => refuse("does not exist on this host".to_owned()),
            error => refuse(format!("cannot be opened: {error}")),
        },
    )?;
    let stat = fstat(&descriptor).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory | FileType::RegularFile => {}
        _ => return Err(refuse("is neither a folder nor a regular file".to_owned())),
    }
    Ok(Source {
        mount: mount.clone(),
        descriptor,
        stat,
    })
}

/// Maps the sources to a cell that is a host user of its own: the owner of a source appears as
/// the cell's user, and everybody else as nobody.
pub(super) fn map_all(sources: &[Source], host_ids: (u32, u32)) -> Result<Vec<OwnedFd>, Failure> {
    sources.iter().map(|source| map(source, host_ids)).collect()
}

fn map(source: &Source, host_ids: (u32, u32)) -> Result<OwnedFd, Failure> {
    match map_tree(source, host_ids) {
        Ok(tree) => Ok(tree),
        // Read-only without the map is less than was asked for, never more: what only the owner
        // may read stays unreadable.
        Err(error)
            if error.raw_os_error() == Some(libc::EINVAL)
                && source.mount.access == MountAccess::Ro =>
        {
            open_source_tree(source).map_err(|error| host(source, &error))
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(Failure::Host(format!(
            "mount {:?}: its file system has no id-mapped mounts, which writing as another user \
             needs; use a folder on ext4, xfs, btrfs or tmpfs, mount it `ro`, or run without root",
            source.mount.source
        ))),
        Err(error) => Err(host(source, &error)),
    }
}

fn map_tree(source: &Source, host_ids: (u32, u32)) -> io::Result<OwnedFd> {
    let tree = open_source_tree(source)?;
    let owner = (source.stat.st_uid, source.stat.st_gid);
    let namespace = identity::mapping_namespace(owner, host_ids)?;
    let attributes = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
        ..MountAttributes::default()
    };
    mount_setattr(tree.as_fd(), Depth::Tree, &attributes)?;
    Ok(tree)
}

fn open_source_tree(source: &Source) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&source.descriptor, "", flags)?;
    // The clone of a shared mount is its peer (mount_namespaces(7)): what is mounted on it would
    // appear on the host, and what the host mounts later would appear in the cell.
    let private = MountAttributes {
        propagation: MS_PRIVATE,
        ..MountAttributes::default()
    };
    mount_setattr(tree.as_fd(), Depth::Tree, &private)?;
    Ok(tree)
}

fn host(source: &Source, error: &io::Error) -> Failure {
    Failure::Host(format!("mount {:?}: {error}", source.mount.source))
}
