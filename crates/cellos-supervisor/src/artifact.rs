//! Opening a file that a workload left, without trusting anything about it.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use cellos_core::ports::workload::WorkingFolder;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::bounds;

/// File systems whose files the kernel makes up while they are read, by their magic numbers
/// (statfs(2)). What it puts in depends on who opened them, which is this process and not the cell:
/// as root, the kernel's addresses and log.
const KERNEL_FILE_SYSTEMS: [i64; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
];

/// An opened artifact.
pub(crate) struct Artifact {
    /// Keeps `/proc/self/fd/N` valid.
    file: File,
    /// Its path inside the cell.
    pub(crate) path_in_cell: PathBuf,
}

impl Artifact {
    /// Opens the artifact at `path`: a regular file of bounded size beneath the working folder,
    /// reached without any symbolic link.
    pub(crate) fn open(folder: &WorkingFolder, path: &str) -> Result<Self, String> {
        let declared = Path::new(path);
        let relative = if declared.is_absolute() {
            declared.strip_prefix(&folder.path).map_err(|_| {
                format!(
                    "path {path:?} is not beneath the working folder {}",
                    folder.path.display()
                )
            })?
        } else {
            declared
        };
        let file = File::from(open_beneath(&folder.directory, relative).map_err(|error| {
            let why = match error {
                Errno::LOOP => "it is, or passes, a symbolic link".to_owned(),
                Errno::XDEV => "it leaves the working folder".to_owned(),
                // A socket, or a FIFO opened for something else.
                Errno::NXIO => "it is not a regular file".to_owned(),
                other => other.to_string(),
            };
            format!("path {path:?}: {why}")
        })?);
        let metadata = file
            .metadata()
            .map_err(|error| format!("path {path:?}: {error}"))?;
        if !metadata.is_file() {
            return Err(format!("path {path:?}: it is not a regular file"));
        }
        let file_system =
            rustix::fs::fstatfs(&file).map_err(|error| format!("path {path:?}: {error}"))?;
        if KERNEL_FILE_SYSTEMS.contains(&file_system.f_type) {
            return Err(format!(
                "path {path:?}: it is not a stored file but a view into the kernel"
            ));
        }
        if metadata.len() > bounds::ARTIFACT_BYTES {
            return Err(format!(
                "path {path:?}: it has {} bytes, the limit is {}",
                metadata.len(),
                bounds::ARTIFACT_BYTES
            ));
        }
        Ok(Self {
            file,
            path_in_cell: folder.path.join(relative),
        })
    }

    /// A path of this process that leads to exactly this file.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

fn open_beneath(directory: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        directory,
        path,
        // NONBLOCK: opening a FIFO must not wait for a writer.
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a working folder on the host.
pub(crate) fn host_folder(path: &Path) -> std::io::Result<WorkingFolder> {
    let path = std::path::absolute(path)?;
    let directory = rustix::fs::open(
        &path,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(WorkingFolder { directory, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path) -> WorkingFolder {
        WorkingFolder {
            path: "/work".into(),
            ..host_folder(path).unwrap()
        }
    }

    #[test]
    fn regular_file_opens_by_relative_and_absolute_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("out/a"), "content").unwrap();
        for path in ["out/a", "/work/out/a"] {
            let artifact = Artifact::open(&folder(dir.path()), path).unwrap();
            assert_eq!(artifact.path_in_cell, Path::new("/work/out/a"));
            assert_eq!(std::fs::read_to_string(artifact.path()).unwrap(), "content");
        }
    }

    #[test]
    fn links_devices_fifos_and_escapes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        for (path, text) in [
            ("link", "symbolic link"),
            ("up/secret", "symbolic link"),
            ("../secret", "leaves the working folder"),
            ("/etc/passwd", "not beneath the working folder"),
            ("/workshop/a", "not beneath the working folder"),
            ("fifo", "not a regular file"),
            ("socket", "not a regular file"),
            (".", "not a regular file"),
            ("absent", "No such file"),
        ] {
            let error = Artifact::open(&folder(&inside), path).err().unwrap();
            assert!(error.contains(text), "{path}: {error}");
        }
    }

    #[test]
    fn views_into_the_kernel_are_refused() {
        for (root, path) in [("/proc", "version"), ("/proc", "sys/kernel/ostype")] {
            let error = Artifact::open(&folder(Path::new(root)), path)
                .err()
                .unwrap();
            assert!(error.contains("view into the kernel"), "{path}: {error}");
        }
    }

    #[test]
    fn file_above_the_bound_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("big")).unwrap();
        file.set_len(bounds::ARTIFACT_BYTES + 1).unwrap();
        let error = Artifact::open(&folder(dir.path()), "big").err().unwrap();
        assert!(error.contains("the limit is"), "{error}");
    }
}
