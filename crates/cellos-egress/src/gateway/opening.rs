//! What a client says first, until it is known whether that may go on. Nothing is dialled before.

use std::{io, time::Duration};

use cellos_core::event::FlowReason;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    peek::{Conversation, Expected, Fault, Hold, Kind, TlsGuard, kind},
    relay::Guard,
    rules::Check,
};

/// How long a client may take until what it says first is complete.
pub(crate) const OPENING_TIME: Duration = Duration::from_secs(10);
/// Most bytes that a client may say until then. The largest heads of requests that servers take, and
/// hellos with several post-quantum key shares, are smaller.
pub(crate) const OPENING_BYTES: usize = 32 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 4 * 1024;

/// Why a connection gets no further.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) fault: Fault,
    /// What it seemed to speak.
    pub(super) kind: Kind,
    /// Everything that the client has said.
    pub(super) said: Vec<u8>,
}

/// What the client has said so far.
struct Opening<'c> {
    client: &'c TcpStream,
    said: Vec<u8>,
}

/// Listens to a client until what it says fits the check.
pub(super) async fn listen(
    client: &TcpStream,
    check: Check,
    expected: Expected,
    patience: Duration,
) -> Result<Guard, Refused> {
    let mut opening = Opening {
        client,
        said: Vec::new(),
    };
    let mut seen = Kind::NeedMore;
    let result = match timeout(patience, opening.guard(check, expected, &mut seen)).await {
        Ok(result) => result,
        Err(_) => Err(Fault {
            reason: FlowReason::L7PeekTimeout,
            presented: None,
            detail: format!(
                "the client's first bytes were not complete after {} s; a protocol in which the \
                 server speaks first needs `protocol: tcp`",
                patience.as_secs()
            ),
        }),
    };
    result.map_err(|fault| Refused {
        fault,
        kind: seen,
        said: opening.said,
    })
}

impl Opening<'_> {
    async fn guard(
        &mut self,
        check: Check,
        expected: Expected,
        seen: &mut Kind,
    ) -> Result<Guard, Fault> {
        if check == Check::Opaque {
            return Ok(Guard::Opaque(Vec::new()));
        }
        while *seen == Kind::NeedMore {
            self.more().await?;
            *seen = kind(&self.said);
        }
        match (*seen, check) {
            (Kind::Tls, Check::TlsOrHttp | Check::Tls) => self.tls(expected).await,
            (Kind::Http, Check::TlsOrHttp | Check::Http) => self.http(expected).await,
            (Kind::Http2Preface, _) => Err(fault(
                FlowReason::Http2Cleartext,
                "HTTP/2 without TLS; declare `protocol: tcp` to let it through unseen",
            )),
            (_, Check::Tls) => Err(fault(
                FlowReason::L7UnknownProtocol,
                "not TLS, which the rule asks for",
            )),
            (_, Check::Http) => Err(fault(
                FlowReason::L7UnknownProtocol,
                "not HTTP/1, which the rule asks for",
            )),
            (_, Check::TlsOrHttp | Check::Opaque) => Err(fault(
                FlowReason::L7UnknownProtocol,
                "neither TLS nor HTTP/1; declare `protocol: tcp` to let it through unseen",
            )),
        }
    }

    async fn tls(&mut self, expected: Expected) -> Result<Guard, Fault> {
        let mut guard = TlsGuard::new(expected);
        let mut fed = 0;
        loop {
            match guard.feed(&self.said[fed..])? {
                Hold::Settled => return Ok(Guard::Opaque(std::mem::take(&mut self.said))),
                Hold::Release => return Ok(Guard::Tls(guard, std::mem::take(&mut self.said))),
                Hold::Keep => {
                    fed = self.said.len();
                    self.more().await?;
                }
            }
        }
    }

    async fn http(&mut self, expected: Expected) -> Result<Guard, Fault> {
        let mut conversation = Conversation::new(expected);
        let mut released = Vec::new();
        let mut fed = 0;
        loop {
            // A second request that is refused here takes the first with it: none of them went on.
            conversation.feed(&self.said[fed..], &mut released)?;
            if !released.is_empty() {
                return Ok(Guard::Http(Box::new(conversation), released));
            }
            fed = self.said.len();
            self.more().await?;
        }
    }

    /// Waits for more bytes of the client.
    async fn more(&mut self) -> Result<(), Fault> {
        if self.said.len() >= OPENING_BYTES {
            return Err(fault(
                FlowReason::L7PeekTimeout,
                "the client's first bytes were not complete after 32 KiB",
            ));
        }
        let closed = |how: String| fault(FlowReason::L7UnknownProtocol, how);
        match read(self.client, &mut self.said).await {
            Ok(0) if self.said.is_empty() => Err(closed(
                "the client closed the connection before it said anything".to_owned(),
            )),
            Ok(0) => Err(closed(
                "the client closed the connection before what it said was complete".to_owned(),
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(closed(format!(
                "the client broke the connection off: {error}"
            ))),
        }
    }
}

async fn read(client: &TcpStream, said: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        client.readable().await?;
        let mut buffer = [0; READ_BYTES];
        match client.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                let read = read?;
                said.extend_from_slice(&buffer[..read]);
                return Ok(read);
            }
        }
    }
}

fn fault(reason: FlowReason, detail: impl Into<String>) -> Fault {
    Fault {
        reason,
        presented: None,
        detail: detail.into(),
    }
}
