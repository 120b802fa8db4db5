//! Opens document files safely: no symbolic link as the last component, regular files only,
//! nothing that blocks, and a size cap that holds before anything is kept.

use std::{
    fmt, fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use cellos_core::source::MAX_DOCUMENT_BYTES;
use rustix::fs::{FileType, Mode, OFlags};

/// One byte more than a document may have, so that one that is too large is noticed before the
/// rest of it is read.
const READ_CAP: u64 = MAX_DOCUMENT_BYTES as u64 + 1;

/// Where a document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocumentSource {
    /// `-`.
    StandardInput,
    /// A file.
    File(PathBuf),
}

impl DocumentSource {
    /// `-` is standard input; everything else is a path.
    pub(crate) fn from_argument(argument: &Path) -> Self {
        if argument.as_os_str() == "-" {
            Self::StandardInput
        } else {
            Self::File(argument.to_path_buf())
        }
    }

    /// The folder that relative paths inside the document mean.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::StandardInput => Path::new(""),
            Self::File(path) => path.parent().unwrap_or(Path::new("")),
        }
    }
}

impl fmt::Display for DocumentSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("<stdin>"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentFileError {
    #[error("{source_name}: no such file")]
    Missing { source_name: DocumentSource },
    #[error("{source_name}: is a symbolic link, which is not followed; name the file itself")]
    SymbolicLink { source_name: DocumentSource },
    #[error("{source_name}: is {kind}, not a regular file")]
    NotRegular {
        source_name: DocumentSource,
        kind: &'static str,
    },
    #[error("{source_name}: larger than {MAX_DOCUMENT_BYTES} bytes, the most a document may have")]
    TooLarge { source_name: DocumentSource },
    #[error("{source_name}: {encoding}; save it as UTF-8 without a byte order mark")]
    Encoding {
        source_name: DocumentSource,
        encoding: Encoding,
    },
    #[error("{source_name}: cannot be read")]
    Io {
        source_name: DocumentSource,
        source: io::Error,
    },
}

/// An encoding that is not ours, recognised by its first bytes or by what breaks UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Encoding {
    #[error("encoded as UTF-32 (byte order mark)")]
    Utf32,
    #[error("encoded as UTF-16 (byte order mark)")]
    Utf16,
    #[error("encoded as UTF-16 (every other byte is zero)")]
    Utf16WithoutMark,
    #[error("starts with a UTF-8 byte order mark")]
    Utf8Mark,
    #[error("encoded as Latin-1 or Windows-1252, it seems (byte 0x{byte:02x} on line {line})")]
    SingleByte {
        /// The first byte that breaks UTF-8.
        byte: u8,
        /// Its line, from 1.
        line: usize,
    },
}

/// Reads a whole document as UTF-8 text.
pub(crate) fn read(source: &DocumentSource) -> Result<String, DocumentFileError> {
    let bytes = match source {
        DocumentSource::StandardInput => read_capped(io::stdin().lock(), source)?,
        DocumentSource::File(path) => read_capped(open(path, source)?, source)?,
    };
    decode(bytes).map_err(|encoding| DocumentFileError::Encoding {
        source_name: source.clone(),
        encoding,
    })
}

fn open(path: &Path, source: &DocumentSource) -> Result<fs::File, DocumentFileError> {
    // NONBLOCK: opening a FIFO without a writer would wait for one. NOCTTY: a terminal must not
    // become ours.
    let flags =
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
        let source_name = source.clone();
        match errno {
            rustix::io::Errno::NOENT => DocumentFileError::Missing { source_name },
            rustix::io::Errno::LOOP => DocumentFileError::SymbolicLink { source_name },
            // A socket.
            rustix::io::Errno::NXIO => DocumentFileError::NotRegular {
                source_name,
                kind: "a socket",
            },
            other => DocumentFileError::Io {
                source_name,
                source: other.into(),
            },
        }
    })?;
    let status = rustix::fs::fstat(&descriptor).map_err(|errno| DocumentFileError::Io {
        source_name: source.clone(),
        source: errno.into(),
    })?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => return Ok(descriptor.into()),
        FileType::Directory => "a folder",
        FileType::Fifo => "a FIFO",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Socket => "a socket",
        FileType::Symlink | FileType::Unknown => "something else",
    };
    Err(DocumentFileError::NotRegular {
        source_name: source.clone(),
        kind,
    })
}

fn read_capped(reader: impl Read, source: &DocumentSource) -> Result<Vec<u8>, DocumentFileError> {
    let mut bytes = Vec::new();
    reader
        .take(READ_CAP)
        .read_to_end(&mut bytes)
        .map_err(|error| DocumentFileError::Io {
            source_name: source.clone(),
            source: error,
        })?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentFileError::TooLarge {
            source_name: source.clone(),
        });
    }
    Ok(bytes)
}

fn decode(bytes: Vec<u8>) -> Result<String, Encoding> {
    match bytes.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(Encoding::Utf32),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(Encoding::Utf16),
        [0xef, 0xbb, 0xbf, ..] => return Err(Encoding::Utf8Mark),
        [0, _, 0, _, ..] | [_, 0, _, 0, ..] => return Err(Encoding::Utf16WithoutMark),
        _ => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        Encoding::SingleByte {
            byte: bytes.get(at).copied().unwrap_or_default(),
            line: 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> DocumentSource {
        DocumentSource::File(path.to_path_buf())
    }

    #[test]
    fn foreign_encodings_are_named() {
        assert_eq!(decode(b"\xff\xfea\0".to_vec()), Err(Encoding::Utf16));
        assert_eq!(decode(b"\xff\xfe\0\0".to_vec()), Err(Encoding::Utf32));
        assert_eq!(decode(b"{\0}\0".to_vec()), Err(Encoding::Utf16WithoutMark));
        assert_eq!(decode(b"\xef\xbb\xbf{}".to_vec()), Err(Encoding::Utf8Mark));
        assert_eq!(
            decode(b"a: 1\nb: caf\xe9\n".to_vec()),
            Err(Encoding::SingleByte {
                byte: 0xe9,
                line: 2
            })
        );
        assert_eq!(decode("caf\u{e9}".into()), Ok("caf\u{e9}".into()));
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("sock")).unwrap();
        for (path, kind) in [
            (fifo.as_path(), "a FIFO"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
            (&folder.path().join("sock"), "a socket"),
        ] {
            let error = read(&file(path)).unwrap_err();
            assert!(
                matches!(error, DocumentFileError::NotRegular { kind: found, .. } if found == kind),
                "{error}"
            );
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.yaml");
        fs::write(folder.path().join("real.yaml"), "{}").unwrap();
        std::os::unix::fs::symlink("real.yaml", &link).unwrap();
        assert!(matches!(
            read(&file(&link)),
            Err(DocumentFileError::SymbolicLink { .. })
        ));
    }

    #[test]
    fn the_size_cap_is_exact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big.yaml");
        fs::write(&path, vec![b' '; MAX_DOCUMENT_BYTES]).unwrap();
        assert_eq!(read(&file(&path)).unwrap().len(), MAX_DOCUMENT_BYTES);
        fs::write(&path, vec![b' '; MAX_DOCUMENT_BYTES + 1]).unwrap();
        assert!(matches!(
            read(&file(&path)),
            Err(DocumentFileError::TooLarge { .. })
        ));
    }
}
