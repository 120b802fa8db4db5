//! Sinks on the other side of a network. They are fed from the log, so an outage of any length loses
//! nothing and holds nothing up.

use async_trait::async_trait;
use cellos_core::CloudEventV1;
use cellos_evidence::line::LineHash;

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Number of its line.
    pub seq: u64,
    /// Hash of its line, by which a receiver can find it in the log again.
    pub line_hash: LineHash,
    /// The event.
    pub event: CloudEventV1,
}

/// A sink that is fed from the log.
#[async_trait]
pub trait RemoteSink: Send + Sync {
    /// What kind of sink it is, as a configuration names it.
    fn kind(&self) -> &'static str;

    /// Delivers events in their order, and returns when the other side has acknowledged all of
    /// them. An event may be delivered again after a failure or a crash; its id tells.
    ///
    /// # Errors
    /// [`DeliveryError`], which says how many were acknowledged before.
    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError>;
}

/// Why not all events were delivered.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DeliveryError {
    /// How many of the events, from the first one on, were acknowledged.
    pub acknowledged: usize,
    /// Whether trying again can help.
    pub retry: Retry,
    /// Why, for people; without credentials.
    pub reason: String,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The other side was not there, or asked to come back later.
    Later,
    /// The other side refuses, and will again until somebody changes something.
    Useless,
}
