//! HTTP/1.1 over the API socket, as little of it as Firecracker speaks: `Content-Length` only, no
//! chunks, JSON bodies, connections that stay open.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

/// Most bytes of a request's first line and headers.
const MAX_HEAD_BYTES: usize = 8_192;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// A request, read whole.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) keep_alive: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Option<serde_json::Value>,
}

/// Why a request cannot be read.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection is over.
    Closed,
    /// This is answered, then the connection closed.
    Answer(Response),
}

impl Response {
    pub(crate) fn done() -> Self {
        Self {
            status: 204,
            body: None,
        }
    }

    pub(crate) fn found(body: serde_json::Value) -> Self {
        Self {
            status: 200,
            body: Some(body),
        }
    }

    pub(crate) fn fault(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            body: Some(serde_json::json!({ "fault_message": message.into() })),
        }
    }

    pub(crate) fn write(&self, stream: &mut UnixStream) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            404 => "Not Found",
            413 => "Payload Too Large",
            500 => "Internal Server Error",
            503 => "Service Unavailable",
            _ => "Fault",
        };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nServer: Firecracker API (cellos fake)\r\nConnection: keep-alive\r\n",
            self.status
        );
        match &self.body {
            None => text.push_str("\r\n"),
            Some(body) => {
                let body = body.to_string();
                text.push_str(&format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        }
        stream.write_all(text.as_bytes())
    }
}

/// Reads one request. `left` holds what was read beyond the last one.
pub(crate) fn read(
    stream: &mut UnixStream,
    left: &mut Vec<u8>,
    max_payload_bytes: usize,
) -> Result<Request, Broken> {
    let (head_bytes, mut request, length, expects_continue) = loop {
        if let Some(head) = parse_head(left, max_payload_bytes)? {
            break head;
        }
        if left.len() > MAX_HEAD_BYTES {
            return Err(refuse("the request's head is too long"));
        }
        fill(stream, left)?;
    };
    if expects_continue {
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .map_err(|_| Broken::Closed)?;
    }
    while left.len() < head_bytes + length {
        fill(stream, left)?;
    }
    request.body = left[head_bytes..head_bytes + length].to_vec();
    left.drain(..head_bytes + length);
    Ok(request)
}

type Head = (usize, Request, usize, bool);

fn parse_head(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<Head>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(refuse(format!("invalid HTTP request: {error}"))),
    };
    let mut length = 0;
    let mut keep_alive = parsed.version == Some(1);
    let mut expects_continue = false;
    for header in parsed.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            length = value
                .parse()
                .map_err(|_| refuse("invalid Content-Length header"))?;
        } else if is("transfer-encoding") {
            return Err(refuse("unsupported Transfer-Encoding header"));
        } else if is("content-type") && !matches!(value, "application/json" | "text/plain") {
            return Err(refuse(format!("unsupported media type {value:?}")));
        } else if is("connection") {
            keep_alive = !value.eq_ignore_ascii_case("close");
        } else if is("expect") {
            expects_continue = value.eq_ignore_ascii_case("100-continue");
        }
    }
    if length > max_payload_bytes {
        return Err(Broken::Answer(Response::fault(
            413,
            format!(
                "Request payload with size {length} is larger than the limit of {max_payload_bytes} allowed by server."
            ),
        )));
    }
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        body: Vec::new(),
        keep_alive,
    };
    Ok(Some((head_bytes, request, length, expects_continue)))
}

fn fill(stream: &mut UnixStream, left: &mut Vec<u8>) -> Result<(), Broken> {
    let mut chunk = [0; 4_096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => {
                left.extend_from_slice(&chunk[..count]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Broken::Closed),
        }
    }
}

fn refuse(message: impl Into<String>) -> Broken {
    Broken::Answer(Response::fault(400, message))
}
