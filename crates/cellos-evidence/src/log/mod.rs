//! The files of a log: appending to it from several processes, and reading it back.

mod reader;
mod segments;
mod writer;

use std::{io, path::PathBuf, sync::Arc};

use cellos_core::{CellosError, CloudEventV1, ports::EventSink, signing::Signer};

pub use reader::{AtEnd, LineEnd, LineReader, LogLine, LogReader, RawLine, ReadError};
pub use segments::{MAX_SEGMENTS, Segment, Segments, SegmentsError};
pub use writer::{Appended, EventLog};

use crate::line::{EncodeError, LineError};

/// What an event survives, and from when on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process, when it has been appended. Costs no disk flush.
    Process,
    /// A crash of the machine, when `flush` has returned, which the lifecycle calls at every change
    /// of phase.
    #[default]
    Machine,
}

/// Where a log is, and how it is written.
#[derive(Clone)]
pub struct LogConfig {
    /// The file that is appended to. Made with mode 0600 if it does not exist; its folder has to
    /// exist.
    pub path: PathBuf,
    /// What an event survives.
    pub durability: Durability,
    /// Who signs; without one the log is chained and not signed.
    pub signer: Option<Arc<dyn Signer>>,
}

impl LogConfig {
    /// A log that is not signed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            signer: None,
        }
    }
}

/// Why a log cannot be opened, appended to or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The kernel refuses.
    #[error("event log {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is no room. The text starts with the published contract's marker.
    #[error("sink full: event log {path:?}: {source}; nothing of the event was kept")]
    Full {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
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
        source: LineError,
    },
    /// The event cannot be made a line.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl From<LogError> for CellosError {
    fn from(error: LogError) -> Self {
        Self::EventSink(error.to_string())
    }
}

#[async_trait::async_trait]
impl EventSink for EventLog {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.append(std::slice::from_ref(event))?;
        Ok(())
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        self.append(events)?;
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        Ok(self.sync()?)
    }
}
