//! The sockets of a cell's network.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, OwnedFd},
};

use cellos_core::ports::network::{DNS_PORT, NetworkNeeds};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, listen, socket_with,
        sockopt::{set_ip_freebind, set_ipv6_freebind, set_ipv6_v6only},
    },
};

use super::refusals::{self, Watched};
use crate::{
    init::step::{Step, StepResult},
    protocol::NetworkSocket,
    sys,
};

/// Connections that wait until they are accepted, for each port. The kernel lets those beyond try
/// again, as on every busy server, so nothing is lost.
const ACCEPT_QUEUE: i32 = 256;

/// Makes all of them: non-blocking, and closed on exec.
pub(super) fn make(
    needs: &NetworkNeeds,
    watched: Watched,
) -> StepResult<Vec<(NetworkSocket, OwnedFd)>> {
    let families = Families::of(watched)?;
    let mut sockets = Vec::new();
    // First, so that it sees everything that could be refused.
    let refusals = refusals::socket(watched)?;
    sockets.push((NetworkSocket::Refusals, refusals));
    for port in with_dns(&needs.tcp_ports) {
        let step = format_args!("listen on TCP port {port}");
        let socket = families.bound(SocketType::STREAM, port).step(step)?;
        listen(&socket, ACCEPT_QUEUE).step(step)?;
        sockets.push((NetworkSocket::Tcp(port), socket));
    }
    for port in with_dns(&needs.udp_ports) {
        let step = format_args!("receive on UDP port {port}");
        let socket = families.datagrams(port).step(step)?;
        sockets.push((NetworkSocket::Udp(port), socket));
    }
    for _ in 0..needs.inbound_sockets {
        for family in families.all() {
            let socket = new(*family, SocketType::STREAM)
                .step("make a socket for connections from outside")?;
            sockets.push((NetworkSocket::Inbound, socket));
        }
    }
    Ok(sockets)
}

fn with_dns(ports: &std::collections::BTreeSet<u16>) -> std::collections::BTreeSet<u16> {
    ports.iter().copied().chain([DNS_PORT]).collect()
}

/// Which addresses this kernel knows, and the network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    Both,
}

impl Families {
    fn of(watched: Watched) -> StepResult<Self> {
        if let Watched::Outgoing(_) = watched {
            return Ok(Self::V4);
        }
        match new(AddressFamily::INET6, SocketType::DGRAM) {
            Ok(_) => Ok(Self::Both),
            Err(Errno::AFNOSUPPORT) => Ok(Self::V4),
            Err(error) => Err(error).step("find out whether there is IPv6"),
        }
    }

    fn all(self) -> &'static [AddressFamily] {
        match self {
            Self::V4 => &[AddressFamily::INET],
            Self::Both => &[AddressFamily::INET, AddressFamily::INET6],
        }
    }

    /// A socket bound to every address on this port. None of the options that let another socket
    /// share the port is set, so nobody in the cell can.
    fn bound(self, kind: SocketType, port: u16) -> rustix::io::Result<OwnedFd> {
        match self {
            Self::V4 => {
                let socket = new(AddressFamily::INET, kind)?;
                bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
                Ok(socket)
            }
            Self::Both => {
                let socket = new(AddressFamily::INET6, kind)?;
                set_ipv6_v6only(&socket, false)?;
                bind(
                    &socket,
                    &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0),
                )?;
                Ok(socket)
            }
        }
    }

    /// A UDP socket that tells where each datagram was sent to, and can answer from there: any
    /// address of the internet, none of which the loopback device has.
    fn datagrams(self, port: u16) -> std::io::Result<OwnedFd> {
        let socket = self.bound(SocketType::DGRAM, port)?;
        set_ip_freebind(&socket, true)?;
        sys::set_socket_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        if self == Self::Both {
            set_ipv6_freebind(&socket, true)?;
            sys::set_socket_option(
                socket.as_fd(),
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVPKTINFO,
                1,
            )?;
        }
        Ok(socket)
    }
}

fn new(family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}
