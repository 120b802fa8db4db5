//! Connections through a proxy: CONNECT (RFC 9110, 9.3.6) and SOCKS 5 (RFC 1928, 1929).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    DialError, Dialled, Target, direct,
    upstream::{Names, Proxy, Speaks},
};

/// Most bytes of a proxy's answer to CONNECT. Real ones have some hundred.
pub(crate) const MAX_PROXY_ANSWER: usize = 8 << 10;
/// How long a connection through a proxy may take, with everything that the proxy does for it.
pub(crate) const PROXY_TIME: Duration = Duration::from_secs(30);
/// How long one address of the proxy has to take a connection: three first packets of TCP.
pub(crate) const PROXY_ATTEMPT_TIME: Duration = Duration::from_secs(4);
/// How many of a name's addresses the proxy is asked to connect to, before it is given up: a proxy
/// answers for each only when its own attempt has failed.
pub(crate) const MAX_PROXY_ATTEMPTS: usize = 3;
/// Most headers of a proxy's answer.
const MAX_HEADERS: usize = 64;

/// One destination, as the proxy is told.
#[derive(Debug, Clone, Copy)]
enum Destination<'a> {
    Address(SocketAddr),
    Name(&'a str, u16),
}

impl Proxy {
    /// Has the proxy connect to the first of these that takes it.
    pub(super) async fn dial(&self, target: Target<'_>, port: u16) -> Result<Dialled, DialError> {
        let end = Instant::now() + PROXY_TIME;
        self.dial_until(target, port, end).await
    }

    async fn dial_until(
        &self,
        target: Target<'_>,
        port: u16,
        end: Instant,
    ) -> Result<Dialled, DialError> {
        match timeout_at(end, self.dial_untimed(target, port)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(DialError::TimedOut(PROXY_TIME)),
        }
    }

    async fn dial_untimed(&self, target: Target<'_>, port: u16) -> Result<Dialled, DialError> {
        match target {
            Target::Name(name) if self.names == Names::LeftToProxy => Ok(Dialled {
                stream: self.through(Destination::Name(name, port)).await?,
                address: None,
            }),
            Target::Name(_) => Err(DialError::NotResolved),
            Target::Addresses(addresses) => {
                let mut failure = DialError::NoAddress;
                for address in addresses.iter().take(MAX_PROXY_ATTEMPTS) {
                    let address = SocketAddr::new(*address, port);
                    match self.through(Destination::Address(address)).await {
                        Ok(stream) => {
                            return Ok(Dialled {
                                stream,
                                address: Some(address),
                            });
                        }
                        Err(refusal @ DialError::Proxy(_)) => failure = refusal,
                        Err(fatal) => return Err(fatal),
                    }
                }
                Err(failure)
            }
        }
    }

    /// A connection to the proxy, which is one to the destination after this.
    async fn through(&self, destination: Destination<'_>) -> Result<TcpStream, DialError> {
        let unreachable = |source| DialError::ProxyUnreachable {
            proxy: self.to_string(),
            source,
        };
        let mut stream = self.connect().await.map_err(unreachable)?;
        let refusal = match self.speaks {
            Speaks::Connect => self.ask_connect(&mut stream, destination).await,
            Speaks::Socks5 => self.ask_socks(&mut stream, destination).await,
        };
        match refusal.map_err(unreachable)? {
            None => Ok(stream),
            Some(refusal) => Err(DialError::Proxy(refusal)),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "its host has no address");
        let addresses = lookup_host((self.host.as_str(), self.port)).await?;
        for address in addresses.take(direct::MAX_ADDRESSES) {
            let until = Instant::now() + PROXY_ATTEMPT_TIME;
            match timeout_at(until, direct::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }

    /// Asks with CONNECT. Returns the refusal, if it is one. Reads nothing after the answer's head:
    /// that is the destination's.
    async fn ask_connect(
        &self,
        stream: &mut TcpStream,
        destination: Destination<'_>,
    ) -> io::Result<Option<String>> {
        let authority = match destination {
            Destination::Address(address) => address.to_string(),
            Destination::Name(name, port) => format!("{name}:{port}"),
        };
        let mut request = Zeroizing::new(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        ));
        if let Some(login) = &self.login {
            // With all its room at once: growing would leave copies behind.
            let room = login.user.len() + 1 + login.password.len();
            let mut pair = Zeroizing::new(String::with_capacity(room));
            pair.push_str(&login.user);
            pair.push(':');
            pair.push_str(&login.password);
            let basic = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            request.reserve(basic.len() + 64);
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&basic);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;

        loop {
            let head = read_head(stream).await?;
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut answer = httparse::Response::new(&mut headers);
            let code = match answer.parse(&head) {
                Ok(httparse::Status::Complete(_)) => answer.code.unwrap_or_default(),
                Ok(httparse::Status::Partial) | Err(_) => return Err(odd("it answers no HTTP")),
            };
            match code {
                // Interim answers come before the real one, RFC 9110, 15.2; the loop's time is bound.
                100 | 102..=199 => {}
                200..=299 => return Ok(None),
                407 => return Ok(Some("it wants another login, or one (407)".into())),
                _ => {
                    let reason =
                        crate::peek::harmless(answer.reason.unwrap_or_default().as_bytes());
                    return Ok(Some(format!("{code} {reason}").trim_end().to_owned()));
                }
            }
        }
    }

    /// Asks with SOCKS 5. Returns the refusal, if it is one.
    async fn ask_socks(
        &self,
        stream: &mut TcpStream,
        destination: Destination<'_>,
    ) -> io::Result<Option<String>> {
        let method: u8 = if self.login.is_some() { 2 } else { 0 };
        stream.write_all(&[5, 1, method]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        match (chosen, &self.login) {
            ([5, 0], None) => {}
            ([5, 2], Some(login)) => {
                let mut request = Zeroizing::new(Vec::with_capacity(3 + 2 * 255));
                request.push(1);
                for part in [&login.user, &login.password] {
                    request.push(length(part.as_bytes())?);
                    request.extend_from_slice(part.as_bytes());
                }
                stream.write_all(&request).await?;
                let mut status = [0; 2];
                stream.read_exact(&mut status).await?;
                if status[1] != 0 {
                    return Ok(Some("it does not accept the login".into()));
                }
            }
            ([5, _], _) => return Ok(Some("it wants another login, or one".into())),
            _ => return Err(odd("it answers no SOCKS 5")),
        }

        let mut request = vec![5, 1, 0];
        let port = match destination {
            Destination::Address(address) => {
                match address.ip() {
                    IpAddr::V4(v4) => {
                        request.push(1);
                        request.extend_from_slice(&v4.octets());
                    }
                    IpAddr::V6(v6) => {
                        request.push(4);
                        request.extend_from_slice(&v6.octets());
                    }
                }
                address.port()
            }
            Destination::Name(name, port) => {
                request.extend_from_slice(&[3, length(name.as_bytes())?]);
                request.extend_from_slice(name.as_bytes());
                port
            }
        };
        request.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&request).await?;

        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [version, code, _, kind] = head;
        if version != 5 {
            return Err(odd("it answers no SOCKS 5"));
        }
        if code != 0 {
            return Ok(Some(refusal(code).into()));
        }
        // The address that it bound, which says nothing; what follows is the destination's.
        let bound = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => return Err(odd("it answers no SOCKS 5")),
        };
        let mut rest = [0; 255 + 2];
        stream.read_exact(&mut rest[..bound + 2]).await?;
        Ok(None)
    }
}

/// What a SOCKS 5 reply means, RFC 1928, 6.
fn refusal(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time ran out",
        7 => "it knows no CONNECT",
        8 => "it knows no such addresses",
        _ => "for a reason without a meaning",
    }
}

/// The head of an answer, up to its empty line and no byte further.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut seen = [0; 512];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(odd("it closed before it answered"));
        }
        let before = head.len();
        head.extend_from_slice(&seen[..count]);
        let end = end_of_head(&head, before);
        let taken = end.map_or(count, |end| end - before);
        stream.read_exact(&mut seen[..taken]).await?;
        head.truncate(before + taken);
        if end.is_some() {
            return Ok(head);
        }
        if head.len() > MAX_PROXY_ANSWER {
            return Err(odd("its answer is longer than 8 KiB"));
        }
    }
}

/// Where the head ends, if it does after `before`.
fn end_of_head(head: &[u8], before: usize) -> Option<usize> {
    (before.max(1)..head.len())
        .find(|at| {
            head[*at] == b'\n' && (head[..*at].ends_with(b"\n") || head[..*at].ends_with(b"\n\r"))
        })
        .map(|at| at + 1)
}

fn length(bytes: &[u8]) -> io::Result<u8> {
    u8::try_from(bytes.len()).map_err(|_| odd("SOCKS 5 has no room for more than 255 bytes"))
}

fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
