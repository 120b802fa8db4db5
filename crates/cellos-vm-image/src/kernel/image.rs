//! The ELF kernel inside a bzImage (Linux, `Documentation/arch/x86/boot.rst`).

use crate::compression::{Compression, DecompressError, decompress};

use super::elf::is_elf_for_x86_64;

/// Largest uncompressed kernel, in bytes; Debian's has 53 MB.
pub const MAX_VMLINUX_BYTES: u64 = 512 * 1024 * 1024;

/// Offset of the number of 512-byte sectors of real-mode code after the first.
const SETUP_SECTORS: usize = 0x1f1;

/// Number of such sectors when the field says 0.
const DEFAULT_SETUP_SECTORS: usize = 4;

/// Size of a sector, in bytes.
const SECTOR_BYTES: usize = 512;

/// Offset of `HdrS`, which marks a kernel with a setup header.
const HEADER_MAGIC: usize = 0x202;

/// Offset of the version of the boot protocol.
const PROTOCOL: usize = 0x206;

/// First version of the boot protocol that says where the payload is.
const FIRST_PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;

/// Offset of where the payload begins, counted from the protected-mode code.
const PAYLOAD_OFFSET: usize = 0x248;

/// Offset of the payload's size in bytes.
const PAYLOAD_LENGTH: usize = 0x24c;

/// Size of the field after the payload that holds the kernel's uncompressed size. It counts as
/// payload, for every compression but gzip, whose format ends in that field itself.
const SIZE_FIELD_BYTES: usize = 4;

/// What stands before the version in the kernel's banner.
const BANNER: &[u8] = b"Linux version ";

/// Longest version of a kernel, in bytes: `__NEW_UTS_LEN`.
const MAX_RELEASE_BYTES: usize = 64;

/// Why a file is no kernel that can be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file is neither a bzImage nor an ELF file.
    #[error("neither a bzImage nor an ELF kernel")]
    NotAKernel,
    /// The kernel is for another machine.
    #[error("not for x86_64")]
    Machine,
    /// The boot protocol is too old.
    #[error("boot protocol {found:#06x} does not say where the payload is; 0x0208 is needed")]
    Protocol {
        /// The version found.
        found: u16,
    },
    /// The header names a payload that is not in the file.
    #[error("the payload that its header names is not in the file")]
    Payload,
    /// The payload is compressed in a way that is not known.
    #[error(
        "compressed in an unknown way (begins with {begins:02x?}); gzip, xz, zstd and lz4 are known"
    )]
    Compression {
        /// The first bytes.
        begins: Vec<u8>,
    },
    /// The payload cannot be decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The uncompressed kernel has another size than the image says.
    #[error("uncompressed kernel has {found} bytes, the image says {stated}")]
    Size {
        /// What the image says, in bytes, modulo 2^32.
        stated: u32,
        /// What there is, in bytes.
        found: usize,
    },
    /// The kernel does not say which version it is.
    #[error("no version found in the kernel")]
    NoVersion,
}

/// The ELF kernel in a bzImage; an ELF kernel as it is.
pub(super) fn vmlinux(file: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let vmlinux = if file.starts_with(b"\x7fELF") {
        file
    } else {
        extract(&file)?
    };
    if is_elf_for_x86_64(&vmlinux) {
        Ok(vmlinux)
    } else if vmlinux.starts_with(b"\x7fELF") {
        Err(KernelError::Machine)
    } else {
        Err(KernelError::NotAKernel)
    }
}

/// The version of an uncompressed kernel, from its banner.
pub(super) fn release(vmlinux: &[u8]) -> Result<String, KernelError> {
    let first = BANNER.first().copied().unwrap_or_default();
    let mut rest = vmlinux;
    while let Some(start) = rest.iter().position(|byte| *byte == first) {
        rest = rest.get(start..).unwrap_or_default();
        let Some(text) = rest.strip_prefix(BANNER) else {
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        let release: Vec<u8> = text
            .iter()
            .take(MAX_RELEASE_BYTES)
            .copied()
            .take_while(|byte| !byte.is_ascii_whitespace() && byte.is_ascii_graphic())
            .collect();
        // `Linux version %s` also occurs, as a format.
        match String::from_utf8(release) {
            Ok(release) if release.starts_with(|first: char| first.is_ascii_digit()) => {
                return Ok(release);
            }
            _ => rest = text,
        }
    }
    Err(KernelError::NoVersion)
}

fn extract(file: &[u8]) -> Result<Vec<u8>, KernelError> {
    if file.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(KernelError::NotAKernel);
    }
    let protocol = file
        .get(PROTOCOL..)
        .and_then(|bytes| bytes.first_chunk().copied())
        .map(u16::from_le_bytes)
        .ok_or(KernelError::NotAKernel)?;
    if protocol < FIRST_PROTOCOL_WITH_PAYLOAD {
        return Err(KernelError::Protocol { found: protocol });
    }
    let payload = payload(file).ok_or(KernelError::Payload)?;
    let Some(compression) = Compression::detect(payload) else {
        return Err(KernelError::Compression {
            begins: payload.iter().take(SIZE_FIELD_BYTES).copied().collect(),
        });
    };
    let (stream, size) = payload
        .split_last_chunk::<SIZE_FIELD_BYTES>()
        .ok_or(KernelError::Payload)?;
    let stream = match compression {
        Compression::Gzip => payload,
        _ => stream,
    };
    let vmlinux = decompress(compression, stream, MAX_VMLINUX_BYTES)?;
    let stated = u32::from_le_bytes(*size);
    if u32::try_from(vmlinux.len()) != Ok(stated) {
        return Err(KernelError::Size {
            stated,
            found: vmlinux.len(),
        });
    }
    Ok(vmlinux)
}

fn payload(file: &[u8]) -> Option<&[u8]> {
    let sectors = match *file.get(SETUP_SECTORS)? {
        0 => DEFAULT_SETUP_SECTORS,
        count => usize::from(count),
    };
    let field = |offset: usize| {
        let bytes = file.get(offset..)?.first_chunk().copied()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = ((sectors + 1) * SECTOR_BYTES).checked_add(field(PAYLOAD_OFFSET)?)?;
    file.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write as _;

    use flate2::{Compression as Level, write::GzEncoder};

    fn elf() -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf.extend_from_slice(b"Linux version %s Linux Linux version 6.1.0-1-test (x) #1");
        elf
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// As `lz4 -l` writes it: a magic number, then each block after its size.
    fn lz4(data: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(data);
        let size = |data: &[u8]| u32::try_from(data.len()).unwrap().to_le_bytes();
        [
            &[0x02, 0x21, 0x4c, 0x18],
            &size(&block)[..],
            &block,
            &size(data),
        ]
        .concat()
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR_BYTES + 16];
        image[SETUP_SECTORS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"code after the payload");
        image
    }

    #[test]
    fn the_kernel_comes_out_of_its_compressed_image() {
        for payload in [gzip(&elf()), lz4(&elf())] {
            assert_eq!(vmlinux(bz_image(&payload)).unwrap(), elf());
        }
    }

    #[test]
    fn an_elf_kernel_is_taken_as_it_is() {
        assert_eq!(vmlinux(elf()).unwrap(), elf());
    }

    #[test]
    fn the_version_is_the_one_of_the_banner() {
        assert_eq!(release(&elf()).unwrap(), "6.1.0-1-test");
        assert!(matches!(
            release(b"Linux version %s"),
            Err(KernelError::NoVersion)
        ));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut arm = elf();
        arm[18] = 183;
        let mut old = bz_image(&gzip(&elf()));
        old[PROTOCOL] = 7;
        let mut outside = bz_image(&gzip(&elf()));
        outside[PAYLOAD_OFFSET + 3] = 0xff;
        let mut longer = lz4(&elf());
        let end = longer.len() - 4;
        longer[end] ^= 1;
        type Expected = fn(&KernelError) -> bool;
        let cases: [(Vec<u8>, Expected); 8] = [
            (Vec::new(), |error| matches!(error, KernelError::NotAKernel)),
            (vec![0; 4096], |error| {
                matches!(error, KernelError::NotAKernel)
            }),
            (arm, |error| matches!(error, KernelError::Machine)),
            (old, |error| matches!(error, KernelError::Protocol { .. })),
            (outside, |error| matches!(error, KernelError::Payload)),
            (bz_image(b"BZh9...."), |error| {
                matches!(error, KernelError::Compression { .. })
            }),
            (bz_image(&gzip(&elf())[..40]), |error| {
                matches!(error, KernelError::Decompress(_))
            }),
            (bz_image(&longer), |error| {
                matches!(error, KernelError::Size { .. })
            }),
        ];
        for (index, (file, expected)) in cases.into_iter().enumerate() {
            let error = vmlinux(file).unwrap_err();
            assert!(expected(&error), "case {index}: {error}");
        }
    }
}
