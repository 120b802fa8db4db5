//! The stream that events go into: found, or made.

use serde::Deserialize;
use serde_json::json;

use super::{
    config::NatsConfig,
    connection::Connection,
    error::NatsError,
    subject::{STREAM_SUBJECTS, captures},
    wire::{Message, shown},
};

/// How long a made stream keeps an event, in days; as the published contract has it.
pub const MAX_AGE_DAYS: u64 = 90;
/// How long a made stream knows the id of an event, in seconds, and so drops one that comes again; as
/// the published contract has it.
pub const DUPLICATE_WINDOW_SECONDS: u64 = 120;
/// How often the stream is looked up while others make or delete it.
const MAX_LOOKUPS: u32 = 3;
/// Most subjects of a stream that are shown.
const MAX_SHOWN_SUBJECTS: usize = 8;

const NANOSECONDS: u64 = 1_000_000_000;
const STATUS_NO_RESPONDERS: u16 = 503;
/// Error numbers of JetStream.
const NOT_ENABLED_FOR_ACCOUNT: u32 = 10_039;
const NAME_IN_USE: u32 = 10_058;
const NOT_FOUND: u32 = 10_059;
const NOT_ENABLED: u32 = 10_076;

/// What of a stream concerns us.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamConfig {
    subjects: Vec<String>,
    no_ack: bool,
    duplicate_window: u64,
}

/// What JetStream says when it does not do a thing.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl ApiError {
    pub(super) fn about(self, stream: &str) -> NatsError {
        NatsError::Stream {
            stream: stream.to_owned(),
            text: shown(&self.description),
            code: self.code,
            err_code: self.err_code,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    config: Option<StreamConfig>,
}

impl StreamConfig {
    /// Finds the stream, or makes it if it is not there.
    ///
    /// # Errors
    /// [`NatsError`], also for a stream that is there and of no use.
    pub(super) async fn ensure(
        connection: &mut Connection,
        config: &NatsConfig,
        subject: &str,
    ) -> Result<Self, NatsError> {
        let name = config.stream.to_string();
        let api = match &config.domain {
            None => "$JS.API".to_owned(),
            Some(domain) => format!("$JS.{domain}.API"),
        };
        let mut failure = None;
        for _ in 0..MAX_LOOKUPS {
            let lookup = format!("{api}.STREAM.INFO.{name}");
            match ask(connection, &name, &lookup, b"").await? {
                Ok(found) if found.no_ack => return Err(NatsError::NoAck { stream: name }),
                Ok(found) => {
                    found.warn_about_duplicates(&name);
                    return Ok(found);
                }
                Err(error) if error.err_code == NOT_FOUND => {}
                Err(error) => return Err(error.about(&name)),
            }
            if !captures(STREAM_SUBJECTS, subject) {
                return Err(NatsError::NotCaptured {
                    stream: format!("{name}, if it was made,"),
                    subject: subject.to_owned(),
                    subjects: STREAM_SUBJECTS.to_owned(),
                });
            }
            let create = format!("{api}.STREAM.CREATE.{name}");
            let wanted = wanted(&name).to_string();
            match ask(connection, &name, &create, wanted.as_bytes()).await? {
                Ok(made) => {
                    tracing::info!(stream = name, "made the stream");
                    return Ok(made);
                }
                Err(error) if error.err_code == NAME_IN_USE => {
                    failure = Some(error.about(&name));
                }
                Err(error) => return Err(error.about(&name)),
            }
        }
        Err(failure.unwrap_or(NatsError::NobodyTookIt {
            stream: name,
            subject: subject.to_owned(),
        }))
    }

    /// Whether the stream takes what is sent to the subject.
    ///
    /// # Errors
    /// [`NatsError::NotCaptured`].
    pub(super) fn check(&self, stream: &str, subject: &str) -> Result<(), NatsError> {
        if self.subjects.iter().any(|known| captures(known, subject)) {
            return Ok(());
        }
        let known: Vec<_> = self
            .subjects
            .iter()
            .take(MAX_SHOWN_SUBJECTS)
            .map(|subject| shown(subject))
            .collect();
        Err(NatsError::NotCaptured {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            subjects: match known.is_empty() {
                true => "what other streams have".to_owned(),
                false => known.join(", "),
            },
        })
    }

    fn warn_about_duplicates(&self, stream: &str) {
        if self.duplicate_window < DUPLICATE_WINDOW_SECONDS * NANOSECONDS {
            tracing::warn!(
                stream,
                seconds = self.duplicate_window / NANOSECONDS,
                "the stream soon forgets ids of events; one that is delivered again may stand in it twice"
            );
        }
    }
}

async fn ask(
    connection: &mut Connection,
    stream: &str,
    subject: &str,
    payload: &[u8],
) -> Result<Result<StreamConfig, ApiError>, NatsError> {
    let Message {
        status, payload, ..
    } = connection.request(subject, payload).await?;
    let server = connection.server().clone();
    if status == Some(STATUS_NO_RESPONDERS) {
        return Err(match connection.info().jetstream {
            true => NatsError::JetStreamAway { server },
            false => NatsError::JetStreamOff { server },
        });
    }
    let answer: Answer = serde_json::from_slice(&payload).map_err(|source| NatsError::Answer {
        stream: stream.to_owned(),
        source,
    })?;
    match answer.error {
        Some(error) if matches!(error.err_code, NOT_ENABLED | NOT_ENABLED_FOR_ACCOUNT) => {
            Err(NatsError::JetStreamOff { server })
        }
        Some(error) => Ok(Err(error)),
        None => Ok(Ok(answer.config.unwrap_or_default())),
    }
}

fn wanted(name: &str) -> serde_json::Value {
    json!({
        "name": name,
        "subjects": [STREAM_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": MAX_AGE_DAYS * 24 * 60 * 60 * NANOSECONDS,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NANOSECONDS,
        "num_replicas": 1,
    })
}
