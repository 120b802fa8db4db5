//! The jail: a folder that becomes the root, with the program and the devices in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount},
    process::{Resource, Rlimit, chdir, chroot, getrlimit, pivot_root, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    Failure,
    arguments::{Arguments, Limits},
    attempt,
};

/// Device, major and minor number (Linux, `Documentation/admin-guide/devices.txt`).
const DEVICES: [(&str, u32, u32); 3] = [
    ("/dev/net/tun", 10, 200),
    ("/dev/kvm", 10, 232),
    ("/dev/urandom", 1, 9),
];
/// Folders that the program finds, its own.
const FOLDERS: [&str; 4] = ["/", "/dev", "/dev/net", "/run"];

/// Makes the jail's folder, with the program in it.
pub(crate) fn make(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let root = arguments
        .base
        .join(&arguments.exec_name)
        .join(&arguments.id)
        .join("root");
    // A folder that is there is taken: it is where the operator puts the machine's files.
    attempt("make", &root, fs::create_dir_all(&root))?;
    let program = root.join(&arguments.exec_name);
    attempt(
        "copy the program to",
        &program,
        fs::copy(&arguments.exec_file, &program),
    )?;
    Ok(root)
}

/// Applies the limits to this process and what it executes.
pub(crate) fn limit(limits: &Limits) -> Result<(), Failure> {
    let set = |resource, most: u64| {
        let bounded = match getrlimit(resource).maximum {
            // Raising it needs a capability, and no more than what is there is asked for.
            Some(hard) => most.min(hard),
            None => most,
        };
        let both = Rlimit {
            current: Some(bounded),
            maximum: Some(bounded),
        };
        setrlimit(resource, both).map_err(io::Error::from)
    };
    let place = Path::new("the resource limits");
    attempt("set", place, set(Resource::Nofile, limits.open_files))?;
    match limits.file_bytes {
        Some(bytes) => attempt("set", place, set(Resource::Fsize, bytes)),
        None => Ok(()),
    }
}

/// Makes the folder this process's root, in a mount namespace of its own.
pub(crate) fn enter(root: &Path) -> Result<(), Failure> {
    let steps = || -> rustix::io::Result<()> {
        // SAFETY: the descriptor table stays shared; only the mount namespace becomes this process's
        // own, and it has one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        mount_bind_recursive(root, root)?;
        chdir(root)?;
        rustix::fs::mkdir("old_root", Mode::RWXU)?;
        pivot_root(".", "old_root")?;
        chdir("/")?;
        unmount("old_root", UnmountFlags::DETACH)?;
        rustix::fs::rmdir("old_root")?;
        chroot(".")
    };
    attempt("make the root of", root, steps().map_err(io::Error::from))
}

/// Makes folders and devices in the jail, which is the root by now. A device that is there already
/// is the sign of a jail that was not removed, and an error.
pub(crate) fn furnish(uid: u32, gid: u32) -> Result<(), Failure> {
    for folder in FOLDERS.map(Path::new) {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return attempt("make", folder, Err(error));
            }
            _ => own(folder, uid, gid)?,
        }
    }
    for (path, major, minor) in DEVICES {
        let path = Path::new(path);
        let made = mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            Mode::RUSR | Mode::WUSR,
            makedev(major, minor),
        );
        match made {
            // In a user namespace no device can be made; a file stands in, so that a jail that was
            // not removed is found all the same.
            Err(rustix::io::Errno::PERM) => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path);
                attempt("make a stand-in for", path, file.map(|_: File| ()))?;
            }
            other => attempt("make", path, other.map_err(io::Error::from))?,
        }
        own(path, uid, gid)?;
    }
    Ok(())
}

fn own(path: &Path, uid: u32, gid: u32) -> Result<(), Failure> {
    attempt(
        "change the owner of",
        path,
        chown(path, Some(uid), Some(gid)),
    )
}
