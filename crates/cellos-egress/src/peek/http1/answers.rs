//! What a server answers, followed only to tell which answer belongs to which request.
//!
//! Nothing here refuses an answer. When it cannot be told any more where answers begin, this says
//! so, and then no request to upgrade is taken.

use std::collections::VecDeque;

use super::{
    chunks::Chunks,
    lines::{Block, Completeness, Lines},
    request::{Asked, MAX_HEADERS, length},
};

/// Most requests without an answer; with more the client waits.
pub(crate) const MAX_UNANSWERED: usize = 64;

/// Follows a server's side of one connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    unanswered: VecDeque<Asked>,
    place: Place,
    lines: Lines,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    Body(u64),
    Chunks(Chunks),
    /// It is not known where.
    Lost,
}

/// What a server decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// An interim answer.
    Interim,
    /// The answer to the oldest request; as many are left without one.
    Answered { unanswered: usize },
    /// To go on in these protocols, as it writes them.
    Switched(String),
}

impl Answers {
    /// A request goes out.
    pub(super) fn expect(&mut self, asked: Asked) {
        if self.place != Place::Lost {
            self.unanswered.push_back(asked);
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.place == Place::Lost
    }

    pub(super) fn is_full(&self) -> bool {
        self.unanswered.len() >= MAX_UNANSWERED
    }

    /// How much may go by unseen.
    pub(super) fn left(&self) -> u64 {
        match &self.place {
            Place::Body(left) => *left,
            Place::Chunks(chunks) => chunks.left(),
            Place::Head | Place::Lost => 0,
        }
    }

    /// As much went by unseen.
    pub(super) fn skip(&mut self, count: u64) {
        self.place = match self.place {
            Place::Body(left) if left > count => Place::Body(left - count),
            Place::Body(_) => Place::Head,
            Place::Chunks(mut chunks) => {
                chunks.skip(count);
                Place::Chunks(chunks)
            }
            place => place,
        };
    }

    /// Goes on to the next turn in `input`. Returns how much that took, and the turn, if there was
    /// one.
    pub(super) fn advance(&mut self, input: &[u8]) -> (usize, Option<Turn>) {
        match self.place {
            Place::Lost => (input.len(), None),
            Place::Body(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                self.skip(u64::try_from(taken).unwrap_or(left));
                (taken, None)
            }
            Place::Chunks(Chunks::Trailers) => match self.lines.take(input, Block::Trailers) {
                Ok((taken, Completeness::Partial)) => (taken, None),
                Ok((taken, Completeness::Complete)) => {
                    self.lines.clear();
                    self.place = Place::Head;
                    (taken, None)
                }
                Err(_) => self.lose(input),
            },
            Place::Chunks(mut chunks) => match chunks.advance(input) {
                Ok(taken) => {
                    self.place = Place::Chunks(chunks);
                    (taken, None)
                }
                Err(_) => self.lose(input),
            },
            Place::Head => match self.lines.take(input, Block::Head) {
                Ok((taken, Completeness::Partial)) => (taken, None),
                Ok((taken, Completeness::Complete)) => match self.read_head() {
                    Some(turn) => (taken, Some(turn)),
                    None => self.lose(input),
                },
                Err(_) => self.lose(input),
            },
        }
    }

    /// Reads a whole head; nothing when it does not say where the next one begins.
    fn read_head(&mut self) -> Option<Turn> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(self.lines.bytes()) {
            Ok(httparse::Status::Complete(length)) if length == self.lines.bytes().len() => {}
            Ok(_) | Err(_) => return None,
        }
        let code = answer.code?;
        let of = |name: &'static str| {
            answer
                .headers
                .iter()
                .filter(move |header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value.trim_ascii())
        };
        let asked = *self.unanswered.front()?;
        let turn = match code {
            101 if asked == Asked::Upgrade => {
                let protocols: Vec<_> = of("upgrade").map(String::from_utf8_lossy).collect();
                Turn::Switched(protocols.join(","))
            }
            101 => return None,
            100..=199 => Turn::Interim,
            _ => {
                let lengths: Vec<_> = of("content-length").collect();
                let encodings: Vec<_> = of("transfer-encoding").collect();
                let has_no_body = asked == Asked::Head || matches!(code, 204 | 304);
                self.place = match (lengths.as_slice(), encodings.as_slice()) {
                    _ if has_no_body => Place::Head,
                    ([digits], []) => match length(digits)? {
                        0 => Place::Head,
                        length => Place::Body(length),
                    },
                    ([], [encoding])
                        if answer.version == Some(1)
                            && encoding.eq_ignore_ascii_case(b"chunked") =>
                    {
                        Place::Chunks(Chunks::START)
                    }
                    // Ends with the connection, or nobody knows where.
                    _ => Place::Lost,
                };
                self.unanswered.pop_front();
                Turn::Answered {
                    unanswered: self.unanswered.len(),
                }
            }
        };
        self.lines.clear();
        if self.place == Place::Lost {
            self.unanswered = VecDeque::new();
        }
        Some(turn)
    }

    fn lose(&mut self, input: &[u8]) -> (usize, Option<Turn>) {
        self.place = Place::Lost;
        self.lines = Lines::default();
        self.unanswered = VecDeque::new();
        (input.len(), None)
    }
}
