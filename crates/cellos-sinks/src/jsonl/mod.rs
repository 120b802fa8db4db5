//! One event per line in a file.
//!
//! Several processes may append to one file at the same time. A line is written whole or not at
//! all; a torn line that a dying writer left is ended, never continued.

mod config;
mod error;
mod file;

pub use config::{Durability, JsonlConfig};
pub use error::{OpenError, WriteError};
pub use file::TornLine;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use cellos_core::{CellosError, CloudEventV1, ports::EventSink};
use file::LogFile;

/// Longest line in bytes, its line feed included. The published contract's bound: readers there
/// refuse longer lines.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Appends events to a file, see the [module](self).
///
/// Writing happens on the calling thread: lock, look, write and unlock are five system calls on a
/// file in the page cache and take about 7 µs together, no more than handing the line to
/// another thread and back would. Flushing to the disk takes 0.1 ms to milliseconds: on a runtime
/// with several threads it goes to those for blocking calls; on one with a single thread, which
/// runs one cell and has nothing else to do, starting a thread for it would cost more.
#[derive(Debug)]
pub struct JsonlSink {
    path: PathBuf,
    file: Arc<LogFile>,
    durability: Durability,
    torn: Mutex<Vec<TornLine>>,
}

impl JsonlSink {
    /// Opens the file, so that one that cannot be used is known before a cell exists.
    ///
    /// # Errors
    /// [`OpenError`] with the path and what to do about it.
    pub fn open(config: JsonlConfig) -> Result<Self, OpenError> {
        let (file, torn) = LogFile::open(&config.path)?;
        let sink = Self {
            path: config.path,
            file: Arc::new(file),
            durability: config.durability,
            torn: Mutex::default(),
        };
        sink.report(torn);
        Ok(sink)
    }

    /// Torn lines that other writers left and this sink ended, oldest first.
    #[must_use]
    pub fn torn_lines(&self) -> Vec<TornLine> {
        self.torn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn report(&self, torn: Option<TornLine>) {
        let Some(torn) = torn else { return };
        tracing::warn!(
            path = %self.path.display(),
            offset = torn.ended_at,
            "the last line of the events file was torn; it was kept and ended"
        );
        self.torn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(torn);
    }

    async fn sync(&self) -> Result<(), WriteError> {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let alone = Handle::try_current().map_or(true, |runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
        });
        if alone {
            return self.file.sync();
        }
        let file = Arc::clone(&self.file);
        match tokio::task::spawn_blocking(move || file.sync()).await {
            Ok(result) => result,
            Err(join) => Err(WriteError::Io {
                path: self.path.clone(),
                operation: "flush it",
                source: std::io::Error::other(join),
            }),
        }
    }
}

#[async_trait]
impl EventSink for JsonlSink {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.emit_all(std::slice::from_ref(event)).await
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        let mut lines = Vec::new();
        for event in events {
            lines.append(&mut line(event)?);
        }
        self.report(self.file.append(&lines)?);
        if self.durability == Durability::EachEvent {
            self.sync().await?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        match self.durability {
            Durability::Process => Ok(self.file.check_lost()?),
            Durability::Machine | Durability::EachEvent => Ok(self.sync().await?),
        }
    }
}

/// The event as one line. JSON escapes control characters, so there is no line feed within.
fn line(event: &CloudEventV1) -> Result<Vec<u8>, WriteError> {
    let mut line = serde_json::to_vec(event).map_err(|source| WriteError::Encode {
        ty: event.ty.clone(),
        source,
    })?;
    line.push(b'\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(WriteError::TooLong {
            ty: event.ty.clone(),
            bytes: line.len(),
            limit: MAX_LINE_BYTES,
        });
    }
    Ok(line)
}

#[cfg(test)]
mod tests;
