//! Where a monitor is and what it sees: the root of its jail, or without one the machine's folder.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, File},
    io,
    os::{
        fd::AsFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, mkdirat, openat, statat};

use super::{NAME, stage::Reader};
use crate::{remove, vmm::VmmError};

/// What a monitor has in its place. Short, for the addresses of sockets.
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRD: &str = "initrd";
pub(crate) const BASE: &str = "rootfs";
pub(crate) const API_SOCKET: &str = "a";
pub(crate) const VSOCK: &str = "v";
pub(crate) const STATE: &str = "state";
pub(crate) const MEMORY: &str = "memory";

/// A monitor's own folder in the machine's, where there is no jail. The record beside it is out of
/// its reach.
pub(crate) const FOLDER: &str = "m";

/// The program's name, which the jailer makes a folder of.
pub(crate) const PROGRAM: &str = "firecracker";

/// Longest address of a Unix socket in bytes, unix(7).
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Longest name of a machine in bytes, as [`BootOrder`](crate::vmm::BootOrder) has it.
pub(crate) const MAX_NAME_BYTES: usize = 20;

/// Longest name of a socket in a place: the listener of the vsock port with most digits.
const LONGEST_SOCKET: &str = "v_4294967295";

/// The folder that all jails are in.
#[derive(Debug)]
pub(crate) struct JailBase {
    /// As the jailer takes it.
    pub(crate) path: PathBuf,
    /// `<path>/firecracker`.
    tree: File,
}

/// The place of one monitor.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    folder: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Root of a jail, whose files belong to a user of its own.
    Jail {
        tree: File,
        name: String,
        owner: u32,
    },
    /// The monitor's working folder in the machine's.
    Folder { machine: File },
}

impl JailBase {
    /// The folder of the jail of this name, with its root in it.
    pub(crate) fn jail(&self, name: &str) -> PathBuf {
        self.path.join(PROGRAM).join(name)
    }

    /// Makes and checks the folder for jails.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] for a path that is relative, is `/`, leads through links or is too
    /// long for sockets below it, and for a folder that others may write or that allows no
    /// devices.
    pub(crate) fn new(path: &Path) -> Result<Self, VmmError> {
        let refuse = |why: &str| {
            Err(VmmError::Unusable {
                monitor: NAME,
                why: format!("the folder for jails {}: {why}", path.display()),
            })
        };
        let mut components = path.components();
        if components.next() != Some(Component::RootDir)
            || !components.all(|component| matches!(component, Component::Normal(_)))
        {
            return refuse("it has to be absolute, without `..`");
        }
        if path.parent().is_none() {
            return refuse("the root of the host is none; take a folder of its own");
        }
        let longest = path
            .join(PROGRAM)
            .join("n".repeat(MAX_NAME_BYTES))
            .join("root");
        check_sockets(&longest)?;
        let failed = |source| VmmError::Host {
            step: format!("make the folder for jails {}", path.display()),
            source,
        };
        let tree = path.join(PROGRAM);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&tree)
            .map_err(failed)?;
        for folder in tree.ancestors() {
            let metadata = folder.symlink_metadata().map_err(failed)?;
            // In a folder like /tmp nobody can rename what is root's.
            let sticky = folder != tree && folder != path && metadata.mode() & 0o1000 != 0;
            if !metadata.is_dir() {
                return refuse("its path leads through a symbolic link; name the folder itself");
            }
            if metadata.uid() != 0 || (metadata.mode() & 0o022 != 0 && !sticky) {
                return refuse("others than root may write there; the jailer trusts what it finds");
            }
        }
        let tree = open_folder(&tree).map_err(failed)?;
        let mount = rustix::fs::fstatvfs(&tree).map_err(|errno| failed(errno.into()))?;
        if mount
            .f_flag
            .intersects(StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC)
        {
            return refuse("its mount forbids devices or programs, and a jail has /dev/kvm");
        }
        Ok(Self {
            path: path.to_owned(),
            tree,
        })
    }

    /// Makes the root of a jail. The jailer takes what is there and makes the rest.
    ///
    /// # Errors
    /// [`VmmError::Host`], also for a name that was used before.
    pub(crate) fn make(&self, name: &str, owner: u32) -> Result<Place, VmmError> {
        let failed = |source: io::Error| VmmError::Host {
            step: format!("make the jail {name}"),
            source,
        };
        mkdirat(&self.tree, name, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
        let made = || -> io::Result<Place> {
            let tree = self.tree.try_clone()?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let jail = openat(&self.tree, name, flags, Mode::empty())?;
            mkdirat(&jail, "root", Mode::RWXU)?;
            let folder = File::from(openat(&jail, "root", flags, Mode::empty())?);
            Ok(Place {
                root: self.path.join(PROGRAM).join(name).join("root"),
                folder,
                kind: Kind::Jail {
                    tree,
                    name: name.to_owned(),
                    owner,
                },
            })
        };
        made().map_err(|error| {
            let _ = remove::remove_tree(self.tree.as_fd(), name);
            failed(error)
        })
    }
}

impl Place {
    /// A new folder in the machine's, where there is no jail.
    ///
    /// # Errors
    /// A folder that cannot be made, or whose path is too long for sockets in it.
    pub(crate) fn folder(machine: &Path) -> Result<Self, VmmError> {
        let root = machine.join(FOLDER);
        check_sockets(&root)?;
        let made = || -> io::Result<Self> {
            let machine = open_folder(machine)?;
            mkdirat(&machine, FOLDER, Mode::RWXU)?;
            Ok(Self {
                folder: open_folder(&root)?,
                root: root.clone(),
                kind: Kind::Folder { machine },
            })
        };
        made().map_err(|source| VmmError::Host {
            step: format!("make the monitor's folder {}", root.display()),
            source,
        })
    }

    /// Its folder.
    pub(crate) fn open(&self) -> &File {
        &self.folder
    }

    /// Its path on the host.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// A file in it, as the host sees it.
    pub(crate) fn on_host(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A file in it, as the monitor sees it: absolute in a jail, else from its working folder.
    pub(crate) fn seen(&self, name: &str) -> String {
        match self.kind {
            Kind::Jail { .. } => format!("/{name}"),
            Kind::Folder { .. } => name.to_owned(),
        }
    }

    /// The monitor's user and group where those are not ours.
    pub(crate) fn owner(&self) -> Option<u32> {
        match self.kind {
            Kind::Jail { owner, .. } => Some(owner),
            Kind::Folder { .. } => None,
        }
    }

    /// Who has to be able to read staged files.
    pub(crate) fn reader(&self) -> Reader {
        self.owner().map_or(Reader::Anybody, Reader::Group)
    }

    /// Removes everything of the monitor. Harmless when done twice.
    ///
    /// # Errors
    /// What could not be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (parent, name) = self.entry();
        remove::remove_tree(parent.as_fd(), name)
    }

    /// What is still there, by looking.
    pub(crate) fn residue(&self) -> Vec<String> {
        let (parent, name) = self.entry();
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Vec::new(),
            _ => vec![format!("the folder {} is still there", self.root.display())],
        }
    }

    /// The folder to remove, with the one that it is in.
    fn entry(&self) -> (&File, &str) {
        match &self.kind {
            Kind::Jail { tree, name, .. } => (tree, name),
            Kind::Folder { machine } => (machine, FOLDER),
        }
    }
}

/// Refuses a folder in which sockets would have too long an address.
pub(crate) fn check_sockets(folder: &Path) -> Result<(), VmmError> {
    let length = folder.join(LONGEST_SOCKET).as_os_str().as_bytes().len();
    if length <= MAX_SOCKET_PATH_BYTES {
        return Ok(());
    }
    Err(VmmError::Unusable {
        monitor: NAME,
        why: format!(
            "sockets below {} would have addresses of {length} bytes, and \
             {MAX_SOCKET_PATH_BYTES} is the most; take a folder with a shorter path",
            folder.display()
        ),
    })
}

/// Without following a link at its end.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Whether a name can be that of a machine: what the jailer takes for `--id` and more strictly.
pub(crate) fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    (1..=MAX_NAME_BYTES).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_for_jails_is_absolute_short_and_no_root() {
        for (path, why) in [
            ("jails", "absolute"),
            ("/srv/../jails", "absolute"),
            ("/", "root of the host"),
            (
                "/srv/a-folder-with-a-name-that-is-much-too-long-for-the-address-of-a-socket",
                "shorter path",
            ),
        ] {
            let refused = JailBase::new(Path::new(path)).unwrap_err().to_string();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }

    #[test]
    fn the_longest_socket_just_fits() {
        let fits = MAX_SOCKET_PATH_BYTES - LONGEST_SOCKET.len() - 1;
        check_sockets(Path::new(&format!("/{}", "x".repeat(fits - 1)))).unwrap();
        check_sockets(Path::new(&format!("/{}", "x".repeat(fits)))).unwrap_err();
    }
}
