//! Reading bounded files, and files with the digest of what went through them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::Path,
};

use cellos_core::vm_manifest::Sha256Digest;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::ImageError;

/// Read at once while hashing, in bytes.
const HASH_BUFFER_BYTES: usize = 128 * 1024;

/// Opens a regular file for reading. Symbolic links are followed; a FIFO does not block.
pub(crate) fn open(path: &Path) -> Result<File, ImageError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(ImageError::io("open", path))?;
    let metadata = file.metadata().map_err(ImageError::io("examine", path))?;
    if !metadata.is_file() {
        return Err(ImageError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    Ok(file)
}

/// The content of a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut content = Vec::new();
    open(path)?
        .take(limit + 1)
        .read_to_end(&mut content)
        .map_err(ImageError::io("read", path))?;
    if content.len() as u64 > limit {
        return Err(ImageError::TooLarge {
            path: path.to_path_buf(),
            limit,
        });
    }
    Ok(content)
}

/// The digest of everything that a reader still gives, and its size in bytes.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<(Sha256Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Sha256Digest::from_bytes(hasher.finalize().into()), size))
}

/// A reader that keeps the digest of what it gave, and refuses to give more than its limit.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    left: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            left: limit,
        }
    }

    /// The digest of everything, after reading what is left.
    pub(crate) fn finish(mut self) -> io::Result<Sha256Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Sha256Digest::from_bytes(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "more bytes than are allowed")
        })?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
