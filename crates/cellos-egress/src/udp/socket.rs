//! A UDP socket that tells where each datagram was sent to, and answers from there; `ip(7)` and
//! `ipv6(7)`, `IP_PKTINFO`.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrLike,
        SockaddrStorage, getsockname, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Most bytes of a datagram.
const MAX_DATAGRAM: usize = 65536;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// Lends the thread's buffer, which has room for any datagram.
pub(super) fn with_buffer<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| with(buffer))
}

/// One datagram from the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// What.
    pub(crate) bytes: Vec<u8>,
}

/// A UDP socket of the cell.
#[derive(Debug)]
pub(crate) struct CellSocket {
    socket: UdpSocket,
    family: Family,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl CellSocket {
    /// Takes a bound socket over. Needs a runtime.
    ///
    /// # Errors
    /// When it is no UDP socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        let (family, port) = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
            (Some(name), _) => (Family::V4, name.port()),
            (_, Some(name)) => (Family::V6, name.port()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match family {
            Family::V4 => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: UdpSocket::from_std(std::net::UdpSocket::from(socket))?,
            family,
            port,
        })
    }

    /// Waits until there is a datagram.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes a datagram; nothing when there is none. One without a destination is dropped.
    pub(crate) fn receive(&self) -> io::Result<Option<Letter>> {
        loop {
            let received = self.socket.try_io(Interest::READABLE, || {
                take(&self.socket, self.port).map_err(io::Error::from)
            });
            match received {
                Ok(Some(letter)) => return Ok(Some(letter)),
                Ok(None) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    // What was told about an earlier datagram of ours.
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Sends a datagram to the cell, from this address. One that cannot be sent is lost, as datagrams
    /// may be.
    pub(crate) fn send(&self, bytes: &[u8], source: IpAddr, to: SocketAddr) {
        let parts = [IoSlice::new(bytes)];
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match (self.family, source.to_canonical()) {
            (Family::V4, IpAddr::V4(source)) => {
                let mut info = in_pktinfo();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(source.octets());
                let to = SockaddrStorage::from(to);
                sendmsg(
                    fd,
                    &parts,
                    &[ControlMessage::Ipv4PacketInfo(&info)],
                    flags,
                    Some(&to),
                )
            }
            (Family::V4, IpAddr::V6(_)) => Err(Errno::EAFNOSUPPORT),
            (Family::V6, source) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: mapped(source).octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let to = SockaddrIn6::from(match to {
                    SocketAddr::V4(to) => {
                        SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0)
                    }
                    SocketAddr::V6(to) => to,
                });
                sendmsg(
                    fd,
                    &parts,
                    &[ControlMessage::Ipv6PacketInfo(&info)],
                    flags,
                    Some(&to),
                )
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a datagram into the cell is lost");
        }
    }
}

fn take(socket: &UdpSocket, port: u16) -> Result<Option<Letter>, Errno> {
    with_buffer(|buffer| {
        let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let size = received.bytes;
        let from = received.address.and_then(|address| plain(&address));
        let to = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::V4(Ipv4Addr::from(
                info.ipi_addr.s_addr.to_ne_bytes(),
            ))),
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical())
            }
            _ => None,
        });
        Ok(from.zip(to).map(|(from, to)| Letter {
            from,
            to: SocketAddr::new(to, port),
            bytes: buffer.get(..size).unwrap_or_default().to_vec(),
        }))
    })
}

/// IPv4 also where the socket shows it as IPv6.
fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => {
            let address: SocketAddrV4 = (*address.as_sockaddr_in()?).into();
            Some(address.into())
        }
        AddressFamily::Inet6 => {
            let address: SocketAddrV6 = (*address.as_sockaddr_in6()?).into();
            Some(match address.ip().to_canonical() {
                IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
                IpAddr::V6(_) => address.into(),
            })
        }
        _ => None,
    }
}

fn in_pktinfo() -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
