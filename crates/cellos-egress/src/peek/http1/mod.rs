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

/// Guards one connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    expected: Expected,
}

impl Conversation {
    /// A guard for a connection to this destination.
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected }
    }

    /// Takes bytes of the client and appends what may go on to `out`: nothing of a request before
    /// its head is complete and checked. After an error nothing more may go on than what is in `out`.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let _ = (input, out);
        Ok(())
    }

    /// What may be done with the client's next bytes.
    pub(crate) fn client(&self) -> Client {
        Client::Read
    }

    /// As many bytes of the client went on unseen; at most what [`Client::Pass`] said.
    pub(crate) fn passed(&mut self, count: u64) {
        let _ = count;
    }

    /// Looks at bytes of the server, before they go on to the client. After an error they do not.
    pub(crate) fn watch(&mut self, answer: &[u8]) -> Result<(), Fault> {
        let _ = answer;
        Ok(())
    }

    /// What may be done with the server's next bytes.
    pub(crate) fn server(&self) -> Server {
        Server::Read
    }

    /// As many bytes of the server went on unseen; at most what [`Server::Pass`] said.
    pub(crate) fn answered(&mut self, count: u64) {
        let _ = count;
    }

    /// Whether the client can be given [`Fault::answer`]: no request went on before.
    pub(crate) fn is_first(&self) -> bool {
        true
    }
}
