//! The kernel's own file systems.

use std::{ffi::CStr, fs, io, path::Path};

use rustix::{io::Errno, mount::MountFlags};

use super::{BootError, Step as _};

/// A file system that the kernel makes.
struct Virtual {
    kind: &'static str,
    place: &'static str,
    flags: MountFlags,
    options: Option<&'static CStr>,
}

const NOTHING_RUNS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// In this order: later ones lie in earlier ones.
const KERNEL_FILE_SYSTEMS: &[Virtual] = &[
    Virtual {
        kind: "devtmpfs",
        place: "/dev",
        flags: NOTHING_RUNS,
        options: Some(c"mode=0755"),
    },
    Virtual {
        kind: "proc",
        place: "/proc",
        flags: NOTHING_RUNS.union(MountFlags::NODEV),
        // Cells have a `/proc` of their own; this is for a process that came out of one.
        options: Some(c"hidepid=invisible"),
    },
    Virtual {
        kind: "sysfs",
        place: "/sys",
        flags: NOTHING_RUNS
            .union(MountFlags::NODEV)
            .union(MountFlags::RDONLY),
        options: None,
    },
    Virtual {
        kind: "cgroup2",
        place: "/sys/fs/cgroup",
        flags: NOTHING_RUNS.union(MountFlags::NODEV),
        options: None,
    },
];

/// Writable folders of this program's own root. The kernel's memory backs them, so they are small.
const OWN_FOLDERS: &[Virtual] = &[
    Virtual {
        kind: "tmpfs",
        place: "/run",
        flags: NOTHING_RUNS.union(MountFlags::NODEV),
        options: Some(c"mode=0755,size=1m"),
    },
    Virtual {
        kind: "tmpfs",
        place: "/tmp",
        flags: NOTHING_RUNS.union(MountFlags::NODEV),
        options: Some(c"mode=1777,size=1m"),
    },
];

/// Mounts `/dev`, `/proc`, `/sys` and control groups.
pub(super) fn mount_kernel_file_systems() -> Result<(), BootError> {
    for file_system in KERNEL_FILE_SYSTEMS {
        // The initial RAM disk has no more folders than it needs.
        match fs::create_dir(file_system.place) {
            Err(error) if is_there_or_read_only(&error) => {}
            other => other.on("make", file_system.place)?,
        }
        match mount(file_system) {
            // The kernel has mounted it already (`CONFIG_DEVTMPFS_MOUNT`).
            Err(Errno::BUSY) => {}
            other => failed(file_system, other)?,
        }
    }
    Ok(())
}

/// Mounts what the root that is there now has places for.
pub(super) fn mount_own_folders() -> Result<(), BootError> {
    for file_system in OWN_FOLDERS {
        match mount(file_system) {
            // Nothing needs them; an image without them is no worse.
            Err(Errno::NOENT) => {}
            other => failed(file_system, other)?,
        }
    }
    Ok(())
}

/// Moves the kernel's file systems beneath a new root.
pub(super) fn move_to(root: &Path) -> Result<(), BootError> {
    for place in ["/dev", "/proc", "/sys"] {
        let target = root.join(place.trim_start_matches('/'));
        rustix::mount::mount_move(place, &target).map_err(|error| BootError::Mount {
            what: place,
            place: target,
            source: error.into(),
        })?;
    }
    Ok(())
}

fn mount(file_system: &Virtual) -> rustix::io::Result<()> {
    rustix::mount::mount(
        file_system.kind,
        file_system.place,
        file_system.kind,
        file_system.flags,
        file_system.options,
    )
}

fn failed(file_system: &Virtual, mounted: rustix::io::Result<()>) -> Result<(), BootError> {
    mounted.map_err(|error| BootError::Mount {
        what: file_system.kind,
        place: file_system.place.into(),
        source: error.into(),
    })
}

/// A folder of a read-only file system is there, or mounting on it says that it is not.
fn is_there_or_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
    )
}
