//! The files of a log: appending to it from several processes, and reading it back.
//!
//! Beside `events.jsonl` stand `events.jsonl.lock` (who appends holds it), `events.jsonl.head` (see
//! [`head`](crate::head)), sealed segments and their seals (see [`Segments`]), and, where a writer
//! died while it wrote, the torn bytes as `events.jsonl.torn-<offset>`.

mod end;
mod error;
mod flush;
mod group;
mod notes;
mod reader;
mod recovery;
mod rotation;
mod segments;
mod storage;
mod wait;
mod writer;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellos_core::{
    CellosError, CloudEventV1,
    ports::EventSink,
    signing::{Signer, TrustAnchorPublicKey},
};
use jiff::Timestamp;

pub use error::LogError;
pub use notes::{RECOVERED, SEGMENT_SEALED};
pub use reader::{AtEnd, LineEnd, LineReader, LogLine, LogReader, RawLine, ReadError};
pub use segments::{MAX_SEGMENTS, Segment, Segments, SegmentsError};
pub use writer::{Appended, EventLog};

/// Size that a file may reach before it is sealed, in bytes, unless configured. It is hashed once
/// more when it is sealed, which takes less than a second and holds up whoever appends.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Age that a file may reach before it is sealed, unless configured: a day.
pub const DEFAULT_SEGMENT_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What an event survives, and from when on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process, when it has been appended. Costs no disk flush. After a crash of
    /// the machine the log may be behind its head, and then it is refused as cut off.
    Process,
    /// A crash of the machine, when `flush` has returned, which the lifecycle calls at every change
    /// of phase.
    #[default]
    Machine,
}

/// When the live file is sealed and another one begun. It is looked at before an event is
/// appended, so a file is larger by what was appended last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Size that a file may reach, in bytes.
    pub max_bytes: u64,
    /// Age that its first event may reach; `None` for any.
    pub max_age: Option<Duration>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_SEGMENT_BYTES,
            max_age: Some(DEFAULT_SEGMENT_AGE),
        }
    }
}

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Public keys by their ids.
pub type KnownKeys = BTreeMap<String, TrustAnchorPublicKey>;

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
    /// The keys that are published together with the signer's, itself included. A log whose last
    /// line is signed by none of them is refused, because nobody could check all of it with one
    /// keyset. `None` goes on with any.
    pub known_keys: Option<Arc<KnownKeys>>,
    /// When the live file is sealed.
    pub rotation: Rotation,
    /// Dates heads, seals and the log's own events.
    pub clock: Clock,
}

impl LogConfig {
    /// A log that is not signed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            signer: None,
            known_keys: None,
            rotation: Rotation::default(),
            clock: Clock::default(),
        }
    }
}

/// A file that stands beside the log: `events.jsonl` has `events.jsonl.lock`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[async_trait::async_trait]
impl EventSink for EventLog {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.append_async(std::slice::from_ref(event)).await?;
        Ok(())
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        for together in events.chunks(crate::line::MAX_LINES_PER_SIGNATURE as usize) {
            self.append_async(together).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        Ok(self.flush_async().await?)
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
