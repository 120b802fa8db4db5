//! The contents of files on their way into an image: one unnamed file, filled from its start.

use std::{
    fs::File,
    io::{self, Read, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

/// Where a content stands in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    start: u64,
    size: u64,
}

/// Contents of files, kept on disk.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Arc<File>,
    end: u64,
    limit: u64,
}

impl Spool {
    /// Makes an empty spool, in a folder, for at most `limit` bytes.
    pub(crate) fn new(folder: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(tempfile::tempfile_in(folder)?),
            end: 0,
            limit,
        })
    }

    /// Adds everything that a reader gives; `FileTooLarge` when the spool would grow too large.
    pub(crate) fn append(&mut self, reader: impl Read) -> io::Result<Extent> {
        let left = self.limit - self.end;
        let mut file = self.file.as_ref();
        file.seek(io::SeekFrom::Start(self.end))?;
        let size = io::copy(&mut reader.take(left + 1), &mut file)?;
        file.flush()?;
        if size > left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let start = self.end;
        self.end += size;
        Ok(Extent { start, size })
    }

    /// A reader of one content.
    pub(crate) fn read(&self, extent: Extent) -> SpoolReader {
        SpoolReader {
            file: Arc::clone(&self.file),
            position: extent.start,
            left: extent.size,
        }
    }
}

/// Reads one content of a spool.
#[derive(Debug)]
pub(crate) struct SpoolReader {
    file: Arc<File>,
    position: u64,
    left: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = self.file.read_at(buffer, self.position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
