//! The base: the read-only root file system that cells see.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use rustix::mount::MountFlags;

use super::{BootError, KernelEvents, Step as _, mounts};

/// The first virtio disk.
pub const BASE_DEVICE: &str = "/dev/vda";

/// How long the base's device may take to appear. It is there within milliseconds of its driver,
/// also under software emulation; the rest is for a loaded machine.
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the base is mounted until it becomes the root.
const PLACE: &str = "/base";

/// Bytes at the beginning of a device that tell the file system: as far as ext4's superblock.
const SUPERBLOCK_BYTES: usize = 2048;

/// A file system that a base may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BaseKind {
    name: &'static str,
    offset: usize,
    magic: &'static [u8],
    options: Option<&'static CStr>,
}

const BASE_KINDS: &[BaseKind] = &[
    BaseKind {
        name: "squashfs",
        offset: 0,
        magic: b"hsqs",
        options: None,
    },
    BaseKind {
        name: "erofs",
        offset: 1024,
        magic: &[0xe2, 0xe1, 0xf5, 0xe0],
        options: None,
    },
    BaseKind {
        name: "ext4",
        offset: 1024 + 56,
        magic: &[0x53, 0xef],
        // The device may be read-only, where a journal cannot be replayed.
        options: Some(c"noload"),
    },
];

pub(super) fn await_device(
    device: &Path,
    events: &KernelEvents,
    within: Duration,
) -> Result<(), BootError> {
    events
        .wait_for(within, || match fs::symlink_metadata(device) {
            Ok(_) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).on("look for", device),
        })?
        .ok_or_else(|| BootError::NoDevice {
            device: device.to_owned(),
            waited: within,
        })
}

/// Mounts the base and makes it the root. The initial RAM disk stays beneath it, where nothing can
/// name it; there is nothing secret in it.
pub(super) fn make_it_the_root(device: &Path) -> Result<(), BootError> {
    let kind = kind_of(device)?;
    fs::create_dir_all(PLACE).on("make", PLACE)?;
    rustix::mount::mount(
        device,
        PLACE,
        kind.name,
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        kind.options,
    )
    .map_err(|error| BootError::Mount {
        what: kind.name,
        place: PLACE.into(),
        source: error.into(),
    })?;
    mounts::move_to(PLACE.as_ref())?;
    switch_to(PLACE.as_ref())?;
    mounts::mount_own_folders()
}

/// The mount at `root` becomes the root of this mount namespace, and of this process. Not by
/// `pivot_root`, which the kernel refuses on its own root (pivot_root(2)).
fn switch_to(root: &Path) -> Result<(), BootError> {
    rustix::process::chdir(root).on("enter", root)?;
    rustix::mount::mount_move(".", "/").map_err(|error| BootError::Mount {
        what: "the base",
        place: "/".into(),
        source: error.into(),
    })?;
    rustix::process::chroot(".").on("make the root of", root)?;
    rustix::process::chdir("/").on("enter", "/")
}

fn kind_of(device: &Path) -> Result<BaseKind, BootError> {
    let mut beginning = Vec::with_capacity(SUPERBLOCK_BYTES);
    let bytes = u64::try_from(SUPERBLOCK_BYTES).unwrap_or(u64::MAX);
    File::open(device)
        .and_then(|file| file.take(bytes).read_to_end(&mut beginning))
        .on("read", device)?;
    BASE_KINDS
        .iter()
        .find(|kind| {
            beginning
                .get(kind.offset..)
                .is_some_and(|rest| rest.starts_with(kind.magic))
        })
        .copied()
        .ok_or_else(|| BootError::UnknownBase {
            device: device.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use cellos_testkit::{require, test_name};

    use super::*;
    use crate::boot::namespaces::{Namespaces, enter_empty_root, inside, mount_empty};

    #[test]
    fn the_file_system_is_told_by_its_superblock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for kind in BASE_KINDS {
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            bytes[kind.offset..][..kind.magic.len()].copy_from_slice(kind.magic);
            fs::write(file.path(), bytes).unwrap();
            assert_eq!(kind_of(file.path()).unwrap().name, kind.name);
        }
        for other in [vec![], b"hsq".to_vec(), vec![0; SUPERBLOCK_BYTES]] {
            fs::write(file.path(), other).unwrap();
            assert!(matches!(
                kind_of(file.path()),
                Err(BootError::UnknownBase { .. })
            ));
        }
    }

    #[test]
    fn a_device_that_does_not_come_is_an_error_in_time() {
        let events = KernelEvents::open().unwrap();
        let absent = Path::new("/dev/cellos-no-such-device");
        let error = await_device(absent, &events, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, BootError::NoDevice { .. }), "{error}");
        await_device("/dev/null".as_ref(), &events, Duration::ZERO).unwrap();
    }

    #[test]
    fn the_new_root_hides_the_old_one_and_has_the_kernel_s_file_systems() {
        require!("userns");
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            enter_empty_root(folder);
            fs::write("/of-the-ram-disk", "").unwrap();
            for place in ["/dev", "/proc", "/sys"] {
                mount_empty(place.as_ref());
                fs::write(Path::new(place).join("mark"), place).unwrap();
            }
            mount_empty(PLACE.as_ref());
            fs::write("/base/of-the-base", "").unwrap();
            for place in ["dev", "proc", "sys"] {
                fs::create_dir(Path::new(PLACE).join(place)).unwrap();
            }

            mounts::move_to(PLACE.as_ref()).unwrap();
            switch_to(PLACE.as_ref()).unwrap();

            assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
            for root in ["/", "/..", "."] {
                let root = Path::new(root);
                assert!(root.join("of-the-base").exists(), "{}", root.display());
                assert!(!root.join("of-the-ram-disk").exists());
            }
            for place in ["/dev", "/proc", "/sys"] {
                let mark = Path::new(place).join("mark");
                assert_eq!(fs::read_to_string(mark).unwrap(), place);
            }
        });
    }

    #[test]
    fn a_root_that_is_no_mount_is_refused() {
        require!("userns");
        inside(test_name!(), Namespaces::Unprivileged, |folder| {
            enter_empty_root(folder);
            fs::create_dir(PLACE).unwrap();
            assert!(matches!(
                switch_to(PLACE.as_ref()),
                Err(BootError::Mount {
                    what: "the base",
                    ..
                })
            ));
            assert!(matches!(
                switch_to("/absent".as_ref()),
                Err(BootError::File {
                    operation: "enter",
                    ..
                })
            ));
        });
    }
}
