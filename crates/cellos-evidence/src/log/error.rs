//! Why a log cannot be opened or appended to.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::CellosError;

use crate::{
    head::HeadError,
    line::{EncodeError, LineError, MAX_KID_BYTES, MAX_LINES_PER_SIGNATURE},
    seal::SealError,
    signed::SignError,
};

/// Why a log cannot be opened or appended to. One failure may concern several callers, so it can
/// be cloned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Its folder is not there.
    #[error(
        "event log {path:?}: the folder does not exist: create it first or choose another path"
    )]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// It is a symbolic link, which somebody else could turn elsewhere.
    #[error("event log {path:?}: is a symbolic link: name the file that it points to")]
    SymbolicLink {
        /// The file.
        path: PathBuf,
    },
    /// It is something that cannot hold a log.
    #[error("event log {path:?}: is not a regular file: only such a file can hold events")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The path has no file name, or one that is not UTF-8.
    #[error("event log {path:?}: its name cannot be read: choose another one")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("event log {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: Arc<io::Error>,
    },
    /// There is no room: disk, quota or file size limit. The text starts with the published
    /// contract's marker.
    #[error("sink full: event log {path:?}: {source}; nothing of the event was kept")]
    Full {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: Arc<io::Error>,
    },
    /// There was no room, and the part that was written could not be taken back. The next writer
    /// sets it aside.
    #[error(
        "sink full: event log {path:?}: {source}; a torn line stays, because cutting it off \
         failed: {cut}"
    )]
    FullAndTorn {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: Arc<io::Error>,
        /// Why the file could not be cut.
        cut: Arc<io::Error>,
    },
    /// Another program holds the lock.
    #[error(
        "event log {path:?}: another program has kept it locked for {waited_ms} ms: end that \
         program or choose another file"
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long was waited, in milliseconds.
        waited_ms: u128,
    },
    /// The last line is none of a log of ours.
    #[error("event log {path:?}: its last line: {source}: choose another file")]
    NotALog {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<LineError>,
    },
    /// Its end has no line feed for longer than a line may be.
    #[error("event log {path:?}: its end is no line of a log: choose another file")]
    NoLine {
        /// The file.
        path: PathBuf,
    },
    /// It was deleted, so nobody would find what is written.
    #[error("event log {path:?}: was deleted while in use; nothing was written")]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// It ends before where it ended earlier.
    #[error(
        "event log {path:?}: ends before line number {missing}, which it had: it was cut off; \
         `cellos verify` shows what is left, and moving all of its files away begins a new log"
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Number of the first line that is missing.
        missing: u64,
    },
    /// It holds other lines than earlier.
    #[error(
        "event log {path:?}: line number {seq} is not the one that it had, or stands in another \
         log: it was replaced; `cellos verify` shows what is there, and moving all of its files \
         away begins a new log"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        seq: u64,
    },
    /// Its head is signed by our key, and the signature is not right.
    #[error(
        "event log {path:?}: its head has a wrong signature by key {kid}: it was changed; `cellos \
         verify` shows what is there, and moving all of its files away begins a new log"
    )]
    HeadForged {
        /// The file.
        path: PathBuf,
        /// The key.
        kid: String,
    },
    /// The log is signed and there is no signer.
    #[error(
        "event log {path:?}: is signed, and there is no key to go on with: configure one or \
         choose another file"
    )]
    SignerMissing {
        /// The file.
        path: PathBuf,
    },
    /// The log is signed by a key that ours is not published with.
    #[error(
        "event log {path:?}: is signed by key {kid}, which is not published together with key \
         {signer}, so that nobody could check all of it with one keyset: sign with a key of that \
         keyset, or move all of its files away, which begins a new log"
    )]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The key that signed its last line.
        kid: String,
        /// The key that was to go on.
        signer: String,
    },
    /// The last line is not signed by the key that it names.
    #[error(
        "event log {path:?}: its last line is not signed by the published key {kid}: another key \
         of that name signed it, or it was changed; `cellos verify` shows what is there, and \
         moving all of its files away begins a new log"
    )]
    Namesake {
        /// The file.
        path: PathBuf,
        /// The name of the key.
        kid: String,
    },
    /// The log is signed, and its last lines are not.
    #[error(
        "event log {path:?}: its last {MAX_LINES_PER_SIGNATURE} lines have no signature, the ones \
         before have: they were added by somebody else; `cellos verify` shows what is there, and \
         moving all of its files away begins a new log"
    )]
    UnsignedEnd {
        /// The file.
        path: PathBuf,
    },
    /// The id of the key cannot stand in a line.
    #[error(
        "event log {path:?}: the key is called {kid:?}; the id of a key is 1 to {MAX_KID_BYTES} \
         visible ASCII characters other than \" and \\"
    )]
    KeyId {
        /// The file.
        path: PathBuf,
        /// The id.
        kid: String,
    },
    /// The lines of the live file are not those that it should have.
    #[error(
        "event log {path:?}: cannot be sealed, because its lines are not a chain from the first \
         to the last: `cellos verify` shows what is there, and moving all of its files away begins \
         a new log"
    )]
    NotAChain {
        /// The file.
        path: PathBuf,
    },
    /// An earlier flush failed. Later ones may succeed without the lost bytes (fsync(2)), so the
    /// log refuses from there on.
    #[error("event log {path:?}: an earlier flush failed, so events may be lost already")]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// What is stated beside the log cannot be signed.
    #[error("event log {path:?}: {source}")]
    Sign {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<SignError>,
    },
    /// The head cannot be read.
    #[error(transparent)]
    Head(Arc<HeadError>),
    /// A seal cannot be read.
    #[error(transparent)]
    Seal(Arc<SealError>),
    /// The event cannot be made a line.
    #[error(transparent)]
    Encode(Arc<EncodeError>),
}

impl LogError {
    /// What the kernel said about an operation on a file.
    pub(super) fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        let source = Arc::new(source);
        match is_full(&source) {
            true => Self::Full { path, source },
            false => Self::Io {
                path,
                operation,
                source,
            },
        }
    }

    /// What the kernel said about opening a file.
    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        let errno = source
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error);
        match errno {
            Some(rustix::io::Errno::LOOP) => Self::SymbolicLink { path: path.into() },
            Some(rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO) => {
                Self::NotAFile { path: path.into() }
            }
            Some(rustix::io::Errno::NOENT) => Self::NoFolder { path: path.into() },
            _ => Self::io(path, "open it", source),
        }
    }
}

/// Whether there was no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl From<EncodeError> for LogError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(Arc::new(error))
    }
}

impl From<LogError> for CellosError {
    fn from(error: LogError) -> Self {
        Self::EventSink(error.to_string())
    }
}
