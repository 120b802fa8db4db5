//! Sending events and waiting for what acknowledges each.
//!
//! Events are sent one after another without waiting, up to a bound, so their order on the connection,
//! and with it in the stream, is that of the log. The acknowledgement of the stream is what counts;
//! it comes when the event is stored.

use serde::Deserialize;

use super::{
    config::NatsConfig,
    connection::{Connection, Step},
    error::NatsError,
    stream::{ApiError, StreamConfig},
    wire::{self, Message, shown},
};
use crate::remote::StoredEvent;

/// How many bytes may wait to be written before more events are made ready, so that a slow network
/// does not fill the memory.
const MAX_WAITING_BYTES: usize = 256 * 1024;
/// Longest id of an event in a header, in bytes; ours have 36.
const MAX_ID_BYTES: usize = 256;
const STATUS_NO_RESPONDERS: u16 = 503;

/// Header by which a stream knows an event that it already has.
pub const HEADER_ID: &str = "Nats-Msg-Id";
/// Header with the number of the event's line in the log.
pub const HEADER_SEQ: &str = "Cellos-Log-Seq";
/// Header with the hash of the event's line in the log.
pub const HEADER_LINE_HASH: &str = "Cellos-Line-Hash";

/// Why not all were delivered, and how many were.
pub(super) struct Broken {
    pub(super) acknowledged: usize,
    pub(super) error: NatsError,
}

/// What a stream says of an event.
#[derive(Deserialize)]
struct Ack {
    error: Option<ApiError>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
}

/// Events under way, counted from the first one of the call.
struct Flight {
    acknowledged: Vec<bool>,
    /// So many from the first one on are acknowledged.
    prefix: usize,
    /// How many are acknowledged in all.
    total: usize,
    /// The first one that is refused.
    refused: Option<(usize, NatsError)>,
}

impl Flight {
    fn acknowledge(&mut self, index: usize) {
        let Some(slot) = self.acknowledged.get_mut(index) else {
            return;
        };
        self.total += usize::from(!*slot);
        *slot = true;
        while self.acknowledged.get(self.prefix) == Some(&true) {
            self.prefix += 1;
        }
    }

    fn refuse(&mut self, index: usize, error: NatsError) {
        if self
            .refused
            .as_ref()
            .is_none_or(|(first, _)| index < *first)
        {
            self.refused = Some((index, error));
        }
    }

    /// What differs when something was learnt.
    fn progress(&self) -> (usize, Option<usize>) {
        let refused = self.refused.as_ref().map(|(index, _)| *index);
        (self.total, refused)
    }

    fn broken(self, error: NatsError) -> Broken {
        Broken {
            acknowledged: self.prefix,
            error,
        }
    }
}

/// Sends the events, and returns when all are acknowledged.
///
/// # Errors
/// [`Broken`]; the connection is of no use then.
pub(super) async fn deliver(
    connection: &mut Connection,
    stream: &StreamConfig,
    config: &NatsConfig,
    events: &[StoredEvent],
) -> Result<(), Broken> {
    let mut flight = Flight {
        acknowledged: vec![false; events.len()],
        prefix: 0,
        total: 0,
        refused: None,
    };
    let mut subjects: Vec<String> = Vec::with_capacity(events.len());
    let mut first_reply = None;
    connection.be_patient();
    loop {
        while subjects.len() < events.len()
            && flight.refused.is_none()
            && subjects.len() - flight.total < config.max_in_flight.0
            && connection.out().1 < MAX_WAITING_BYTES
        {
            let index = subjects.len();
            match send(connection, stream, config, &events[index]) {
                Ok((reply, subject)) => {
                    first_reply.get_or_insert(reply);
                    subjects.push(subject);
                }
                Err(error) => flight.refuse(index, error),
            }
        }
        match flight.refused {
            Some((first, error)) if flight.prefix >= first => {
                return Err(Broken {
                    acknowledged: flight.prefix,
                    error,
                });
            }
            refused => flight.refused = refused,
        }
        if flight.prefix == events.len() {
            return Ok(());
        }
        let message = match connection.step().await {
            Ok(Step::Message(message)) => message,
            Ok(Step::Drained) => continue,
            Err(error) => return Err(flight.broken(error)),
        };
        let Some(index) = connection
            .reply_number(&message.subject)
            .and_then(|reply| reply.checked_sub(first_reply?))
            .and_then(|index| usize::try_from(index).ok())
        else {
            continue;
        };
        let Some(subject) = subjects.get(index) else {
            continue;
        };
        let before = flight.progress();
        match judge(&config.stream.to_string(), subject, &message) {
            Ok(()) => flight.acknowledge(index),
            Err(error) => flight.refuse(index, error),
        }
        // An answer that comes again is no reason to wait longer for the others.
        if flight.progress() != before {
            connection.be_patient();
        }
    }
}

/// Makes one event ready to be written. The number of its reply and its subject.
fn send(
    connection: &mut Connection,
    stream: &StreamConfig,
    config: &NatsConfig,
    stored: &StoredEvent,
) -> Result<(u64, String), NatsError> {
    let event = &stored.event;
    let subject = config.subject.subject(event);
    stream.check(&config.stream.to_string(), &subject)?;
    let payload = serde_json::to_vec(event).map_err(|source| NatsError::Json {
        id: shown(&event.id),
        source,
    })?;
    let id = match fits_header(&event.id) {
        true => event.id.clone(),
        // An id that cannot stand in a header; the line it stands in is as unique.
        false => stored.line_hash.to_hex(),
    };
    let head = wire::headers(&[
        (HEADER_ID, &id),
        (HEADER_SEQ, &stored.seq),
        (HEADER_LINE_HASH, &stored.line_hash),
    ]);
    let (bytes, limit) = (head.len() + payload.len(), connection.info().max_payload);
    if bytes > limit {
        return Err(NatsError::TooLarge { id, bytes, limit });
    }
    let (number, reply) = connection.next_reply();
    wire::publish(connection.out().0, &subject, &reply, &head, &payload);
    Ok((number, subject))
}

fn fits_header(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn judge(stream: &str, subject: &str, message: &Message) -> Result<(), NatsError> {
    if message.status == Some(STATUS_NO_RESPONDERS) {
        return Err(NatsError::NobodyTookIt {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
        });
    }
    let ack: Ack =
        serde_json::from_slice(&message.payload).map_err(|source| NatsError::Answer {
            stream: stream.to_owned(),
            source,
        })?;
    match ack {
        Ack {
            error: Some(error), ..
        } => Err(error.about(stream)),
        Ack {
            stream: found, seq, ..
        } if found == stream && seq > 0 => Ok(()),
        Ack { stream: found, .. } => Err(NatsError::OtherStream {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            found: shown(&found),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Retry;

    fn message(status: Option<u16>, payload: &str) -> Message {
        Message {
            subject: "_INBOX.x.0".into(),
            status,
            payload: payload.into(),
        }
    }

    #[test]
    fn only_a_stored_event_counts() {
        for (status, payload, expected) in [
            (None, r#"{"stream":"S","seq":1}"#, None),
            (
                None,
                r#"{"stream":"S","seq":1,"duplicate":true,"x":2}"#,
                None,
            ),
            (None, r#"{"stream":"S","seq":0}"#, Some(Retry::Useless)),
            (None, r#"{"stream":"T","seq":1}"#, Some(Retry::Useless)),
            (None, "{}", Some(Retry::Useless)),
            (None, "", Some(Retry::Useless)),
            (Some(503), "", Some(Retry::Later)),
            (
                None,
                r#"{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"S","seq":1}"#,
                Some(Retry::Later),
            ),
            (
                None,
                r#"{"error":{"code":400,"err_code":10054,"description":"too large"}}"#,
                Some(Retry::Useless),
            ),
        ] {
            let judged = judge("S", "a", &message(status, payload));
            assert_eq!(
                judged.err().map(|error| error.retry()),
                expected,
                "{payload}"
            );
        }
    }

    #[test]
    fn acknowledgements_count_from_the_first_one_on() {
        let mut flight = Flight {
            acknowledged: vec![false; 4],
            prefix: 0,
            total: 0,
            refused: None,
        };
        for (index, prefix) in [(1, 0), (3, 0), (0, 2), (0, 2), (9, 2), (2, 4)] {
            flight.acknowledge(index);
            assert_eq!(flight.prefix, prefix);
        }
        assert_eq!(flight.total, 4);
    }

    #[test]
    fn ids_that_would_change_a_header_are_not_put_there() {
        for (id, expected) in [
            ("7f1f9d9e-0a6a-4b0f-9d0e-0d3a1c1f6c11", true),
            ("", false),
            ("a b", false),
            ("a\r\nX: y", false),
            ("\u{e9}", false),
            (&"x".repeat(MAX_ID_BYTES + 1), false),
        ] {
            assert_eq!(fits_header(id), expected, "{id:?}");
        }
    }
}
