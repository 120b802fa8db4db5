//! The first flight of a TLS client.
//!
//! A server may answer the first hello with "retry" (RFC 8446, 4.1.4), and some servers then go by
//! the server name of the second one. So the second hello is checked like the first.

use cellos_core::event::FlowReason;

use super::{
    Expected, Fault,
    client_hello::{self, MAX_HELLO},
};

/// Largest record before encryption, RFC 8446, 5.1.
const MAX_RECORD: usize = 1 << 14;
/// Largest record after it, RFC 8446, 5.2 with the allowance of TLS 1.2.
const MAX_ENCRYPTED_RECORD: usize = MAX_RECORD + 2048;
/// Most bytes of a first flight. Twice a hello, so that one in many small records fits.
pub(crate) const MAX_FIRST_FLIGHT: usize = 2 * MAX_HELLO;
/// How much early data is looked through for a second hello. Servers that retry skip some 16 KiB.
const MAX_EARLY_DATA: u64 = 1 << 20;
/// Most records without data (alerts, compatibility messages) between two hellos. Servers take less.
const MAX_EMPTY_RECORDS: u32 = 64;

/// The first byte of the length of the largest hello that any server takes, with room. A message
/// that claims more is no hello, but encrypted.
const HIGHEST_LENGTH: u8 = 2;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;

/// What is to be done with the bytes that a [`TlsGuard`] was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Keep all of them: the hello is not complete.
    Keep,
    /// All of them may go on; feed what comes next before it goes on.
    Release,
    /// All of them may go on, and everything after them.
    Settled,
}

/// Watches what one client says in TLS until nothing more can change whom it speaks to.
#[derive(Debug)]
pub(crate) struct TlsGuard {
    expected: Expected,
    stage: Stage,
    /// The header of the record that is being read.
    header: [u8; 5],
    /// How much of it there is.
    header_length: usize,
    /// What of the record's content is still to come.
    remaining: usize,
    /// The hello so far.
    hello: Vec<u8>,
    /// All bytes before the first hello was complete.
    flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first hello.
    First,
    /// After it: what comes may be a second one.
    Between { early_data: u64, empty: u32 },
    /// The second hello, or the first encrypted message of a resumed session of TLS 1.2 that by
    /// chance begins like one.
    Second { early_data: u64 },
    /// Nothing more is looked at.
    Settled,
}

impl TlsGuard {
    /// A guard for a connection to this destination.
    pub(crate) fn new(expected: Expected) -> Self {
        Self {
            expected,
            stage: Stage::First,
            header: [0; 5],
            header_length: 0,
            remaining: 0,
            hello: Vec::new(),
            flight: 0,
        }
    }

    /// Takes what the client sent. Each byte is fed once. After an error nothing may go on.
    pub(crate) fn feed(&mut self, mut input: &[u8]) -> Result<Hold, Fault> {
        while !input.is_empty() && self.stage != Stage::Settled {
            let taken = match self.remaining {
                0 => self.take_header(input)?,
                _ => self.take_content(input)?,
            };
            if self.stage == Stage::First {
                self.flight += taken;
                if self.flight > MAX_FIRST_FLIGHT {
                    return Err(malformed("a hello of more than 128 KiB on the wire"));
                }
            }
            input = input.get(taken..).unwrap_or_default();
        }
        Ok(match self.stage {
            Stage::First => Hold::Keep,
            Stage::Between { .. } | Stage::Second { .. } => Hold::Release,
            Stage::Settled => Hold::Settled,
        })
    }

    fn take_header(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let taken = input.len().min(self.header.len() - self.header_length);
        self.header[self.header_length..][..taken].copy_from_slice(&input[..taken]);
        self.header_length += taken;
        // Refused as early as can be, so that nobody waits for the rest of what is none.
        if self.stage == Stage::First {
            match self.header[..self.header_length] {
                [0x80..=0xff, ..] => return Err(malformed("a hello of SSL 2")),
                [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
                _ => return Err(malformed("a record that is no handshake of TLS")),
            }
        }
        if self.header_length < self.header.len() {
            return Ok(taken);
        }
        let [kind, major, _, high, low] = self.header;
        self.header_length = 0;
        self.remaining = usize::from(u16::from_be_bytes([high, low]));
        let most = match kind {
            APPLICATION_DATA => MAX_ENCRYPTED_RECORD,
            _ => MAX_RECORD,
        };
        if self.remaining > most {
            return Err(malformed("a record that is too large"));
        }
        if self.remaining == 0 && kind != APPLICATION_DATA {
            return Err(malformed("an empty record"));
        }
        match (&mut self.stage, kind) {
            (Stage::First, _) => {}
            (Stage::Settled, _) => {}
            (Stage::Second { .. }, HANDSHAKE) if major == 3 => {}
            // No server goes on with a hello after this, unless it skips early data.
            (Stage::Second { early_data: 0 }, APPLICATION_DATA) => self.settle(),
            (Stage::Second { .. }, _) => {
                return Err(malformed("a second hello that is broken off"));
            }
            (Stage::Between { .. }, _) if major != 3 => {
                return Err(malformed("a record that is none of TLS after the hello"));
            }
            (Stage::Between { .. }, HANDSHAKE) => {}
            (Stage::Between { empty, .. }, CHANGE_CIPHER_SPEC | ALERT) => {
                *empty += 1;
                if *empty > MAX_EMPTY_RECORDS {
                    return Err(malformed("too many alerts after the hello"));
                }
            }
            (Stage::Between { early_data, .. }, APPLICATION_DATA) => {
                let cost = u64::try_from(self.remaining).unwrap_or(u64::MAX).max(1);
                match early_data.checked_sub(cost) {
                    Some(rest) => *early_data = rest,
                    // Without early data no server takes a second hello after this.
                    None => self.settle(),
                }
            }
            (Stage::Between { .. }, _) => {
                return Err(malformed("a record of an unknown type after the hello"));
            }
        }
        Ok(taken)
    }

    fn take_content(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let content = &input[..input.len().min(self.remaining)];
        self.remaining -= content.len();
        let is_handshake = self.header[0] == HANDSHAKE;
        if let Stage::Between { early_data, .. } = self.stage {
            match content.first() {
                Some(&CLIENT_HELLO) if is_handshake => self.stage = Stage::Second { early_data },
                // The next step of TLS 1.2: the server took the first hello.
                Some(_) if is_handshake => self.settle(),
                _ => {}
            }
        }
        if matches!(self.stage, Stage::First | Stage::Second { .. }) {
            self.hello.extend_from_slice(content);
            self.finish_hello()?;
        }
        Ok(content.len())
    }

    /// Checks the hello when it is complete.
    fn finish_hello(&mut self) -> Result<(), Fault> {
        if let (Stage::Second { .. }, Some(high)) = (self.stage, self.hello.get(1))
            && *high > HIGHEST_LENGTH
        {
            self.settle();
            return Ok(());
        }
        let [kind, high, middle, low] = match self.hello.first_chunk::<4>() {
            Some(header) => *header,
            None if matches!(self.hello.first(), None | Some(&CLIENT_HELLO)) => return Ok(()),
            None => return Err(malformed("a handshake that begins with no hello")),
        };
        if kind != CLIENT_HELLO {
            return Err(malformed("a handshake that begins with no hello"));
        }
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > MAX_HELLO {
            return Err(malformed("a hello of more than 64 KiB"));
        }
        match self.hello.len().cmp(&(4 + length)) {
            std::cmp::Ordering::Less => return Ok(()),
            std::cmp::Ordering::Equal if self.remaining == 0 => {}
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {
                return Err(malformed("a record with more than the hello"));
            }
        }
        let hello = client_hello::parse(&self.hello[4..]).map_err(malformed)?;
        self.expected.check_tls(&hello)?;
        match self.stage {
            Stage::First => {
                self.hello.clear();
                self.stage = Stage::Between {
                    early_data: match hello.early_data {
                        true => MAX_EARLY_DATA,
                        false => 0,
                    },
                    empty: 0,
                };
            }
            _ => self.settle(),
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.stage = Stage::Settled;
        self.hello = Vec::new();
    }
}

fn malformed(what: &'static str) -> Fault {
    Fault::new(FlowReason::TlsMalformed, format!("no clean TLS: {what}"))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
