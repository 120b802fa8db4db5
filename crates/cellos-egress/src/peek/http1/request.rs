//! One request's head, in the one form that everybody reads alike.

use cellos_core::event::FlowReason;

use super::super::{Expected, Fault, expected::harmless};

/// Most headers of one request or answer. Servers take about 100.
pub(crate) const MAX_HEADERS: usize = 100;

/// What a request means for what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) body: Body,
    pub(super) asked: Asked,
    pub(super) expects: Expects,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunks,
}

/// What has to be known of a request to read its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Anything.
    Plain,
    /// `HEAD`, to which no answer has a body.
    Head,
    /// To go on in another protocol.
    Upgrade,
}

/// Whether the client waits to be told to send the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expects {
    Nothing,
    Continue,
}

/// Reads and checks a whole head.
pub(super) fn read(head: &[u8], expected: &Expected) -> Result<Request, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(malformed("its head ends where it should not")),
        Err(error) => return Err(unreadable(head, error)),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(malformed("its first line is cut"));
    };

    let mut hosts = 0;
    let mut body = None;
    let mut is_chunked = false;
    let mut upgrade = false;
    let mut expects = Expects::Nothing;
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        if is("host") {
            hosts += 1;
            if hosts > 1 {
                return Err(malformed("it has more than one Host"));
            }
            expected.check_authority(value)?;
        } else if is("content-length") {
            if body
                .replace(length(value).ok_or_else(|| malformed("its Content-Length is no number"))?)
                .is_some()
            {
                return Err(malformed("it has more than one Content-Length"));
            }
        } else if is("transfer-encoding") {
            if is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("its Transfer-Encoding is not chunked alone"));
            }
            is_chunked = true;
        } else if is("upgrade") {
            upgrade = true;
        } else if is("expect") {
            if expects == Expects::Continue || !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(malformed("its Expect is not 100-continue alone"));
            }
            expects = Expects::Continue;
        } else if is("connection") || is("proxy-connection") {
            check_connection(value)?;
        } else if is_disguised(header.name) {
            return Err(malformed(
                "a header looks like one of those that end a request",
            ));
        }
    }
    if hosts == 0 {
        return Err(Fault::new(
            FlowReason::L7HttpHostMissing,
            format!(
                "HTTP without a Host header, where {} was expected",
                expected.destination()
            ),
        ));
    }
    check_target(method, target, expected)?;
    let body = match (body, is_chunked) {
        (Some(_), true) => {
            return Err(malformed(
                "it has both Content-Length and Transfer-Encoding",
            ));
        }
        (_, true) if version == 0 => return Err(malformed("it has chunks in HTTP/1.0")),
        (None, true) => Body::Chunks,
        (Some(0) | None, false) => Body::None,
        (Some(length), false) => Body::Length(length),
    };
    let asked = match (method, upgrade) {
        // Whether the answer has a body would depend on who reads it.
        ("HEAD", true) => return Err(malformed("HEAD with an upgrade")),
        ("HEAD", false) => Asked::Head,
        (other, _) if other.eq_ignore_ascii_case("HEAD") => {
            return Err(malformed("HEAD in other letters"));
        }
        (_, true) => Asked::Upgrade,
        (_, false) => Asked::Plain,
    };
    Ok(Request {
        body,
        asked,
        expects,
    })
}

/// Checks trailers, which must not look like what a head has.
pub(super) fn check_trailers(lines: &[u8]) -> Result<(), Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(lines, &mut headers) {
        Ok(httparse::Status::Complete((length, headers))) if length == lines.len() => {
            let forbidden = ["host", "content-length", "transfer-encoding", "upgrade"];
            let odd = headers.iter().any(|header| {
                forbidden
                    .iter()
                    .any(|name| header.name.eq_ignore_ascii_case(name))
            });
            match odd {
                true => Err(malformed("a trailer belongs into the head")),
                false => Ok(()),
            }
        }
        _ => Err(malformed("its trailers cannot be read")),
    }
}

/// `/path`, `*` or `http://authority/path`.
fn check_target(method: &str, target: &str, expected: &Expected) -> Result<(), Fault> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(malformed("CONNECT asks for a proxy, and there is none"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let absolute = target
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http://"));
    let Some((_, rest)) = absolute else {
        return Err(malformed("its target is neither a path nor an http URI"));
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    expected.check_authority(&rest.as_bytes()[..end])
}

/// No header that decides anything may be declared to concern this connection only: what stands
/// between us and the server would take it out.
fn check_connection(value: &[u8]) -> Result<(), Fault> {
    let decides = ["host", "content-length", "transfer-encoding"];
    let odd = value.split(|byte| *byte == b',').any(|option| {
        decides
            .iter()
            .any(|name| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    });
    match odd {
        true => Err(malformed("its Connection header names one that decides")),
        false => Ok(()),
    }
}

/// Whether a name turns into one that ends a request where `_` or other characters are read as `-`.
fn is_disguised(name: &str) -> bool {
    let letters = |name: &str| -> String {
        name.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|letter| letter.to_ascii_lowercase())
            .collect()
    };
    // As long as the longest of them with some characters more.
    name.len() < 24 && ["contentlength", "transferencoding"].contains(&letters(name).as_str())
}

/// Digits alone: no sign, no list.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let fits = (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok())?
}

fn unreadable(head: &[u8], error: httparse::Error) -> Fault {
    let end = head
        .iter()
        .position(|byte| *byte == b'\r')
        .unwrap_or(head.len());
    let line = &head[..end];
    if line.starts_with(b"PRI * HTTP/2") {
        return Fault::new(
            FlowReason::Http2Cleartext,
            "HTTP/2 without TLS; declare protocol: tcp to let it through",
        );
    }
    malformed(&format!(
        "{error}, in a request that begins {:?}",
        harmless(&line[..line.len().min(40)])
    ))
}

/// A request that is not passed on.
pub(super) fn malformed(what: &str) -> Fault {
    Fault::new(
        FlowReason::HttpMalformed,
        format!("no clean HTTP/1 request: {what}"),
    )
}
