//! Sinks on the other side of a network. They are fed from the log, so an outage of any length loses
//! nothing and holds nothing up.
//!
//! A sink is one module here, one line in [`crate::settings`] and one run of the contract test in
//! `tests/all/remote_contract.rs`.

pub mod credential;
pub mod http;
pub mod nats;
pub mod otlp;
pub mod stdout;
pub mod webhook;

use std::{fmt, path::Path, sync::Arc, time::Duration};

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

    /// How long the other side asked to be left alone when the last delivery failed. Whoever tries
    /// again waits at least so long, within bounds of its own.
    fn asked_to_wait(&self) -> Option<Duration> {
        None
    }
}

/// What a configuration says about one sink, without its name. Read with `serde`, where unknown
/// fields are errors; holds no credentials, only where they are.
pub trait SinkConfig: fmt::Debug + Send + Sync {
    /// Makes the sink. Files are read here and credentials looked up; nothing is connected, so a
    /// receiver that is away does not matter.
    ///
    /// # Errors
    /// [`SinkOpenError`].
    fn open(&self, surroundings: &Surroundings<'_>) -> Result<Arc<dyn RemoteSink>, SinkOpenError>;

    /// The files that hold what it logs in with, as the configuration names them.
    fn private_files(&self) -> Vec<&Path> {
        Vec::new()
    }

    /// What it writes to.
    fn reach(&self) -> Reach {
        Reach::Network
    }
}

/// What the names in a configuration refer to.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The folder that relative paths start from: that of the configuration.
    pub folder: &'a Path,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// What a sink writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Somebody on a network, who can be reached at any time.
    Network,
    /// The standard output of this process, which belongs to the workload while a cell runs.
    OwnOutput,
}

/// Why a sink cannot be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SinkOpenError {
    /// A value makes no sense.
    #[error("{field}: {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{field}: file {path:?} cannot be read: {source}")]
    File {
        /// The field that names it.
        field: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A credential cannot be had.
    #[error(transparent)]
    Credential(#[from] credential::CredentialError),
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
