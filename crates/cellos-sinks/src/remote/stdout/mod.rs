//! One CloudEvent per line on standard output.

mod config;

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

pub use config::StdoutConfig;

use super::{DeliveryError, RemoteSink, Retry, StoredEvent};

/// Name of the kind in a configuration.
pub const KIND: &str = "stdout";

/// Writes each event as one line. An event is acknowledged when the line was written and flushed;
/// what the reader does with it nobody knows.
#[derive(Debug)]
pub struct StdoutSink<W> {
    output: Mutex<W>,
}

impl<W: Write + Send> StdoutSink<W> {
    /// A sink over an output.
    pub fn new(output: W) -> Self {
        Self {
            output: Mutex::new(output),
        }
    }
}

#[async_trait]
impl<W: Write + Send> RemoteSink for StdoutSink<W> {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        for (acknowledged, stored) in events.iter().enumerate() {
            let written = line(stored).and_then(|line| {
                output.write_all(&line)?;
                output.flush()
            });
            if let Err(error) = written {
                return Err(DeliveryError {
                    acknowledged,
                    retry: retry(&error),
                    reason: format!("standard output cannot be written: {error}"),
                });
            }
        }
        Ok(())
    }
}

/// JSON escapes control characters, so there is no line feed within.
fn line(stored: &StoredEvent) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&stored.event)?;
    line.push(b'\n');
    Ok(line)
}

/// A reader that has gone away does not come back to this process; a full disk may have room later.
fn retry(error: &io::Error) -> Retry {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::InvalidData => Retry::Useless,
        _ => Retry::Later,
    }
}
