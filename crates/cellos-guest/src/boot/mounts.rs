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

#[cfg(test)]
mod tests {
    use cellos_testkit::{require, test_name};
    use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

    use super::*;
    use crate::boot::namespaces::{Namespaces, enter_empty_root, inside, mount_empty};

    /// `TMPFS_MAGIC` of statfs(2), which devtmpfs has too.
    const TMPFS: u64 = 0x0102_1994;

    fn kind(place: &str) -> u64 {
        statfs(place).unwrap().f_type.cast_unsigned()
    }

    fn flags(place: &str) -> StatVfsMountFlags {
        statvfs(place).unwrap().f_flag
    }

    #[test]
    fn a_mount_that_the_kernel_refuses_is_named() {
        require!("userns");
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            enter_empty_root(folder);
            // Device nodes are for those alone who own the machine.
            let error = mount_kernel_file_systems().unwrap_err();
            assert!(
                matches!(&error, BootError::Mount { what: "devtmpfs", place, source }
                    if place == Path::new("/dev")
                        && source.kind() == io::ErrorKind::PermissionDenied),
                "{error}"
            );
        });
    }

    #[test]
    fn own_folders_are_small_and_where_the_root_has_places() {
        require!("userns");
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            enter_empty_root(folder);
            fs::create_dir("/run").unwrap();
            mount_own_folders().unwrap();
            assert!(!Path::new("/tmp").exists());
            let run = statvfs("/run").unwrap();
            assert_eq!(run.f_blocks * run.f_frsize, 1 << 20);
            let wanted =
                StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
            assert!(run.f_flag.contains(wanted), "{:?}", run.f_flag);
            fs::write("/run/file", "").unwrap();
        });
    }

    #[test]
    fn a_root_without_a_place_for_the_kernel_s_file_systems_is_refused() {
        require!("userns");
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            enter_empty_root(folder);
            for place in ["/dev", "/proc", "/sys"] {
                mount_empty(place.as_ref());
            }
            mount_empty("/base".as_ref());
            fs::create_dir("/base/dev").unwrap();
            let error = move_to("/base".as_ref()).unwrap_err();
            assert!(
                matches!(&error, BootError::Mount { what: "/proc", place, .. }
                    if place == Path::new("/base/proc")),
                "{error}"
            );
        });
    }

    mod as_root {
        use super::*;

        /// `PROC_SUPER_MAGIC`, `SYSFS_MAGIC` and `CGROUP2_SUPER_MAGIC` of statfs(2).
        const KINDS: [(&str, u64); 4] = [
            ("/dev", TMPFS),
            ("/proc", 0x9fa0),
            ("/sys", 0x6265_6572),
            ("/sys/fs/cgroup", 0x6367_7270),
        ];

        #[test]
        fn the_kernel_s_file_systems_are_mounted_on_an_empty_root() {
            require!("root");
            inside(test_name!(), Namespaces::Privileged, |folder| {
                enter_empty_root(folder);
                mount_kernel_file_systems().unwrap();
                for (place, magic) in KINDS {
                    assert_eq!(kind(place), magic, "{place}");
                    assert!(flags(place).contains(StatVfsMountFlags::NOSUID), "{place}");
                    assert!(flags(place).contains(StatVfsMountFlags::NOEXEC), "{place}");
                }
                assert!(flags("/sys").contains(StatVfsMountFlags::RDONLY));
                assert!(Path::new("/dev/null").exists());
            });
        }
    }
}
