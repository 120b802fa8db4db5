//! The event that a line holds, whatever it is wrapped in.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::line::{self, LineError};

/// What every line of the chained log begins with, its keys being in order.
const CHAINED: &[u8] = b"{\"entry\":";
/// Type of the event that a signing producer of the published contract wraps its events in.
const SIGNED_ENVELOPE: &str = "dev.cellos.events.signed_envelope.v1";
/// Wrappings within one another that are taken off: a row, an event and its signed envelope.
const MAX_WRAPPINGS: usize = 4;

/// Why a line holds no event.
#[derive(Debug, thiserror::Error)]
pub enum NoEvent {
    /// It looks like a line of a chained log and is none.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It is no JSON of any known form.
    #[error("no event: {0}")]
    Json(#[from] serde_json::Error),
    /// It is wrapped more often than any producer does.
    #[error("an event in more than {MAX_WRAPPINGS} wrappings")]
    Wrapped,
}

/// Fields that tell the forms apart.
#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default, rename = "type")]
    ty: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
}

/// The event in a line of a chained log, in a plain one, in a row of a published chain, or in a
/// signed envelope. Nothing is verified.
///
/// # Errors
/// [`NoEvent`].
pub fn event_in(line: &[u8]) -> Result<&[u8], NoEvent> {
    let mut event = match line.starts_with(CHAINED) {
        true => line::parse(line)?.event.get().as_bytes(),
        false => line,
    };
    for _ in 0..MAX_WRAPPINGS {
        let outer: Outer<'_> = serde_json::from_slice(event)?;
        event = match outer {
            Outer {
                ty: Some(ty),
                data: Some(data),
                ..
            } if is_envelope(ty) => data.get().as_bytes(),
            Outer { ty: Some(_), .. } => return Ok(event),
            // A row's `event` is the type of the event in its `body`.
            Outer {
                body: Some(body), ..
            } => body.get().as_bytes(),
            Outer {
                event: Some(event), ..
            } => event.get().as_bytes(),
            _ => return Ok(event),
        };
    }
    Err(NoEvent::Wrapped)
}

fn is_envelope(ty: &RawValue) -> bool {
    serde_json::from_str::<std::borrow::Cow<'_, str>>(ty.get())
        .is_ok_and(|ty| ty == SIGNED_ENVELOPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_in_every_form_of_line() {
        let event = r#"{"type":"t","data":{"a":1}}"#;
        let envelope = format!(r#"{{"event":{event},"signature":"x"}}"#);
        let wrapped = format!(r#"{{"type":"{SIGNED_ENVELOPE}","data":{envelope}}}"#);
        let row = format!(r#"{{"schema":"axiom.audit.v1","event":"t","body":{wrapped}}}"#);
        for line in [event, &envelope, &wrapped, &row] {
            assert_eq!(event_in(line.as_bytes()).unwrap(), event.as_bytes());
        }
        let mut nested = event.to_owned();
        for _ in 0..5 {
            nested = format!(r#"{{"event":{nested}}}"#);
        }
        assert!(matches!(event_in(nested.as_bytes()), Err(NoEvent::Wrapped)));
        assert!(matches!(event_in(b"{\"entry\":1}"), Err(NoEvent::Line(_))));
        assert!(matches!(event_in(b"x"), Err(NoEvent::Json(_))));
    }
}
