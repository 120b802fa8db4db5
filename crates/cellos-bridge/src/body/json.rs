//! JSON bodies: wiped, of known size, and read in one form only.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::Bounded;
use crate::{BodyProblem, BridgeError, FrameKind, SendError};

/// Most characters of a parser's message that are kept: it may quote what the other end sent.
const MAX_REASON_CHARS: usize = 256;

/// Writes a value after `prefix` bytes of zero. Counted first, so that the buffer, which may hold a
/// key, never grows and leaves copies.
pub(crate) fn write_json<T: Serialize>(
    kind: FrameKind,
    value: &T,
    prefix: usize,
) -> Result<Zeroizing<Vec<u8>>, SendError> {
    let mut counter = Counter(prefix);
    serialize(kind, &mut counter, value)?;
    let Counter(length) = counter;
    if length > kind.bound() {
        return Err(SendError::Oversized {
            kind,
            length,
            bound: kind.bound(),
        });
    }
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    body.resize(prefix, 0);
    serialize(kind, &mut *body, value)?;
    Ok(body)
}

/// Reads a value, which must be within its bounds and in the form that [`write_json`] gives it.
///
/// serde's own strictness ends at types that are not ours and lets a struct be an array; comparing
/// with what would have been written leaves one form for each value.
pub(crate) fn read_json<T: DeserializeOwned + Serialize + Bounded>(
    kind: FrameKind,
    body: &[u8],
) -> Result<T, BridgeError> {
    let malformed = |problem| BridgeError::Malformed { kind, problem };
    let value: T = serde_json::from_slice(body).map_err(|error| malformed(problem(&error)))?;
    value.check().map_err(malformed)?;
    let mut rest = Comparison(body);
    match serde_json::to_writer(&mut rest, &value) {
        Ok(()) if rest.0.is_empty() => Ok(value),
        _ => Err(malformed(BodyProblem::NotCanonical)),
    }
}

/// A parser's error without anything that could harm a terminal or fill a log.
pub(super) fn problem(error: &serde_json::Error) -> BodyProblem {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    BodyProblem::Json {
        line,
        column,
        reason: reason
            .chars()
            .flat_map(|c| {
                // Quotes belong to the parser's words.
                let plain = (c == '"' || c == '\'').then_some(c);
                plain
                    .into_iter()
                    .chain(c.escape_debug().filter(move |_| plain.is_none()))
            })
            .take(MAX_REASON_CHARS)
            .collect(),
    }
}

fn serialize<T: Serialize>(
    kind: FrameKind,
    writer: impl io::Write,
    value: &T,
) -> Result<(), SendError> {
    serde_json::to_writer(writer, value).map_err(|error| SendError::Invalid {
        kind,
        problem: problem(&error),
    })
}

/// Counts what is written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compares what is written with what was received.
struct Comparison<'a>(&'a [u8]);

impl io::Write for Comparison<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .strip_prefix(bytes)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
