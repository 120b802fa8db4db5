//! One line of the log.
//!
//! ```text
//! {"entry":{"event":{…},"kid":"k1","log":"01J…","prev":"9f3c…","seq":12,"signs":3,"v":1},"sig":"…"}
//! ```
//!
//! * The entry is canonical JSON (RFC 8785). `event` is the CloudEvent, `seq` counts from 0, `log`
//!   is the id that the log was given when it was made, `prev` is the hash of the line before.
//! * The hash of a line is SHA-256 over [`LINE_DOMAIN`] and all bytes of the line but its line
//!   feed, so it covers the signature too. `prev` of the first line is [`genesis`].
//! * `sig` is an Ed25519 signature (RFC 8032) over [`ENTRY_DOMAIN`] and the bytes of the entry as
//!   they are stored. It speaks for the `signs` last lines, this one included: all lines that were
//!   written together. `kid` names the key. The lines before the last one of such a group carry
//!   no signature of their own; the chain binds them to the one that does.
//!
//! Whoever checks a line takes the bytes of the entry out of it and never writes them anew.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::{CellosError, CloudEventV1, signing::Signer};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

/// Version of the format of a line.
pub const LINE_VERSION: u32 = 1;
/// Longest line in bytes, its line feed included; as every reader of the published contract has it.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Most lines that one signature speaks for.
pub const MAX_LINES_PER_SIGNATURE: u32 = 256;
/// Integers beyond this have no exact form in RFC 8785 (2^53 - 1, RFC 7493).
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Longest id of a log in bytes. Ours are ULIDs of 26.
pub const MAX_LOG_ID_BYTES: usize = 64;
/// Most bytes of a line beside its event and the id of its key, its line feed included.
const MAX_FRAME_BYTES: usize = 640;
/// Longest id of a key in bytes.
pub const MAX_KID_BYTES: usize = 256;

/// What the hash of a line begins with.
pub const LINE_DOMAIN: &[u8] = b"cellos.log.line.v1\n";
/// What the signed bytes of an entry begin with.
pub const ENTRY_DOMAIN: &[u8] = b"cellos.log.entry.v1\n";
/// What the hash that the first line refers to begins with.
pub const GENESIS_DOMAIN: &[u8] = b"cellos.log.genesis.v1\n";

/// SHA-256 of a line, or of what stands for the line before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineHash(pub [u8; 32]);

impl LineHash {
    /// The hash of a line, given without its line feed.
    #[must_use]
    pub fn of_line(line: &[u8]) -> Self {
        Self::of(LINE_DOMAIN, line)
    }

    fn of(domain: &[u8], bytes: &[u8]) -> Self {
        let mut hash = Sha256::new_with_prefix(domain);
        hash.update(bytes);
        Self(hash.finalize().into())
    }

    /// As 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hexadecimal digits")]
pub struct NotAHash;

impl FromStr for LineHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(NotAHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(hash))
    }
}

fn nibble(digit: u8) -> Result<u8, NotAHash> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotAHash),
    }
}

/// What the first line of a log refers to.
#[must_use]
pub fn genesis(log_id: &str) -> LineHash {
    LineHash::of(GENESIS_DOMAIN, log_id.as_bytes())
}

/// Where the next line goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Id of the log.
    pub log_id: String,
    /// Number of the next line.
    pub next_seq: u64,
    /// Hash of the last line, or [`genesis`].
    pub prev: LineHash,
}

impl Tail {
    /// The tail of a log without lines.
    #[must_use]
    pub fn of_new_log(log_id: impl Into<String>) -> Self {
        let log_id = log_id.into();
        Self {
            prev: genesis(&log_id),
            log_id,
            next_seq: 0,
        }
    }
}

/// Why an event cannot be made a line.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The line would be longer than readers accept.
    #[error(
        "event {ty} is a line of {bytes} bytes, the limit is {MAX_LINE_BYTES}; nothing was written"
    )]
    TooLong {
        /// Type of the event.
        ty: String,
        /// Size of the line in bytes, its end included.
        bytes: usize,
    },
    /// The event holds an integer that canonical JSON cannot keep exactly.
    #[error(
        "event {ty} holds the integer {number}, beyond the {MAX_SAFE_INTEGER} that canonical JSON keeps"
    )]
    Integer {
        /// Type of the event.
        ty: String,
        /// The integer.
        number: String,
    },
    /// More events at once than one signature may speak for.
    #[error("{count} events at once, the limit is {MAX_LINES_PER_SIGNATURE}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The event has no JSON form.
    #[error("event {ty} cannot be written as JSON: {source}")]
    Json {
        /// Type of the event.
        ty: String,
        /// The encoder's reason.
        source: serde_json::Error,
    },
    /// The key could not be used.
    #[error("signing with key {kid} failed: {source}")]
    Signer {
        /// Id of the key.
        kid: String,
        /// What the signer said.
        source: CellosError,
    },
}

/// An event in canonical form, ready to be made a line.
#[derive(Debug, Clone)]
pub struct PreparedEvent {
    /// Type of the event.
    ty: String,
    /// Its canonical JSON.
    json: Vec<u8>,
}

impl PreparedEvent {
    /// Brings an event into canonical form. What is wrong with an event shows here, before it is
    /// put together with others.
    ///
    /// # Errors
    /// [`EncodeError::Integer`], [`EncodeError::Json`], [`EncodeError::TooLong`].
    pub fn of(event: &CloudEventV1, signer: Option<&dyn Signer>) -> Result<Self, EncodeError> {
        let ty = || event.ty.clone();
        if let Some(number) = event.data.as_ref().and_then(unsafe_integer) {
            return Err(EncodeError::Integer { ty: ty(), number });
        }
        let json = serde_json_canonicalizer::to_vec(event)
            .map_err(|source| EncodeError::Json { ty: ty(), source })?;
        let kid = signer.map_or(0, |signer| signer.kid().len());
        let bytes = json.len() + MAX_FRAME_BYTES + kid;
        match bytes > MAX_LINE_BYTES {
            true => Err(EncodeError::TooLong { ty: ty(), bytes }),
            false => Ok(Self { ty: ty(), json }),
        }
    }

    /// Size of its canonical JSON in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len()
    }
}

/// Whether lines can name a key so: 1 to [`MAX_KID_BYTES`] visible ASCII characters that need no
/// escapes in JSON.
#[must_use]
pub fn is_kid(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=MAX_KID_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

/// Makes the lines of events that are written together, each with its line feed, and moves the
/// tail behind them. The last one is signed, where there is a signer.
///
/// # Errors
/// [`EncodeError`]; the tail is then as it was.
pub fn encode(
    tail: &mut Tail,
    events: &[CloudEventV1],
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>, EncodeError> {
    let prepared: Result<Vec<_>, _> = events
        .iter()
        .map(|event| PreparedEvent::of(event, signer))
        .collect();
    encode_prepared(tail, &prepared?.iter().collect::<Vec<_>>(), signer)
}

/// As [`encode`], of prepared events.
///
/// # Errors
/// [`EncodeError::TooMany`], [`EncodeError::Signer`]; the tail is then as it was.
pub fn encode_prepared(
    tail: &mut Tail,
    events: &[&PreparedEvent],
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>, EncodeError> {
    if events.len() > MAX_LINES_PER_SIGNATURE as usize {
        return Err(EncodeError::TooMany {
            count: events.len(),
        });
    }
    let mut next = tail.clone();
    let bytes = events.iter().map(|event| event.bytes() + MAX_FRAME_BYTES);
    let mut lines = Vec::with_capacity(bytes.sum());
    for (index, event) in events.iter().enumerate() {
        let last = index + 1 == events.len();
        let start = lines.len();
        write_line(&mut lines, &next, event, signer.filter(|_| last), index + 1)?;
        next.prev = LineHash::of_line(&lines[start..]);
        next.next_seq += 1;
        lines.push(b'\n');
    }
    *tail = next;
    Ok(lines)
}

/// Writes the entry field by field, in the order that canonical JSON has.
fn write_line(
    out: &mut Vec<u8>,
    tail: &Tail,
    event: &PreparedEvent,
    signer: Option<&dyn Signer>,
    signs: usize,
) -> Result<(), EncodeError> {
    let text = |out: &mut Vec<u8>, value: &str| {
        serde_json_canonicalizer::to_writer(&value, out).map_err(|source| EncodeError::Json {
            ty: event.ty.clone(),
            source,
        })
    };
    out.extend_from_slice(b"{\"entry\":");
    let start = out.len();
    out.extend_from_slice(b"{\"event\":");
    out.extend_from_slice(&event.json);
    if let Some(signer) = signer {
        out.extend_from_slice(b",\"kid\":");
        text(out, signer.kid())?;
    }
    out.extend_from_slice(b",\"log\":");
    text(out, &tail.log_id)?;
    out.extend_from_slice(
        format!(",\"prev\":\"{}\",\"seq\":{}", tail.prev, tail.next_seq).as_bytes(),
    );
    if signer.is_some() {
        out.extend_from_slice(format!(",\"signs\":{signs}").as_bytes());
    }
    out.extend_from_slice(format!(",\"v\":{LINE_VERSION}}}").as_bytes());
    if let Some(signer) = signer {
        let signature = signer
            .sign(&signed_bytes(&out[start..]))
            .map_err(|source| EncodeError::Signer {
                kid: signer.kid().to_owned(),
                source,
            })?;
        out.extend_from_slice(b",\"sig\":\"");
        out.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    Ok(())
}

/// The first integer that canonical JSON would round.
fn unsafe_integer(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let magnitude = match (number.as_u64(), number.as_i64()) {
                (Some(positive), _) => positive,
                (None, Some(negative)) => negative.unsigned_abs(),
                (None, None) => 0,
            };
            (magnitude > MAX_SAFE_INTEGER).then(|| number.to_string())
        }
        Value::Array(items) => items.iter().find_map(unsafe_integer),
        Value::Object(fields) => fields.values().find_map(unsafe_integer),
        _ => None,
    }
}

/// What a signature is over.
#[must_use]
pub fn signed_bytes(entry: &[u8]) -> Vec<u8> {
    [ENTRY_DOMAIN, entry].concat()
}

/// A line taken apart; everything in it borrows from the line's bytes.
#[derive(Debug, Clone, Copy)]
pub struct ParsedLine<'a> {
    /// The bytes of the entry, as they are stored.
    pub entry: &'a [u8],
    /// The bytes of the event within the entry.
    pub event: &'a RawValue,
    /// Id of the log.
    pub log_id: &'a str,
    /// Hash of the line before.
    pub prev: LineHash,
    /// Number of the line.
    pub seq: u64,
    /// The signature, where this line has one.
    pub signature: Option<LineSignature<'a>>,
}

/// The signature that stands in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineSignature<'a> {
    /// Id of the key.
    pub kid: &'a str,
    /// How many lines it speaks for, this one included; at least 1.
    pub signs: u32,
    /// The signature.
    pub bytes: [u8; 64],
}

/// Why bytes are no line of a log.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// They are no JSON of the expected form.
    #[error("not a line of a log: {0}")]
    Json(#[from] serde_json::Error),
    /// The format is of a later version.
    #[error("line format {found}, this program reads {LINE_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// `prev` is no hash.
    #[error("prev: {0}")]
    Prev(#[from] NotAHash),
    /// `sig`, `kid` and `signs` are not all there or all absent.
    #[error("`sig`, `kid` and `signs` belong together")]
    Incomplete,
    /// `signs` is not 1 to [`MAX_LINES_PER_SIGNATURE`].
    #[error("a signature speaks for 1 to {MAX_LINES_PER_SIGNATURE} lines, not {found}")]
    Signs {
        /// What is stated.
        found: u32,
    },
    /// `sig` is no signature.
    #[error("`sig` is not 64 bytes in base64url without padding")]
    Signature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineIn<'a> {
    #[serde(borrow)]
    entry: &'a RawValue,
    #[serde(default)]
    sig: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryIn<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(default)]
    kid: Option<&'a str>,
    log: &'a str,
    prev: &'a str,
    seq: u64,
    #[serde(default)]
    signs: Option<u32>,
    v: u32,
}

/// Takes a line apart, given without its line feed. Nothing is verified.
///
/// # Errors
/// [`LineError`].
pub fn parse(line: &[u8]) -> Result<ParsedLine<'_>, LineError> {
    let outer: LineIn<'_> = serde_json::from_slice(line)?;
    let entry: EntryIn<'_> = serde_json::from_str(outer.entry.get())?;
    if entry.v != LINE_VERSION {
        return Err(LineError::Version { found: entry.v });
    }
    let signature = match (outer.sig, entry.kid, entry.signs) {
        (None, None, None) => None,
        (Some(sig), Some(kid), Some(signs)) => {
            if !(1..=MAX_LINES_PER_SIGNATURE).contains(&signs) {
                return Err(LineError::Signs { found: signs });
            }
            let mut bytes = [0; 64];
            match URL_SAFE_NO_PAD.decode_slice(sig, &mut bytes) {
                Ok(64) => {}
                _ => return Err(LineError::Signature),
            }
            Some(LineSignature { kid, signs, bytes })
        }
        _ => return Err(LineError::Incomplete),
    };
    Ok(ParsedLine {
        entry: outer.entry.get().as_bytes(),
        event: entry.event,
        log_id: entry.log,
        prev: entry.prev.parse()?,
        seq: entry.seq,
        signature,
    })
}

#[cfg(test)]
mod tests;
