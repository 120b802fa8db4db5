//! Writing the archive that the kernel unpacks as its first root file system (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`): `newc`, uncompressed.

use std::io::{self, Write};

/// `S_IFDIR`.
const DIRECTORY: u32 = 0o040_000;

/// `S_IFREG`.
const REGULAR: u32 = 0o100_000;

/// What entries and contents begin at a multiple of, in bytes.
const ALIGNMENT: usize = 4;

/// What the whole archive is filled up to, in bytes, as `cpio` does.
const BLOCK: u64 = 512;

/// Size of the header of an entry, in bytes.
const HEADER_BYTES: usize = 110;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Owners and times are 0, inodes are counted.
pub(crate) struct Archive<W> {
    out: W,
    inodes: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            inodes: 0,
            written: 0,
        }
    }

    /// Adds a directory. Names have no leading `/`; what is above them must stand before.
    pub(crate) fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(name, DIRECTORY | permissions, 2, &[])
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, 1, content)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inodes = 0;
        self.entry(TRAILER, 0, 1, &[])?;
        let odd = self.written % BLOCK;
        if odd > 0 {
            io::copy(
                &mut io::Read::take(io::repeat(0), BLOCK - odd),
                &mut self.out,
            )?;
        }
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        let inode = if name == TRAILER { 0 } else { self.inodes + 1 };
        self.inodes = inode;
        let (nothing, check) = (0, 0);
        let mut header = String::from("070701");
        for field in [
            inode, mode, nothing, nothing, links, nothing, size, nothing, nothing, nothing,
            nothing, name_size, check,
        ] {
            use std::fmt::Write as _;
            write!(header, "{field:08X}").map_err(io::Error::other)?;
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(HEADER_BYTES + name.len() + 1)?;
        self.put(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        let count = length.next_multiple_of(ALIGNMENT) - length;
        self.put([0; ALIGNMENT].get(..count).unwrap_or_default())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_the_layout_that_the_kernel_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("modules", 0o755).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&bytes[range]);
        // Magic, inode, mode, owner, group, links, time, size, four device numbers, length of the
        // name, check.
        let header = |inode: &str, mode: &str, links: &str, size: &str, name: &str| {
            let zero = "00000000";
            let fields = [
                inode, mode, zero, zero, links, zero, size, zero, zero, zero, zero, name, zero,
            ];
            format!("070701{}", fields.concat())
        };
        assert_eq!(
            text(0..110),
            header("00000001", "000041ED", "00000002", "00000000", "00000008")
        );
        assert_eq!(&bytes[110..120], b"modules\0\0\0");
        assert_eq!(
            text(120..230),
            header("00000002", "000081ED", "00000001", "00000005", "00000005")
        );
        assert_eq!(&bytes[230..244], b"init\0\0hello\0\0\0");
        assert_eq!(text(244..250), "070701");
        assert_eq!(bytes.len(), 512);
    }
}
