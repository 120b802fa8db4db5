//! What a log asks of the file system, so that tests can let every single operation fail.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

/// Which file a name stands for: device and inode.
pub(super) type FileId = (u64, u64);

/// What is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    /// Only what is there.
    Never,
    /// Only what is there, to be written over instead of appended to.
    NeverToAppend,
    /// It is made if it is missing, with mode 0600.
    IfMissing,
    /// It must not be there yet.
    New,
}

/// The file system.
pub(super) trait Storage: Send + Sync {
    /// Opens a file for reading and appending. Links are not followed.
    fn open(&self, path: &Path, make: Make) -> io::Result<Arc<dyn StoredFile>>;
    /// Which file a name stands for, if any; of a link, the link.
    fn identity(&self, path: &Path) -> io::Result<Option<FileId>>;
    /// Gives a file another name, in place of a file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; there need be none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the regular files in a folder.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Returns when the names in a folder survive a crash of the machine.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// What there is to know about an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) id: FileId,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

/// What an open file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Other,
}

/// An open file.
pub(super) trait StoredFile: Send + Sync {
    /// Writes at the end; how much was written.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Writes over what the file begins with; how much was written. Up to a sector is written whole
    /// or not at all, whatever dies: the kernel looks for a signal that ends the process before it
    /// copies a page, and not while it does.
    fn overwrite(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Fills the buffer from an offset on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn status(&self) -> io::Result<Status>;
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Returns when the contents survive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
    /// Whether the exclusive lock was to be had.
    fn try_lock(&self) -> io::Result<bool>;
    fn unlock(&self);
}

/// The kernel's file system.
pub(super) struct Kernel;

impl Storage for Kernel {
    fn open(&self, path: &Path, make: Make) -> io::Result<Arc<dyn StoredFile>> {
        // O_NONBLOCK: opening a FIFO must not wait for its other end.
        let flags =
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = match make {
            Make::Never => flags | OFlags::APPEND,
            Make::NeverToAppend => flags,
            Make::IfMissing => flags | OFlags::APPEND | OFlags::CREATE,
            Make::New => flags | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL,
        };
        let file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into();
        Ok(Arc::new(file))
    }

    fn identity(&self, path: &Path) -> io::Result<Option<FileId>> {
        match rustix::fs::lstat(path) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl StoredFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::write(self, bytes)
        })?)
    }

    fn overwrite(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::pwrite(self, bytes, 0)
        })?)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }

    fn status(&self) -> io::Result<Status> {
        let metadata = self.metadata()?;
        Ok(Status {
            id: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            kind: match metadata.is_file() {
                true => Kind::Regular,
                false => Kind::Other,
            },
        })
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(self, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn unlock(&self) {
        // It can only fail for a descriptor that is not open, and this one is.
        let _ = rustix::fs::flock(self, FlockOperation::Unlock);
    }
}
