//! Requests of rtnetlink(7) about links, addresses, routes and neighbours of the caller's network
//! namespace.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

/// Index of the loopback device, the first of every network namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// Settings of `net.ipv4.conf` among those of a link, `linux/if_link.h`.
const IFLA_INET_CONF: u16 = 1;

/// A gateway that is on the link whatever the routes say, `linux/rtnetlink.h`.
const RTNH_F_ONLINK: u32 = 4;

/// A socket for requests. It works on the namespace that it was made in.
pub(crate) struct Routes(OwnedFd);

impl Routes {
    /// # Errors
    /// The kernel's, socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?))
    }

    /// Sends one request and reads the kernel's answer, which is there when the request has been
    /// sent (netlink(7), `NLM_F_ACK`).
    ///
    /// # Errors
    /// What the kernel refuses it with.
    pub(crate) fn ask(&self, request: &Request) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let flags = u16::try_from(flags).unwrap_or_default();
        let length = u32::try_from(HEADER_BYTES + request.body.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER_BYTES + request.body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&request.kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&request.body);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &message, SendFlags::empty(), &kernel)?;
        let mut answer = [0u8; 512];
        let (_, length) = recv(&self.0, &mut answer, RecvFlags::DONTWAIT)?;
        acknowledgement(answer.get(..length).unwrap_or_default())
    }
}

/// One request.
pub(crate) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// `RTM_NEWADDR`: this address alone, without a block around it.
    pub(crate) fn address(index: u32, address: IpAddr) -> Self {
        let (family, bytes) = parts(address);
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![family, bits(&bytes), 0, libc::RT_SCOPE_UNIVERSE];
        body.extend_from_slice(&index.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &bytes);
        attribute(&mut body, libc::IFA_ADDRESS, &bytes);
        Self {
            kind: libc::RTM_NEWADDR,
            body,
        }
    }

    /// `RTM_NEWROUTE` for `local default dev lo`, of a family `AF_INET` or `AF_INET6`.
    pub(crate) fn local_default_route(family: libc::c_int) -> Self {
        let mut body = route(byte(family), 0, libc::RT_TABLE_LOCAL, libc::RT_SCOPE_HOST);
        body.splice(7..8, [libc::RTN_LOCAL]);
        attribute(&mut body, libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        Self {
            kind: libc::RTM_NEWROUTE,
            body,
        }
    }

    /// `RTM_NEWROUTE`: this address is on that link, whatever a wider route says. In the table that
    /// is asked first, since the route that makes every address local is there.
    pub(crate) fn host_route(index: u32, to: IpAddr) -> Self {
        let (family, bytes) = parts(to);
        let scope = libc::RT_SCOPE_LINK;
        let mut body = route(family, bits(&bytes), libc::RT_TABLE_LOCAL, scope);
        attribute(&mut body, libc::RTA_DST, &bytes);
        attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
        Self {
            kind: libc::RTM_NEWROUTE,
            body,
        }
    }

    /// `RTM_NEWROUTE`: everything else goes to `gateway`, which is on that link although no route
    /// says so.
    pub(crate) fn default_route(index: u32, gateway: IpAddr) -> Self {
        let (family, bytes) = parts(gateway);
        let mut body = route(family, 0, libc::RT_TABLE_MAIN, libc::RT_SCOPE_UNIVERSE);
        body.splice(8..12, RTNH_F_ONLINK.to_ne_bytes());
        attribute(&mut body, libc::RTA_GATEWAY, &bytes);
        attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
        Self {
            kind: libc::RTM_NEWROUTE,
            body,
        }
    }

    /// `RTM_NEWNEIGH`: who has this address on that link, for ever and without asking.
    pub(crate) fn neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Self {
        let (family, bytes) = parts(address);
        // struct ndmsg: family, padding; index; state, flags, type.
        let mut body = vec![family, 0, 0, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        body.extend_from_slice(&[0, 0]);
        attribute(&mut body, libc::NDA_DST, &bytes);
        attribute(&mut body, libc::NDA_LLADDR, &mac);
        Self {
            kind: libc::RTM_NEWNEIGH,
            body,
        }
    }

    /// `RTM_SETLINK`: the link comes up, with these settings of `net.ipv4.conf` by their numbers
    /// (`linux/ip.h`, `IPV4_DEVCONF_…`).
    pub(crate) fn up(index: u32, mac: Option<[u8; 6]>, settings: &[(u16, u32)]) -> Self {
        let up = libc::IFF_UP.cast_unsigned();
        let mut body = link(index, up, up);
        if let Some(mac) = mac {
            attribute(&mut body, libc::IFLA_ADDRESS, &mac);
        }
        if !settings.is_empty() {
            let mut values = Vec::new();
            for (setting, value) in settings {
                attribute(&mut values, *setting, &value.to_ne_bytes());
            }
            let mut inet = Vec::new();
            attribute(&mut inet, IFLA_INET_CONF, &values);
            let mut families = Vec::new();
            attribute(&mut families, u16::from(byte(libc::AF_INET)), &inet);
            attribute(&mut body, libc::IFLA_AF_SPEC, &families);
        }
        Self {
            kind: libc::RTM_SETLINK,
            body,
        }
    }

    /// `RTM_SETLINK`: the link moves to the network namespace of that process.
    pub(crate) fn move_to(index: u32, pid: rustix::process::Pid) -> Self {
        let mut body = link(index, 0, 0);
        let pid = pid.as_raw_nonzero().get();
        attribute(&mut body, libc::IFLA_NET_NS_PID, &pid.to_ne_bytes());
        Self {
            kind: libc::RTM_SETLINK,
            body,
        }
    }
}

/// `struct rtmsg` of a unicast route: family, lengths of destination and source, type of service,
/// table, protocol, scope, type; flags.
fn route(family: u8, bits: u8, table: u8, scope: u8) -> Vec<u8> {
    let mut body = vec![
        family,
        bits,
        0,
        0,
        table,
        libc::RTPROT_BOOT,
        scope,
        libc::RTN_UNICAST,
    ];
    body.extend_from_slice(&0u32.to_ne_bytes());
    body
}

/// `struct ifinfomsg`: family, padding, type; index; flags; which flags change.
fn link(index: u32, flags: u32, changed: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [index, flags, changed] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (byte(libc::AF_INET), address.octets().to_vec()),
        IpAddr::V6(address) => (byte(libc::AF_INET6), address.octets().to_vec()),
    }
}

fn bits(address: &[u8]) -> u8 {
    u8::try_from(address.len() * 8).unwrap_or(u8::MAX)
}

/// Reads an `NLMSG_ERROR`, whose number is 0 for success.
fn acknowledgement(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|bytes| [bytes[0], bytes[1]]);
    let error = answer
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind.map(u16::from_ne_bytes), error) {
        (Some(kind), Some(0)) if i32::from(kind) == libc::NLMSG_ERROR => Ok(()),
        (Some(kind), Some(error)) if i32::from(kind) == libc::NLMSG_ERROR => {
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        _ => Err(Errno::BADMSG.into()),
    }
}

/// Adds one `struct rtattr`, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Address families take a byte here.
fn byte(family: libc::c_int) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_for_what_it_says_and_a_cut_one_for_none() {
        let answer = |kind: u16, error: i32| {
            let mut answer = vec![36, 0, 0, 0];
            answer.extend_from_slice(&kind.to_ne_bytes());
            answer.extend_from_slice(&[0; 10]);
            answer.extend_from_slice(&error.to_ne_bytes());
            answer
        };
        assert!(acknowledgement(&answer(2, 0)).is_ok());
        let refused = acknowledgement(&answer(2, -libc::EPERM)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(acknowledgement(&answer(3, 0)).is_err(), "NLMSG_DONE");
        for length in 0..20 {
            assert!(
                acknowledgement(&answer(2, 0)[..length]).is_err(),
                "{length}"
            );
        }
    }
}
