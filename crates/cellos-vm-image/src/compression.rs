//! Reading the compressed forms that kernels, modules and image layers come in.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Cursor, Read},
};

use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder as ZstdDecoder};

/// Largest window that a Zstandard stream may ask for, in bytes: what `zstd --ultra -22` uses, and
/// the kernel's build does.
const MAX_ZSTD_WINDOW_BYTES: u64 = 128 * 1024 * 1024;

/// Most memory that one xz stream may ask for, in KiB: level 9 needs 65 MiB.
const MAX_XZ_MEMORY_KIB: u32 = 256 * 1024;

/// Size of the size field in front of the content of a Zstandard frame that is to be skipped, and
/// of its magic number, in bytes (RFC 8878, 3.1.2).
const ZSTD_FIELD_BYTES: usize = 4;

/// A form that data is compressed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The `.xz` file format.
    Xz,
    /// RFC 8878.
    Zstd,
    /// The legacy frame format of LZ4, which the kernel's build writes.
    Lz4Legacy,
}

impl Compression {
    /// The form that data begins like; `None` when it begins like none of them.
    #[must_use]
    pub fn detect(data: &[u8]) -> Option<Self> {
        match data {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4Legacy),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4Legacy => "lz4",
        })
    }
}

/// Why data could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The stream is broken.
    #[error("broken {compression} stream: {source}")]
    Broken {
        /// The form.
        compression: Compression,
        /// What the decoder found.
        source: io::Error,
    },
    /// The content is too large.
    #[error("{compression} stream holds more than {limit} bytes")]
    TooLarge {
        /// The form.
        compression: Compression,
        /// The most it may hold, in bytes.
        limit: u64,
    },
}

/// A reader of the content of a compressed stream.
pub(crate) fn reader<'r>(compression: Compression, source: impl Read + 'r) -> Box<dyn Read + 'r> {
    match compression {
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(source)),
        Compression::Xz => Box::new(XzReader::new_mem_limit(source, true, MAX_XZ_MEMORY_KIB)),
        Compression::Zstd => Box::new(ZstdFrames::new(BufReader::new(source))),
        Compression::Lz4Legacy => Box::new(Lz4Decoder::new(source)),
    }
}

/// The content of compressed data, at most `limit` bytes.
///
/// # Errors
/// [`DecompressError`].
pub(crate) fn decompress(
    compression: Compression,
    data: &[u8],
    limit: u64,
) -> Result<Vec<u8>, DecompressError> {
    let mut content = Vec::new();
    reader(compression, Cursor::new(data))
        .take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|source| DecompressError::Broken {
            compression,
            source,
        })?;
    if content.len() as u64 > limit {
        return Err(DecompressError::TooLarge { compression, limit });
    }
    Ok(content)
}

/// Reads every frame of a Zstandard stream, and skips those that carry no content, as images that
/// can be fetched in pieces have them.
struct ZstdFrames<R> {
    source: R,
    decoder: ZstdDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        let mut decoder = ZstdDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        Self {
            source,
            decoder,
            in_frame: false,
        }
    }

    /// Goes to the next frame with content; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            let mut magic = [0; ZSTD_FIELD_BYTES];
            self.source.read_exact(&mut magic)?;
            if u32::from_le_bytes(magic) >> 4 == 0x0184_d2a5 {
                let mut size = [0; ZSTD_FIELD_BYTES];
                self.source.read_exact(&mut size)?;
                let size = u64::from(u32::from_le_bytes(size));
                let skipped = io::copy(&mut self.source.by_ref().take(size), &mut io::sink())?;
                if skipped != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            self.decoder
                .reset(magic.as_slice().chain(&mut self.source))
                .map_err(io::Error::other)?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.in_frame = !(self.decoder.is_finished() && self.decoder.can_collect() == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `zstd` over `one` and over `two`, with a skipped frame between them.
    const ZSTD_FRAMES: [&[u8]; 3] = [
        b"\x28\xb5\x2f\xfd\x20\x03\x19\x00\x00one",
        b"\x5a\x2a\x4d\x18\x02\x00\x00\x00??",
        b"\x28\xb5\x2f\xfd\x20\x03\x19\x00\x00two",
    ];

    #[test]
    fn all_frames_of_a_zstd_stream_are_read() {
        let data = ZSTD_FRAMES.concat();
        assert_eq!(Compression::detect(&data), Some(Compression::Zstd));
        assert_eq!(decompress(Compression::Zstd, &data, 6).unwrap(), b"onetwo");
    }

    #[test]
    fn a_stream_that_ends_early_is_broken() {
        let data = ZSTD_FRAMES.concat();
        for length in [5, 11, 15, 20, data.len() - 1] {
            assert!(
                matches!(
                    decompress(Compression::Zstd, &data[..length], 100),
                    Err(DecompressError::Broken { .. })
                ),
                "{length}"
            );
        }
    }

    #[test]
    fn content_beyond_the_limit_is_refused() {
        let data = ZSTD_FRAMES.concat();
        assert!(matches!(
            decompress(Compression::Zstd, &data, 5),
            Err(DecompressError::TooLarge { limit: 5, .. })
        ));
    }
}
