//! Requests to the launcher, and what it says, without ever waiting for it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use cellos_isolation::{
    Launcher,
    message::{self, MAX_MESSAGE_BYTES},
    protocol::{FromLauncher, Numbered, Request},
};
use rustix::net::{RecvFlags, SendFlags};

/// The launcher cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// It has ended, and with it every cell.
    #[error("the launcher is gone, and with it the cell")]
    Gone,
    /// The kernel refused.
    #[error("{operation} the launcher: {source}")]
    Socket {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A request that no packet holds.
    #[error("command and environment come to {bytes} bytes, at most {MAX_MESSAGE_BYTES} fit")]
    TooLarge {
        /// Size of the request in bytes.
        bytes: usize,
    },
    /// A message that cannot be read or written.
    #[error("a message between init and launcher is not sound: {0}")]
    Message(#[from] serde_json::Error),
}

/// What the launcher said, with the descriptor that came along.
pub(super) type Said = (FromLauncher, Option<OwnedFd>);

/// This end of the conversation with the launcher.
pub(super) struct LauncherClient {
    /// `None` once the launcher is gone, or where there never was one.
    socket: Option<OwnedFd>,
    last_number: u64,
    buffer: Vec<u8>,
}

impl LauncherClient {
    pub(super) fn new(launcher: Launcher) -> Self {
        Self {
            socket: Some(launcher.socket),
            last_number: 0,
            buffer: vec![0; MAX_MESSAGE_BYTES],
        }
    }

    /// A client that nobody answers.
    pub(super) fn without_launcher() -> Self {
        Self {
            socket: None,
            last_number: 0,
            buffer: Vec::new(),
        }
    }

    /// The socket that the launcher speaks on, while it is there.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(OwnedFd::as_fd)
    }

    /// Sends a request and gives its number. A few small requests always fit the socket's buffer.
    pub(super) fn ask(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u64, LauncherError> {
        let number = self.last_number + 1;
        let bytes = serde_json::to_vec(&Numbered { number, request })?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(LauncherError::TooLarge { bytes: bytes.len() });
        }
        let socket = self.descriptor().ok_or(LauncherError::Gone)?;
        message::send(socket, &bytes, descriptors, SendFlags::DONTWAIT)
            .map_err(|error| failed("ask", error))?;
        self.last_number = number;
        Ok(number)
    }

    /// The next thing that the launcher has said, if it has. An error is told once: with it the
    /// launcher is given up, and so ends with its cells.
    pub(super) fn hear(&mut self) -> Result<Option<Said>, LauncherError> {
        let heard = self.try_to_hear();
        if heard.is_err() {
            self.socket = None;
        }
        heard
    }

    fn try_to_hear(&mut self) -> Result<Option<Said>, LauncherError> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        match message::receive(socket, &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(Some(message)) => {
                let said = serde_json::from_slice(&message.bytes)?;
                Ok(Some((said, message.descriptors.into_iter().next())))
            }
            Ok(None) => Err(LauncherError::Gone),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(failed("hear", error)),
        }
    }
}

fn failed(operation: &'static str, source: io::Error) -> LauncherError {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LauncherError::Gone,
        _ => LauncherError::Socket { operation, source },
    }
}
