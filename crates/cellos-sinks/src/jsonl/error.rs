//! What can go wrong with an events file.

use std::{io, path::PathBuf};

use cellos_core::CellosError;

/// Why an events file cannot be used at all. Found before a cell exists.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder is not there.
    #[error(
        "events file {path:?}: the folder does not exist: create it first or choose another path"
    )]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// It is a symbolic link, which somebody else could turn elsewhere.
    #[error("events file {path:?}: is a symbolic link: name the file that it points to")]
    SymbolicLink {
        /// The file.
        path: PathBuf,
    },
    /// It is something that cannot hold a log.
    #[error("events file {path:?}: is a {kind}: only a regular file can hold events")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The kernel refuses.
    #[error(
        "events file {path:?}: cannot {operation}: {source}: choose a file that can be read and \
         written"
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Its last line is torn and could not be ended.
    #[error(transparent)]
    Mend(#[from] WriteError),
}

/// Why one event, or a flush, did not reach the file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no room: disk, quota or file size limit. The text starts with the published
    /// contract's marker.
    #[error("sink full: events file {path:?}: {source}; nothing of the event was kept")]
    Full {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There was no room, and the part that was written could not be taken back. The next writer
    /// ends the torn line.
    #[error(
        "sink full: events file {path:?}: {source}; a torn line stays, because cutting it off \
         failed: {cut}"
    )]
    FullAndTorn {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
        /// Why the file could not be cut.
        cut: io::Error,
    },
    /// The event is too large.
    #[error("event {ty} is a line of {bytes} bytes, the limit is {limit}; nothing was written")]
    TooLong {
        /// Type of the event.
        ty: String,
        /// Size of the line in bytes, its end included.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another program holds the file's lock.
    #[error(
        "events file {path:?}: another program has kept it locked for {waited_ms} ms: end that \
         program or choose another file"
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long was waited, in milliseconds.
        waited_ms: u128,
    },
    /// The file was deleted, so nobody would find what is written.
    #[error("events file {path:?}: was deleted while in use; nothing was written")]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// Anything else the kernel says.
    #[error("events file {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An earlier flush failed. Later ones may succeed without the lost bytes (fsync(2)), so the
    /// sink refuses from there on.
    #[error("events file {path:?}: an earlier flush failed, so events may be lost already")]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The event has no JSON form.
    #[error("event {ty} cannot be written as JSON: {source}")]
    Encode {
        /// Type of the event.
        ty: String,
        /// The encoder's reason.
        source: serde_json::Error,
    },
}

impl From<OpenError> for CellosError {
    fn from(error: OpenError) -> Self {
        Self::EventSink(error.to_string())
    }
}

impl From<WriteError> for CellosError {
    fn from(error: WriteError) -> Self {
        Self::EventSink(error.to_string())
    }
}
