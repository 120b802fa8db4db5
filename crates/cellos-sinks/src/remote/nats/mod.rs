//! NATS JetStream: events go into a stream, and each counts as delivered when the stream says that it
//! stored it.
//!
//! | an event has | value |
//! | --- | --- |
//! | payload | the CloudEvent as JSON (structured mode) |
//! | `Nats-Msg-Id` | id of the event, by which the stream drops one that comes again |
//! | `Cellos-Log-Seq`, `Cellos-Line-Hash` | number and hash of its line in the log |
//!
//! The connection is made at the first delivery and anew after a failure, with growing pauses between
//! attempts. Nothing waits in this sink: when [`deliver`](RemoteSink::deliver) returns, everything
//! is stored or counted as not delivered.
//!
//! The protocol is spoken here and not by a client library, for three reasons: a delivery that is given
//! up must leave nothing behind that is sent later, out of order; sizes that a server states are
//! checked before memory is taken; and logging in by key needs nothing beside the signer that is here
//! anyway.

mod config;
mod connection;
mod creds;
mod delivery;
mod error;
mod login;
mod nkey;
mod stream;
mod subject;
mod tls;
mod wire;

pub use config::*;
pub use creds::{CredsError, MAX_JWT_BYTES};
pub use delivery::{HEADER_ID, HEADER_LINE_HASH, HEADER_SEQ};
pub use error::NatsError;
pub use nkey::NkeyError;
pub use stream::{DUPLICATE_WINDOW_SECONDS, MAX_AGE_DAYS};
pub use subject::{
    DEFAULT_STREAM, DEFAULT_SUBJECT, STREAM_SUBJECTS, Subject, SubjectError, SubjectRule, Template,
    Token,
};
pub use tls::TlsError;
pub use wire::WireError;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use self::{connection::Connection, delivery::Broken, login::Method, stream::StreamConfig};
use super::{DeliveryError, RemoteSink, SinkOpenError, StoredEvent, Surroundings};

/// Name of the kind in a configuration.
pub const KIND: &str = "nats";

/// Pause after the first failure; each one after doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a connection may have been idle to be used again. Servers ask for a sign of life every two
/// minutes, and nobody listens meanwhile.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// A sink into a stream of NATS JetStream.
pub struct NatsSink {
    config: NatsConfig,
    login: Method,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    idle: Option<(Connection, StreamConfig, Instant)>,
    failures: u32,
    last_failure: Option<Instant>,
}

impl NatsSink {
    /// A sink that has not connected yet. Files are read and found fit; they are read anew for each
    /// connection, so that renewed ones are used.
    ///
    /// # Errors
    /// [`SinkOpenError`].
    pub fn open(
        config: &NatsConfig,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, SinkOpenError> {
        let unfit = |field, problem: String| SinkOpenError::Value { field, problem };
        let login = Method::open(&config.auth, surroundings)
            .map_err(|error| unfit("auth", error.to_string()))?;
        let tls = config.tls.as_ref().map(|tls| tls.within(surroundings));
        if tls.is_some() {
            tls::connector(tls.as_ref()).map_err(|error| unfit("tls", error.to_string()))?;
        }
        Ok(Self {
            config: NatsConfig {
                tls,
                ..config.clone()
            },
            login,
            link: Mutex::default(),
        })
    }

    async fn connect(&self, subject: &str) -> Result<(Connection, StreamConfig), NatsError> {
        let mut connection = Connection::open(&self.config, &self.login).await?;
        let stream = StreamConfig::ensure(&mut connection, &self.config, subject).await?;
        Ok((connection, stream))
    }
}

/// Shows the configuration, which names secrets and holds none.
impl fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSink")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl RemoteSink for NatsSink {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        let mut link = self.link.lock().await;
        let mut acknowledged = 0;
        // Within a call, a connection that was idle may turn out to be gone; that is no failure yet.
        while let Some(next) = events.get(acknowledged) {
            let (opened, reused) = match link.take() {
                Some(idle) => (Ok(idle), true),
                None => {
                    if let Some(time) = link.not_before() {
                        sleep_until(time).await;
                    }
                    let subject = self.config.subject.subject(&next.event);
                    (self.connect(&subject).await, false)
                }
            };
            let outcome = match opened {
                Ok((mut connection, stream)) => {
                    let rest = &events[acknowledged..];
                    delivery::deliver(&mut connection, &stream, &self.config, rest)
                        .await
                        .map(|()| (connection, stream))
                }
                Err(error) => Err(Broken {
                    acknowledged: 0,
                    error,
                }),
            };
            match outcome {
                Ok((connection, stream)) => {
                    link.keep(connection, stream);
                    return Ok(());
                }
                Err(Broken {
                    acknowledged: more,
                    error,
                }) => {
                    acknowledged += more;
                    if reused && error.is_about_the_connection() {
                        continue;
                    }
                    link.fail();
                    return Err(DeliveryError {
                        acknowledged,
                        retry: error.retry(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Link {
    fn take(&mut self) -> Option<(Connection, StreamConfig)> {
        let (connection, stream, since) = self.idle.take()?;
        (since.elapsed() < MAX_IDLE).then_some((connection, stream))
    }

    fn keep(&mut self, connection: Connection, stream: StreamConfig) {
        self.idle = Some((connection, stream, Instant::now()));
        self.failures = 0;
        self.last_failure = None;
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(Instant::now());
    }

    /// When the pause after the last failure is over.
    fn not_before(&self) -> Option<Instant> {
        Some(self.last_failure? + pause_after(self.failures))
    }
}

fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = [1, 2, 3, 6, 7, u32::MAX].map(pause_after).to_vec();
        let expected = [100, 200, 400, 3200, 5000, 5000].map(Duration::from_millis);
        assert_eq!(pauses, expected);
    }
}
