//! From the log to a remote sink.
//!
//! A forwarder reads the log behind its cursor, delivers in batches, and moves the cursor over what
//! was acknowledged and nothing else. So every event is delivered at least once and in order, however
//! long the other side is away and whenever a process dies; what cannot be read is an error that
//! stays and is never passed over.

mod backoff;
mod cursor;
mod source;

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{sync::watch, time};

pub use backoff::{FIRST_WAIT, LONGEST_WAIT};
pub use cursor::{Cursor, CursorError};
pub use source::{SourceError, tail};

use backoff::Backoff;
use cursor::CursorFile;
use source::{Next, Source};

use crate::remote::{DeliveryError, RemoteSink, Retry, StoredEvent};

/// Most events that are delivered together.
pub const MAX_BATCH_EVENTS: usize = 256;
/// Most bytes of lines that are delivered together, unless a single line has more. Receivers bound
/// requests to a few megabytes.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Time between two looks at a log that is followed.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Tries in a row that may fail before a forwarder that is not to follow gives up.
pub const TRIES: u32 = 5;

/// Why events cannot be forwarded, whatever the receiver does.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The cursor cannot be used.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The log cannot be read from there.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What one step did.
#[derive(Debug)]
pub enum Step {
    /// There is nothing to deliver now.
    Nothing,
    /// So many events were acknowledged.
    Delivered(u64),
    /// So many were acknowledged, and then it failed.
    Failed {
        /// How many.
        delivered: u64,
        /// Why not more.
        error: DeliveryError,
    },
}

/// When a forwarder that has delivered everything, or cannot, is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It goes on: more events will come, and so may the receiver.
    Told,
    /// When nothing is left, [`TRIES`] in a row have failed, or the receiver asks for a wait of
    /// more than [`LONGEST_WAIT`].
    Empty,
}

/// How forwarding ended.
#[derive(Debug)]
pub enum End {
    /// Everything was delivered.
    Empty,
    /// The receiver could not be reached, or asked to come back later.
    Away(String),
    /// The receiver refuses.
    Refused(String),
    /// It cannot go on by itself.
    Failed(ForwardError),
}

/// Delivers a log to one sink.
pub struct Forwarder {
    sink: Arc<dyn RemoteSink>,
    file: CursorFile,
    cursor: Option<Cursor>,
    source: Source,
    /// Read and not acknowledged, with the cursor behind each.
    pending: Vec<StoredEvent>,
    behind: Vec<Cursor>,
    /// The line that did not fit into the batch.
    held: Option<Next>,
    /// What stops reading behind the pending events.
    stuck: Option<SourceError>,
    delivered: u64,
    /// Why the last delivery failed, where it did.
    trouble: Option<String>,
}

impl Forwarder {
    /// Takes the cursor that belongs to `name`, and checks that it fits the log.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn open(log: &Path, name: &str, sink: Arc<dyn RemoteSink>) -> Result<Self, ForwardError> {
        let file = CursorFile::take(Cursor::path(log, name))?;
        let cursor = Cursor::read(file.path())?;
        behind(log, file.path(), cursor.as_ref())?;
        Ok(Self {
            source: Source::after(log, cursor.as_ref())?,
            sink,
            file,
            cursor,
            pending: Vec::new(),
            behind: Vec::new(),
            held: None,
            stuck: None,
            delivered: 0,
            trouble: None,
        })
    }

    /// How many events were acknowledged since it was opened.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Why the last delivery failed, where it did.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How many events of the log are not acknowledged.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn lag(&self) -> Result<u64, ForwardError> {
        behind(self.source.log(), self.file.path(), self.cursor.as_ref())
    }

    /// Delivers one batch.
    ///
    /// # Errors
    /// [`ForwardError`]. What was read before a line that cannot be is delivered first.
    pub async fn step(&mut self) -> Result<Step, ForwardError> {
        if self.stuck.is_none() {
            self.stuck = self.fill().err();
        }
        if self.pending.is_empty() {
            let Some(error) = self.stuck.take() else {
                return Ok(Step::Nothing);
            };
            // Whoever tries again starts from the cursor, and so does not get past it.
            let log = self.source.log().to_owned();
            self.source = Source::after(&log, self.cursor.as_ref())?;
            return Err(error.into());
        }
        match self.sink.deliver(&self.pending).await {
            Ok(()) => {
                self.trouble = None;
                Ok(Step::Delivered(self.acknowledge(self.pending.len())?))
            }
            Err(error) => {
                self.trouble = Some(error.reason.clone());
                let acknowledged = error.acknowledged.min(self.pending.len());
                let delivered = self.acknowledge(acknowledged)?;
                Ok(Step::Failed { delivered, error })
            }
        }
    }

    /// Delivers until it is done. `until` may change meanwhile; where nobody can change it any
    /// more it stays. May be dropped at any time: what was not acknowledged is delivered again.
    pub async fn forward(&mut self, until: &mut watch::Receiver<Until>) -> End {
        let mut backoff = Backoff::default();
        loop {
            let step = match self.step().await {
                Ok(step) => step,
                Err(error) => return End::Failed(error),
            };
            // Reading it marks it as seen, so that a wait ends when it changes after this.
            let now = *until.borrow_and_update();
            match (step, now) {
                (Step::Delivered(_), _) => backoff.reset(),
                (Step::Nothing, Until::Empty) => return End::Empty,
                (Step::Nothing, Until::Told) => pause(POLL_INTERVAL, until).await,
                (Step::Failed { error, .. }, _) if error.retry == Retry::Useless => {
                    return End::Refused(error.reason);
                }
                (Step::Failed { delivered, error }, now) => {
                    if delivered > 0 {
                        backoff.reset();
                    }
                    if now == Until::Empty && backoff.failures() + 1 >= TRIES {
                        return End::Away(error.reason);
                    }
                    let wait = backoff.after_failure(self.sink.asked_to_wait());
                    if now == Until::Empty && wait > LONGEST_WAIT {
                        return End::Away(error.reason);
                    }
                    tracing::debug!(?wait, reason = error.reason, "delivery failed");
                    pause(wait, until).await;
                }
            }
        }
    }

    /// Reads until a batch is full or there is nothing more.
    fn fill(&mut self) -> Result<(), SourceError> {
        let mut bytes = 0;
        while self.pending.len() < MAX_BATCH_EVENTS {
            let next = match self.held.take() {
                Some(next) => next,
                None => match self.source.next()? {
                    Some(next) => next,
                    None => break,
                },
            };
            bytes += next.bytes;
            if bytes > MAX_BATCH_BYTES && !self.pending.is_empty() {
                self.held = Some(next);
                break;
            }
            self.pending.push(next.stored);
            self.behind.push(next.behind);
        }
        Ok(())
    }

    /// Moves the cursor over so many of the pending events.
    fn acknowledge(&mut self, count: usize) -> Result<u64, ForwardError> {
        let Some(cursor) = count.checked_sub(1).and_then(|last| self.behind.get(last)) else {
            return Ok(0);
        };
        self.file.store(cursor)?;
        self.cursor = Some(cursor.clone());
        self.pending.drain(..count);
        self.behind.drain(..count);
        let delivered = u64::try_from(count).unwrap_or(u64::MAX);
        self.delivered += delivered;
        Ok(delivered)
    }
}

/// How many events of a log a sink has not acknowledged. Looks at the cursor and at the log's last
/// line and at nothing else, and takes no lock.
///
/// # Errors
/// [`ForwardError`].
pub fn lag(log: &Path, name: &str) -> Result<u64, ForwardError> {
    let path = Cursor::path(log, name);
    let cursor = Cursor::read(&path)?;
    behind(log, &path, cursor.as_ref())
}

fn behind(log: &Path, path: &Path, cursor: Option<&Cursor>) -> Result<u64, ForwardError> {
    match (tail(log)?, cursor) {
        (None, None) => Ok(0),
        (Some(tail), None) => Ok(tail.next_seq),
        (Some(tail), Some(cursor)) => Ok(cursor.behind(path, &tail)?),
        (None, Some(cursor)) => Err(CursorError::Ahead {
            path: path.to_owned(),
            cursor: cursor.next_seq,
            log: 0,
        }
        .into()),
    }
}

/// Waits, or until somebody says something else.
async fn pause(wait: Duration, until: &mut watch::Receiver<Until>) {
    let told = async {
        // Nobody can say anything any more: the wait is as long as it is.
        if until.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let _ = time::timeout(wait, told).await;
}

#[cfg(test)]
mod tests;
