//! One client's HTTP/1 connection, of which every request is checked.
//!
//! The relay does this, for the whole life of the connection:
//!
//! ```text
//! client → server   match conversation.client() {
//!                       Read    => read, feed(bytes, &mut out), write out
//!                       Pass(n) => move at most n bytes unseen, then passed(moved)
//!                       Wait    => read nothing until watch() changed that; then feed(&[], &mut out)
//!                       Opaque  => move everything unseen
//!                   }
//! server → client   match conversation.server() {
//!                       Read    => read, watch(bytes)?, write all of bytes
//!                       Pass(n) => move at most n bytes unseen, then answered(moved)
//!                       Opaque  => move everything unseen
//!                   }
//! ```

mod answers;
mod chunks;
mod lines;
mod request;

use cellos_core::event::FlowReason;

use self::{
    answers::{Answers, Turn},
    chunks::Chunks,
    lines::{Block, Completeness, Lines},
    request::{Asked, Body, Expects, malformed},
};
use super::{Expected, Fault};

/// What may be done with the client's next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// They are fed.
    Read,
    /// As many of them may go on unseen.
    Pass(u64),
    /// Nothing, until the server has answered.
    Wait,
    /// All go on unseen: the connection was upgraded.
    Opaque,
}

/// What may be done with the server's next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// They are shown, and go on.
    Read,
    /// As many of them may go on unseen.
    Pass(u64),
    /// All go on unseen.
    Opaque,
}

/// Most bytes of a client that are kept while it has to wait; a relay that stops reading then keeps
/// less.
pub(crate) const MAX_WAITING: usize = 256 << 10;

/// Guards one connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    expected: Expected,
    place: Place,
    lines: Lines,
    answers: Answers,
    /// Whether the request that is being sent asks to go on in another protocol.
    upgrade: Upgrade,
    /// What came while the client has to wait. Not more than was fed at once.
    waiting: Vec<u8>,
    expects: Expects,
}

/// Where in the client's bytes one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    Body(u64),
    Chunks(Chunks),
    /// After a request to upgrade, before its answer.
    Asking,
    /// Upgraded.
    Opaque,
    /// The server answered before it had the body that it was asked about: some then read on with
    /// a body, some with a request.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    NotAsked,
    Asked,
}

impl Conversation {
    /// A guard for a connection to this destination.
    pub(crate) fn new(expected: Expected) -> Self {
        Self {
            expected,
            place: Place::Head,
            lines: Lines::default(),
            answers: Answers::default(),
            upgrade: Upgrade::NotAsked,
            waiting: Vec::new(),
            expects: Expects::Nothing,
        }
    }

    /// Takes bytes of the client and appends what may go on to `out`: nothing of a request before
    /// its head is complete and checked. After an error nothing more may go on than what is in `out`.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.waiting.is_empty() {
            return self.take(input, out);
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.extend_from_slice(input);
        if waiting.len() > MAX_WAITING {
            return Err(malformed("it says too much before the server has answered"));
        }
        self.take(&waiting, out)
    }

    /// What may be done with the client's next bytes.
    pub(crate) fn client(&self) -> Client {
        match self.place {
            _ if self.must_wait() => Client::Wait,
            // What waited goes first, through `feed`.
            _ if !self.waiting.is_empty() => Client::Read,
            Place::Body(left) => Client::Pass(left),
            Place::Chunks(chunks) if chunks.left() > 0 => Client::Pass(chunks.left()),
            Place::Opaque => Client::Opaque,
            Place::Head | Place::Chunks(_) | Place::Ended | Place::Asking => Client::Read,
        }
    }

    /// As many bytes of the client went on unseen; at most what [`Client::Pass`] said.
    pub(crate) fn passed(&mut self, count: u64) {
        if count > 0 {
            self.expects = Expects::Nothing;
        }
        match &mut self.place {
            Place::Body(left) if *left > count => *left -= count,
            Place::Body(_) => self.end_request(),
            Place::Chunks(chunks) => chunks.skip(count),
            _ => {}
        }
    }

    /// Looks at bytes of the server, before they go on to the client. After an error they do not.
    pub(crate) fn watch(&mut self, mut answer: &[u8]) -> Result<(), Fault> {
        while !answer.is_empty() && self.place != Place::Opaque {
            let (taken, turn) = self.answers.advance(answer);
            answer = answer.get(taken..).unwrap_or_default();
            match turn {
                Some(Turn::Switched(protocols)) => {
                    check_switch(&protocols)?;
                    // A server that switches has all of the request.
                    if self.place != Place::Asking {
                        return Err(malformed("it was upgraded before it was complete"));
                    }
                    self.place = Place::Opaque;
                }
                Some(Turn::Answered { unanswered }) => self.answered_one(unanswered),
                Some(Turn::Interim) => self.expects = Expects::Nothing,
                None => {}
            }
            if self.answers.is_lost() && self.place == Place::Asking {
                return Err(malformed(
                    "it asks for an upgrade, and the answer to it cannot be told",
                ));
            }
        }
        Ok(())
    }

    /// What may be done with the server's next bytes.
    pub(crate) fn server(&self) -> Server {
        match self.answers.left() {
            _ if self.place == Place::Opaque || self.answers.is_lost() => Server::Opaque,
            0 => Server::Read,
            left => Server::Pass(left),
        }
    }

    /// As many bytes of the server went on unseen; at most what [`Server::Pass`] said.
    pub(crate) fn answered(&mut self, count: u64) {
        self.answers.skip(count);
    }

    /// Whether the client is between two requests, so that nothing is missing when it closes.
    #[cfg(test)]
    pub(crate) fn is_between(&self) -> bool {
        self.place == Place::Head && self.lines.bytes().is_empty() && self.waiting.is_empty()
    }

    fn must_wait(&self) -> bool {
        self.place == Place::Asking || (self.place == Place::Head && self.answers.is_full())
    }

    fn take(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        while !input.is_empty() {
            if self.must_wait() {
                self.waiting = input.to_vec();
                return Ok(());
            }
            let taken = match self.place {
                Place::Head => self.take_head(input, out)?,
                Place::Chunks(Chunks::Trailers) => self.take_trailers(input, out)?,
                Place::Chunks(mut chunks) => {
                    let taken = chunks.advance(input).map_err(malformed)?;
                    self.expects = Expects::Nothing;
                    self.place = Place::Chunks(chunks);
                    out.extend_from_slice(&input[..taken]);
                    taken
                }
                Place::Body(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    out.extend_from_slice(&input[..taken]);
                    self.passed(u64::try_from(taken).unwrap_or(left));
                    taken
                }
                Place::Opaque => {
                    out.extend_from_slice(input);
                    input.len()
                }
                Place::Ended => {
                    return Err(malformed(
                        "it goes on although its body was declined; a new connection is needed",
                    ));
                }
                Place::Asking => 0,
            };
            input = input.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn take_head(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        let (taken, completeness) = self.lines.take(input, Block::Head).map_err(malformed)?;
        if completeness == Completeness::Partial {
            return Ok(taken);
        }
        let request = request::read(self.lines.bytes(), &self.expected)?;
        if request.asked == Asked::Upgrade && self.answers.is_lost() {
            return Err(malformed(
                "it asks for an upgrade, and the answer to it cannot be told",
            ));
        }
        out.extend_from_slice(self.lines.bytes());
        self.lines.clear();
        self.answers.expect(request.asked);
        self.upgrade = match request.asked {
            Asked::Upgrade => Upgrade::Asked,
            Asked::Plain | Asked::Head => Upgrade::NotAsked,
        };
        self.expects = request.expects;
        match request.body {
            Body::None => self.end_request(),
            Body::Length(length) => self.place = Place::Body(length),
            Body::Chunks => self.place = Place::Chunks(Chunks::START),
        }
        Ok(taken)
    }

    fn take_trailers(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        let (taken, completeness) = self.lines.take(input, Block::Trailers).map_err(malformed)?;
        if completeness == Completeness::Complete {
            request::check_trailers(self.lines.bytes())?;
            out.extend_from_slice(self.lines.bytes());
            self.lines.clear();
            self.end_request();
        }
        Ok(taken)
    }

    fn end_request(&mut self) {
        self.expects = Expects::Nothing;
        self.place = match self.upgrade {
            Upgrade::Asked => Place::Asking,
            Upgrade::NotAsked => Place::Head,
        };
    }

    /// The oldest request was answered, and as many are left.
    fn answered_one(&mut self, unanswered: usize) {
        let all_answered = unanswered == 0;
        match self.place {
            Place::Asking if all_answered => {
                self.upgrade = Upgrade::NotAsked;
                self.place = Place::Head;
            }
            Place::Body(_) | Place::Chunks(_) if all_answered => {
                self.upgrade = Upgrade::NotAsked;
                if self.expects == Expects::Continue {
                    self.place = Place::Ended;
                }
            }
            _ => {}
        }
    }
}

/// After an upgrade nothing is looked at any more, so it must not lead to where a host is named again.
fn check_switch(protocols: &str) -> Result<(), Fault> {
    let mut names = protocols
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase());
    match names.find(|name| {
        ["h2", "http", "tls"]
            .iter()
            .any(|odd| name.starts_with(odd))
    }) {
        None => Ok(()),
        Some(_) => Err(Fault::new(
            FlowReason::Http2Cleartext,
            "the server goes on with HTTP/2 or TLS on a connection that began as HTTP/1; declare \
             protocol: tcp to let it through",
        )),
    }
}

#[cfg(test)]
mod tests;
