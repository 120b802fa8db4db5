//! Attempts that the kernel of the cell's network refused by itself, because nobody listens on the
//! port: without them the record would not show that the cell tried.
//!
//! The socket's filter lets through only resets that answer a first packet, and ICMP "port
//! unreachable". The packets are the kernel's, but about what the workload sent, so they are read
//! like anything else that comes out of a cell.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    sync::atomic::{AtomicBool, Ordering},
};

use cellos_core::event::FlowProtocol;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt::RxqOvfl,
};
use tokio::{io::Interest, net::UdpSocket};

/// Bytes of a packet that are read; the socket's filter cuts at fewer.
const PACKET_BYTES: usize = 256;
/// Extension headers of IPv6 that are passed over before a packet is given up.
const MAX_EXTENSION_HEADERS: usize = 8;

/// An attempt that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Where the cell wanted to go.
    pub(crate) address: IpAddr,
    /// The port there.
    pub(crate) port: u16,
    /// The transport.
    pub(crate) transport: FlowProtocol,
}

/// Reads them. The kernel keeps about a hundred; those beyond are counted.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// Held as a UDP socket, which is watched in the same way; never used as one.
    socket: Option<UdpSocket>,
    seen_lost: u32,
    lost: u64,
}

impl Refusals {
    /// Reads from the packet socket of a cell.
    ///
    /// # Errors
    /// When the socket cannot be watched, or does not count what it loses.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        setsockopt(&socket, RxqOvfl, &1)?;
        Ok(Self {
            socket: Some(UdpSocket::from_std(socket.into())?),
            seen_lost: 0,
            lost: 0,
        })
    }

    /// The next one. May be dropped while it waits.
    ///
    /// # Errors
    /// When the socket cannot be read any more.
    pub(crate) async fn next(&mut self) -> io::Result<Refused> {
        loop {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let (refused, lost) = socket
                .async_io(Interest::READABLE, || receive(socket))
                .await?;
            self.note_lost(lost);
            if let Some(refused) = refused {
                return Ok(refused);
            }
        }
    }

    /// The next one that is there already; nothing when there is none.
    pub(crate) fn waiting(&mut self) -> Option<Refused> {
        loop {
            let (refused, lost) = receive(self.socket.as_ref()?).ok()?;
            self.note_lost(lost);
            if refused.is_some() {
                return refused;
            }
        }
    }

    fn note_lost(&mut self, lost: Option<u32>) {
        if let Some(lost) = lost {
            // The kernel's counter begins again after its largest number.
            self.lost += u64::from(lost.wrapping_sub(self.seen_lost));
            self.seen_lost = lost;
        }
    }

    /// How many there was no room for since this was last asked; known when the next one after them
    /// has been read.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let Ok(socket) = socket.into_std() else {
            return;
        };
        // The kernel waits for all processors before it lets go of a packet socket, for up to some
        // tens of milliseconds, which no task shall wait for, nor the end of a process that runs one
        // cell.
        let is_first = !COLLECTED.swap(true, Ordering::Relaxed);
        if is_first && let Ok(queue) = put_into_own_queue(&socket) {
            // Before the queue, which may be collected as soon as it is closed.
            drop(socket);
            drop(queue);
            return;
        }
        // Where there can be no thread the closure is dropped here, and with it the socket.
        let _ = std::thread::Builder::new()
            .name("close-socket".to_owned())
            .spawn(move || drop(socket));
    }
}

/// Whether a socket of this process was left to the kernel's collector. It closes one after the
/// other, so a process that has many cells closes its others itself, which goes side by side.
static COLLECTED: AtomicBool = AtomicBool::new(false);

/// Sends a socket, together with the only socket that could receive it, into the queue of the
/// latter. Once all three are closed here nobody can ever receive them, and the kernel's collector of
/// such queues closes them: since Linux 6.9 in a thread of its own, before by who closes the last.
fn put_into_own_queue(socket: &impl AsFd) -> io::Result<(UnixDatagram, UnixDatagram)> {
    let (from, to) = UnixDatagram::pair()?;
    let both = [to.as_raw_fd(), socket.as_fd().as_raw_fd()];
    sendmsg::<()>(
        from.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&both)],
        MsgFlags::MSG_DONTWAIT,
        None,
    )?;
    Ok((from, to))
}

/// Reads one packet, and the kernel's count of those it had no room for.
fn receive(socket: &UdpSocket) -> io::Result<(Option<Refused>, Option<u32>)> {
    let mut packet = [0; PACKET_BYTES];
    let mut control = nix::cmsg_space!(u32);
    let mut buffers = [IoSliceMut::new(&mut packet)];
    let received = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut buffers,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let lost = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::RxqOvfl(lost) => Some(lost),
        _ => None,
    });
    let length = received.bytes;
    Ok((parse(packet.get(..length).unwrap_or_default()), lost))
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of an ICMP message before the packet that it is about.
const ICMP_HEADER_BYTES: usize = 8;

/// What a refusal is about; nothing for a packet that is none, or cannot be read.
fn parse(packet: &[u8]) -> Option<Refused> {
    let outer = Header::of(packet)?;
    match outer.protocol {
        // The one who refuses is the one who was asked.
        TCP => Some(Refused {
            address: outer.source,
            port: word(outer.payload, 0)?,
            transport: FlowProtocol::Tcp,
        }),
        ICMP | ICMPV6 => {
            let inner = Header::of(outer.payload.get(ICMP_HEADER_BYTES..)?)?;
            let transport = match inner.protocol {
                TCP => FlowProtocol::Tcp,
                UDP => FlowProtocol::Udp,
                _ => return None,
            };
            Some(Refused {
                address: inner.destination,
                port: word(inner.payload, 2)?,
                transport,
            })
        }
        _ => None,
    }
}

/// What an IP header says, and what follows it.
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::of_v4(packet),
            6 => Self::of_v6(packet),
            _ => None,
        }
    }

    fn of_v4(packet: &'a [u8]) -> Option<Self> {
        let length = usize::from(packet.first()? & 0xf) * 4;
        if length < 20 || word(packet, 6)? & 0x1fff != 0 {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: *packet.get(9)?,
            payload: packet.get(length..)?,
        })
    }

    fn of_v6(packet: &'a [u8]) -> Option<Self> {
        /// Hop-by-hop options, routing, destination options: RFC 8200. A fragment is not read.
        const EXTENSIONS: [u8; 3] = [0, 43, 60];
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        };
        let mut protocol = *packet.get(6)?;
        let mut payload = packet.get(40..)?;
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !EXTENSIONS.contains(&protocol) {
                return Some(Self {
                    source: address(8)?,
                    destination: address(24)?,
                    protocol,
                    payload,
                });
            }
            protocol = *payload.first()?;
            let length = (usize::from(*payload.get(1)?) + 1) * 8;
            payload = payload.get(length..)?;
        }
        None
    }
}

/// 16 bits in network order.
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        packet.extend_from_slice(payload);
        packet
    }

    fn v6(protocol: u8, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = protocol;
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        packet[8..24].copy_from_slice(&octets(source));
        packet[24..40].copy_from_slice(&octets(destination));
        packet.extend_from_slice(payload);
        packet
    }

    fn ports(source: u16, destination: u16) -> Vec<u8> {
        [source.to_be_bytes(), destination.to_be_bytes()].concat()
    }

    fn refused(address: &str, port: u16, transport: FlowProtocol) -> Option<Refused> {
        Some(Refused {
            address: address.parse().unwrap(),
            port,
            transport,
        })
    }

    #[test]
    fn a_reset_is_about_its_sender() {
        let packet = v4(TCP, [192, 0, 2, 1], [198, 18, 0, 53], &ports(8443, 40_000));
        assert_eq!(
            parse(&packet),
            refused("192.0.2.1", 8443, FlowProtocol::Tcp)
        );
        let packet = v6(TCP, "2001:db8::1", "fd63::1", &ports(25, 40_000));
        assert_eq!(
            parse(&packet),
            refused("2001:db8::1", 25, FlowProtocol::Tcp)
        );
    }

    #[test]
    fn an_unreachable_port_is_that_of_the_datagram() {
        let datagram = v4(UDP, [198, 18, 0, 53], [192, 0, 2, 9], &ports(40_000, 123));
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &datagram].concat();
        let packet = v4(ICMP, [192, 0, 2, 9], [198, 18, 0, 53], &message);
        assert_eq!(parse(&packet), refused("192.0.2.9", 123, FlowProtocol::Udp));

        // Behind destination options, which a workload may add.
        let options = [&[UDP, 0, 0, 0, 0, 0, 0, 0][..], &ports(40_000, 443)].concat();
        let datagram = v6(60, "fd63::1", "2001:db8::9", &options);
        let message = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &datagram].concat();
        let packet = v6(ICMPV6, "2001:db8::9", "fd63::1", &message);
        assert_eq!(
            parse(&packet),
            refused("2001:db8::9", 443, FlowProtocol::Udp)
        );
    }

    #[test]
    fn every_cut_of_a_packet_is_taken_for_none_or_for_the_whole() {
        let datagram = v4(UDP, [198, 18, 0, 53], [192, 0, 2, 9], &ports(40_000, 123));
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &datagram].concat();
        let packet = v4(ICMP, [192, 0, 2, 9], [198, 18, 0, 53], &message);
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(packet in prop::collection::vec(any::<u8>(), 0..PACKET_BYTES)) {
            let _ = parse(&packet);
        }

        #[test]
        fn strange_insides_of_sound_packets_neither(
            protocol in prop::sample::select(vec![TCP, UDP, ICMP, ICMPV6, 0, 43, 60]),
            inside in prop::collection::vec(any::<u8>(), 0..200),
            begins in prop::sample::select(vec![0x45u8, 0x4f, 0x40, 0x60, 0x61]),
        ) {
            let mut inside = inside;
            if let Some(first) = inside.get_mut(ICMP_HEADER_BYTES) {
                *first = begins;
            }
            let outer = [192, 0, 2, 1];
            let read = parse(&v4(protocol, outer, [198, 18, 0, 53], &inside));
            if let Some(Refused { transport: FlowProtocol::Tcp, address, .. }) = read
                && protocol == TCP
            {
                prop_assert_eq!(address, IpAddr::from(outer));
            }
            let _ = parse(&v6(protocol, "2001:db8::1", "fd63::1", &inside));
        }
    }
}
