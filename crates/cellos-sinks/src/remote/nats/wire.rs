//! The lines of the NATS protocol: what a server sends, and what is sent to it.
//!
//! Everything read here comes from the network: each size is checked before anything is kept.

use std::{fmt, io::Write as _};

use serde::{Deserialize, Serialize};

/// Longest line of a server in bytes. `INFO` is the longest one; it lists a cluster's addresses.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;
/// Largest message of a server in bytes: answers of its stream interface, of about a kilobyte.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Most `PONG` that wait to be taken. Servers send a `PING` every two minutes; one that sends them and
/// reads nothing would fill the memory.
pub(super) const MAX_PONGS: usize = 1024;
/// Most characters of a server's text that are shown.
const MAX_SHOWN_CHARS: usize = 200;

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ServerInfo {
    /// Whether it keeps streams.
    pub(super) jetstream: bool,
    /// Whether it knows headers.
    pub(super) headers: bool,
    /// Largest message that it takes, in bytes with its headers.
    pub(super) max_payload: usize,
    /// What a client is to sign.
    pub(super) nonce: Option<String>,
    /// Whether it wants TLS.
    pub(super) tls_required: bool,
    /// Whether it can do TLS.
    pub(super) tls_available: bool,
}

/// What a server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerOp {
    Info(Box<ServerInfo>),
    Ping,
    Pong,
    Ok,
    Err(String),
    Message(Message),
}

/// A message of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Where it was sent to.
    pub(super) subject: String,
    /// Its status, for example 503 where nobody took a request.
    pub(super) status: Option<u16>,
    /// What it says.
    pub(super) payload: Vec<u8>,
}

/// Why bytes are nothing that a NATS server sends.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A line without end.
    #[error("a line of more than {MAX_LINE_BYTES} bytes")]
    Line,
    /// A message beyond the limit.
    #[error("a message of {bytes} bytes, the limit is {MAX_MESSAGE_BYTES}")]
    Message {
        /// Its size.
        bytes: usize,
    },
    /// A line that no server sends.
    #[error("not the protocol of NATS: `{0}`")]
    Unknown(String),
    /// It asks for signs of life and does not take them.
    #[error("more than {MAX_PONGS} PING, and the answers are not taken")]
    Pings,
    /// `INFO` without its JSON object.
    #[error("INFO is no JSON object of the expected form: {0}")]
    Info(serde_json::Error),
}

/// The first whole operation in the bytes, and how many bytes it took; `None` where it is not whole
/// yet.
///
/// # Errors
/// [`WireError`].
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ServerOp, usize)>, WireError> {
    let Some(end) = bytes
        .iter()
        .take(MAX_LINE_BYTES)
        .position(|byte| *byte == b'\n')
    else {
        return match bytes.len() < MAX_LINE_BYTES {
            true => Ok(None),
            false => Err(WireError::Line),
        };
    };
    let used = end + 1;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let unknown = || WireError::Unknown(shown(&String::from_utf8_lossy(line)));
    let text = std::str::from_utf8(line).map_err(|_| unknown())?;
    let (verb, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let op = match verb.to_ascii_uppercase().as_str() {
        "INFO" => serde_json::from_str(rest)
            .map(ServerOp::Info)
            .map_err(WireError::Info)?,
        "PING" => ServerOp::Ping,
        "PONG" => ServerOp::Pong,
        "+OK" => ServerOp::Ok,
        "-ERR" => ServerOp::Err(shown(rest.trim().trim_matches('\''))),
        "MSG" => {
            let fields: Vec<_> = rest.split_ascii_whitespace().collect();
            let (subject, total) = match fields.as_slice() {
                [subject, _, total] | [subject, _, _, total] => (*subject, size(total)),
                _ => return Err(unknown()),
            };
            let total = total.ok_or_else(unknown)?;
            return message(bytes, used, subject, 0, total);
        }
        "HMSG" => {
            let fields: Vec<_> = rest.split_ascii_whitespace().collect();
            let (subject, head, total) = match fields.as_slice() {
                [subject, _, head, total] | [subject, _, _, head, total] => {
                    (*subject, size(head), size(total))
                }
                _ => return Err(unknown()),
            };
            return match (head, total) {
                (Some(head), Some(total)) if head <= total => {
                    message(bytes, used, subject, head, total)
                }
                _ => Err(unknown()),
            };
        }
        _ => return Err(unknown()),
    };
    Ok(Some((op, used)))
}

/// A size in digits alone.
fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn message(
    bytes: &[u8],
    start: usize,
    subject: &str,
    head: usize,
    total: usize,
) -> Result<Option<(ServerOp, usize)>, WireError> {
    if total > MAX_MESSAGE_BYTES {
        return Err(WireError::Message { bytes: total });
    }
    let Some(content) = bytes.get(start..start + total + 2) else {
        return Ok(None);
    };
    let message = Message {
        subject: subject.to_owned(),
        status: status(&content[..head]),
        payload: content[head..total].to_vec(),
    };
    match &content[total..] == b"\r\n" {
        true => Ok(Some((ServerOp::Message(message), start + total + 2))),
        false => Err(WireError::Unknown("a message without its end".to_owned())),
    }
}

/// The number in `NATS/1.0 503`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let rest = line.strip_prefix(b"NATS/1.0 ")?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

/// A server's text, fit for a message to people: of bounded length and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// How a client introduces itself. Never printed: it holds what the client logs in with.
#[derive(Serialize)]
pub(super) struct Connect<'a> {
    pub(super) verbose: bool,
    pub(super) pedantic: bool,
    pub(super) tls_required: bool,
    pub(super) echo: bool,
    pub(super) headers: bool,
    pub(super) no_responders: bool,
    pub(super) protocol: u8,
    pub(super) lang: &'a str,
    pub(super) version: &'a str,
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sig: Option<&'a str>,
}

/// The headers of a message, as they go over the wire.
pub(super) fn headers(fields: &[(&str, &dyn fmt::Display)]) -> Vec<u8> {
    let mut head = b"NATS/1.0\r\n".to_vec();
    for (name, value) in fields {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Writes a message with headers.
pub(super) fn publish(out: &mut Vec<u8>, subject: &str, reply: &str, head: &[u8], payload: &[u8]) {
    let (head_bytes, total) = (head.len(), head.len() + payload.len());
    // Writing to memory does not fail.
    let _ = write!(out, "HPUB {subject} {reply} {head_bytes} {total}\r\n");
    out.extend_from_slice(head);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Writes a request without headers.
pub(super) fn request(out: &mut Vec<u8>, subject: &str, reply: &str, payload: &[u8]) {
    let _ = write!(out, "PUB {subject} {reply} {}\r\n", payload.len());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> ServerOp {
        let (op, used) = parse(bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        op
    }

    fn message(subject: &str, status: Option<u16>, payload: &[u8]) -> ServerOp {
        ServerOp::Message(Message {
            subject: subject.to_owned(),
            status,
            payload: payload.to_vec(),
        })
    }

    #[test]
    fn every_operation_is_read_once_it_is_whole() {
        for (bytes, expected) in [
            (&b"PING\r\n"[..], ServerOp::Ping),
            (b"pong\r\n", ServerOp::Pong),
            (b"+OK\n", ServerOp::Ok),
            (
                b"-ERR 'Stale\tConnection'\r\n",
                ServerOp::Err("Stale Connection".into()),
            ),
            (b"MSG a.b 1 2\r\nhi\r\n", message("a.b", None, b"hi")),
            (b"MSG a 1 reply 0\r\n\r\n", message("a", None, b"")),
            (
                b"HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
                message("a", Some(503), b""),
            ),
            (
                b"HMSG a 1 r 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n",
                message("a", None, b"hi"),
            ),
        ] {
            assert_eq!(whole(bytes), expected);
        }
    }

    #[test]
    fn info_tells_what_is_needed_and_may_hold_more() {
        let line = b"INFO {\"max_payload\":1024,\"nonce\":\"n\",\"headers\":true,\"x\":[1]}\r\n";
        let ServerOp::Info(info) = whole(line) else {
            panic!("no INFO")
        };
        assert_eq!((info.max_payload, info.headers), (1024, true));
        assert_eq!(info.nonce.as_deref(), Some("n"));
        assert!(!info.jetstream);
    }

    #[test]
    fn other_bytes_are_refused() {
        let long = vec![b'x'; MAX_LINE_BYTES];
        for (bytes, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "not the protocol"),
            (b"\x1b[31mred\r\n", "` [31mred`"),
            (b"MSG a 1 +2\r\nhi\r\n", "not the protocol"),
            (b"MSG a 1 2\r\nhiXX", "without its end"),
            (b"MSG a 1 1048577\r\n", "1048577"),
            (b"MSG a 1 99999999999999999999\r\n", "not the protocol"),
            (b"HMSG a 1 5 4\r\nabcd\r\n", "not the protocol"),
            (b"INFO nothing\r\n", "JSON"),
            (b"\xff\xfe\r\n", "not the protocol"),
            (&long, "65536"),
        ] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains('\x1b'));
        }
    }

    #[test]
    fn a_message_has_its_sizes() {
        let mut out = Vec::new();
        let head = headers(&[("Nats-Msg-Id", &"e1")]);
        publish(&mut out, "a.b", "r.1", &head, b"{}");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HPUB a.b r.1 29 31\r\nNATS/1.0\r\nNats-Msg-Id: e1\r\n\r\n{}\r\n"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nor_do_bytes_like_those_of_a_server(
            text in "(MSG|HMSG|INFO|-ERR) [a-z.]{0,4} [0-9]{1,2} [0-9]{1,21}\r\n[a-z{}]{0,9}\r\n"
        ) {
            let _ = parse(text.as_bytes());
        }
    }
}
