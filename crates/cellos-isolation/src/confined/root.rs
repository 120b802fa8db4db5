//! The file system of a confined program: its files, its devices and nothing else.
//!
//! Landlock alone would not do, since it says nothing about connecting to sockets by their path:
//! the session bus of a user starts programs for whoever may speak to it. So there is a root in
//! which those paths do not exist.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
    process::{Gid, Uid},
};

use super::Order;
use crate::{
    launcher::IdentityMode,
    sys::{self, Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttributes},
};

/// Where the new root is put together. Every Linux system has this folder, and what is in it is
/// opened before it is covered.
const SITE: &str = "/tmp";

/// The program's own descriptors are opened anew by it. What else is there, Landlock denies.
const PROCESSES: &str = "/proc";

/// Devices that every program may use: they give and take nothing of the host's.
pub(super) const HARMLESS_DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

/// Size of the root and of its `/dev`: they hold folders and nodes.
const TMPFS_OPTIONS: &std::ffi::CStr = c"size=256k,nr_inodes=1024,mode=755";

/// What a mount below the new root allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Own,
    Device,
    Processes,
}

struct Part {
    path: PathBuf,
    source: OwnedFd,
    used: Use,
}

/// Makes a root with the files of `order` and goes into it. Needs a mount namespace of the
/// caller's own, without peers.
pub(super) fn enter(order: &Order, identity: IdentityMode, owner: (u32, u32)) -> io::Result<()> {
    let as_root = identity == IdentityMode::OwnUser;
    let mut parts = vec![part(Path::new(PROCESSES), Use::Processes)?];
    for path in order.readable.iter().filter(|path| path.exists()) {
        parts.push(part(path, Use::Read)?);
    }
    for path in &order.own {
        parts.push(part(path, Use::Own)?);
    }
    let devices = HARMLESS_DEVICES.iter().map(PathBuf::from);
    for path in devices.chain(order.devices.iter().cloned()) {
        parts.push(device(&path)?);
    }

    mount_tmpfs(Path::new(SITE), MountFlags::NODEV)?;
    if as_root {
        let folder = Path::new(SITE).join("dev");
        fs::create_dir(&folder)?;
        mount_tmpfs(&folder, MountFlags::empty())?;
    }
    for part in &parts {
        let placed = match (part.used, as_root) {
            (Use::Device, true) => make_node(part, owner),
            _ => bind(part),
        };
        placed.map_err(|error| about(&part.path, &error))?;
    }
    rustix::process::chdir(SITE)?;
    // The old root comes to lie upon the new one and is taken away, pivot_root(2).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    restrict(Path::new("/"), Depth::One, MOUNT_ATTR_RDONLY)
}

fn part(path: &Path, used: Use) -> io::Result<Part> {
    let source = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| about(path, &error.into()))?;
    let plain = path.is_absolute()
        && !path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
    if !plain {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path");
        return Err(about(path, &error));
    }
    Ok(Part {
        path: path.to_owned(),
        source,
        used,
    })
}

fn device(path: &Path) -> io::Result<Part> {
    let part = part(path, Use::Device)?;
    let status = rustix::fs::fstat(&part.source)?;
    let is_device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    if path.starts_with("/dev") && is_device {
        Ok(part)
    } else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a device below /dev");
        Err(about(path, &error))
    }
}

fn mount_tmpfs(at: &Path, flags: MountFlags) -> io::Result<()> {
    let flags = flags | MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(rustix::mount::mount(
        "cellos",
        at,
        "tmpfs",
        flags,
        TMPFS_OPTIONS,
    )?)
}

/// The place of a path below the site, with the folders on the way to it.
fn place(path: &Path) -> io::Result<PathBuf> {
    let target = Path::new(SITE).join(path.strip_prefix("/").unwrap_or(path));
    let mut folder = PathBuf::from(SITE);
    let parents = path.parent().into_iter().flat_map(Path::components).skip(1);
    for component in parents {
        folder.push(component);
        if !folder.exists() {
            fs::create_dir(&folder)?;
            // The umask has closed it, and the program's user has to pass.
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(target)
}

fn bind(part: &Part) -> io::Result<()> {
    let target = place(&part.path)?;
    if !target.exists() {
        let status = rustix::fs::fstat(&part.source)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => fs::create_dir(&target)?,
            _ => drop(fs::File::create(&target)?),
        }
    }
    let source = format!("/proc/self/fd/{}", part.source.as_raw_fd());
    rustix::mount::mount_bind_recursive(source, &target)?;
    match part.used {
        Use::Read => restrict(
            &target,
            Depth::Tree,
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        ),
        Use::Own => restrict(&target, Depth::Tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
        // Changing what others see there is not needed, and not allowed without root.
        Use::Device | Use::Processes => Ok(()),
    }
}

fn restrict(at: &Path, depth: Depth, set: u64) -> io::Result<()> {
    let mount = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let attributes = MountAttributes {
        set,
        ..MountAttributes::default()
    };
    sys::mount_setattr(mount.as_fd(), depth, &attributes)
}

/// As root: a node that belongs to the program's user, since the host's may not be open to it.
fn make_node(part: &Part, (uid, gid): (u32, u32)) -> io::Result<()> {
    let target = place(&part.path)?;
    let number = rustix::fs::fstat(&part.source)?.st_rdev;
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, &target, FileType::CharacterDevice, mode, number)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(
        CWD,
        &target,
        Some(uid),
        Some(gid),
        flags,
    )?)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
