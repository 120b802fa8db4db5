//! Messages with descriptors over local sockets: one `SOCK_SEQPACKET` packet is one message.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Largest message in bytes. A packet has to fit the kernel's default socket buffer
/// (`net.core.wmem_default`, 212,992 bytes on common machines) with its own overhead.
pub const MAX_MESSAGE_BYTES: usize = 160 * 1024;

/// Most descriptors in one message: as many as the kernel takes (unix(7), `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// How long a sender waits for others' descriptors to be received, each time. A user may have only
/// as many on their way as a process of its may have open (unix(7), `ETOOMANYREFS`).
pub const WAIT_FOR_RECEIVER: Duration = Duration::from_millis(1);
/// How often it waits before it gives up: receivers read what they get at once.
pub const MOST_WAITS: u32 = 5000;

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Sender's process id in the receiver's PID namespace, where the socket asks for it.
    pub sender: Option<u32>,
}

/// A connected pair of message sockets.
///
/// # Errors
/// The kernel's, `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes every message received on `socket` carry its sender's process id.
pub(crate) fn ask_for_sender(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(socket, true)?)
}

/// Sends one message.
///
/// # Errors
/// The kernel's, `sendmsg(2)`; more than [`MAX_DESCRIPTORS`] are an invalid input.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let mut waits = 0;
    loop {
        match sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            flags | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::TOOMANYREFS)
                if !flags.contains(SendFlags::DONTWAIT) && waits < MOST_WAITS =>
            {
                waits += 1;
                std::thread::sleep(WAIT_FOR_RECEIVER);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message, whatever its size, into a buffer made for it. Waits for it.
pub(crate) fn receive_any(socket: impl AsFd) -> io::Result<Option<Message>> {
    // With MSG_TRUNC the kernel tells the whole length, recv(2).
    let (_, length) = rustix::net::recv(
        &socket,
        &mut [0u8; 0][..],
        RecvFlags::PEEK | RecvFlags::TRUNC,
    )?;
    let mut buffer = vec![0; length.clamp(1, MAX_MESSAGE_BYTES)];
    receive(socket, &mut buffer, RecvFlags::empty())
}

/// Receives one message into `buffer`'s space. `None` at the end of the connection.
///
/// # Errors
/// The kernel's, `recvmsg(2)`; a message larger than the buffer, or with descriptors that this
/// process may not have for its limit on them, is invalid data.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<Option<Message>> {
    match receive_what_fits(socket, buffer, flags)? {
        (_, Lost::Descriptors) => Err(cut_off()),
        (message, Lost::Nothing) => Ok(message),
    }
}

/// What did not arrive with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// All of it arrived.
    Nothing,
    /// Descriptors beyond this process's limit on them; the bytes are there.
    Descriptors,
}

/// As [`receive`], but a message is taken also when not all of its descriptors could be.
///
/// # Errors
/// The kernel's, `recvmsg(2)`; a message larger than the buffer is invalid data.
pub fn receive_what_fits(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(Option<Message>, Lost)> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            flags | RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = Vec::new();
    let mut sender = None;
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok((None, Lost::Nothing));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(cut_off());
    }
    let lost = match received.flags.contains(ReturnFlags::CTRUNC) {
        true => Lost::Descriptors,
        false => Lost::Nothing,
    };
    let bytes = buffer.get(..received.bytes).unwrap_or_default().to_vec();
    let message = Message {
        bytes,
        descriptors,
        sender,
    };
    Ok((Some(message), lost))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "message was cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_descriptors_and_sender_arrive_together() {
        let (left, right) = pair().unwrap();
        ask_for_sender(right.as_fd()).unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        send(left.as_fd(), b"hello", &[file.as_fd()], SendFlags::empty()).unwrap();
        let mut buffer = [0; 64];
        let message = receive(&right, &mut buffer, RecvFlags::empty())
            .unwrap()
            .unwrap();
        assert_eq!(message.bytes, b"hello");
        assert_eq!(message.descriptors.len(), 1);
        assert_eq!(message.sender, Some(std::process::id()));
    }

    #[test]
    fn a_closed_peer_ends_the_connection_and_a_cut_message_is_an_error() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), b"0123456789", &[], SendFlags::empty()).unwrap();
        drop(left);
        let mut small = [0; 4];
        assert!(receive(&right, &mut small, RecvFlags::empty()).is_err());
        assert!(
            receive(&right, &mut small, RecvFlags::empty())
                .unwrap()
                .is_none()
        );
    }
}
