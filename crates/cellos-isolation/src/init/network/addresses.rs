//! Addresses and routes of the loopback device, set over rtnetlink(7).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use cellos_core::ports::network::{NAME_POOL_V6, NAME_SERVER};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

use crate::init::step::{Step, StepResult};

/// Index of the loopback device, the first of every network namespace.
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// The name server's address of the IPv6 block: programs that look for an IPv6 address before they
/// ask for those of names find it.
fn name_server_v6() -> Ipv6Addr {
    let [a, b, c] = NAME_POOL_V6;
    let [d, e, f, g] = NAME_SERVER.octets();
    Ipv6Addr::new(
        a,
        b,
        c,
        0,
        0,
        0,
        u16::from_be_bytes([d, e]),
        u16::from_be_bytes([f, g]),
    )
}

/// Makes every address one of this namespace's own, so that a connection to any of them ends at a
/// socket of this namespace. A host without IPv6 has cells without it.
pub(super) fn make_every_address_local() -> StepResult<()> {
    let v4 = [
        (
            "give the loopback device the name server's address",
            address(Family::V4(NAME_SERVER)),
        ),
        (
            "route every IPv4 address to the loopback device",
            local_default_route(libc::AF_INET),
        ),
    ];
    let v6 = [
        (
            "give the loopback device an IPv6 address",
            address(Family::V6(name_server_v6())),
        ),
        (
            "route every IPv6 address to the loopback device",
            local_default_route(libc::AF_INET6),
        ),
    ];
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .step("open a socket for routes")?;
    for (step, request) in v4 {
        ask(&socket, request).step(step)?;
    }
    for (step, request) in v6 {
        match ask(&socket, request) {
            Err(error) if is_without_ipv6(&error) => break,
            other => other.step(step)?,
        }
    }
    Ok(())
}

/// Whether the kernel was built without IPv6 or told not to use it: its requests are unknown then,
/// or refused for the device (`disable_ipv6`).
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES)
    )
}

enum Family {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// `RTM_NEWADDR` for one address of the loopback device.
fn address(address: Family) -> Request {
    let (family, bytes) = match address {
        Family::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        Family::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(u8::MAX);
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![byte(family), bits, 0, libc::RT_SCOPE_UNIVERSE];
    body.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &bytes);
    attribute(&mut body, libc::IFA_ADDRESS, &bytes);
    Request {
        kind: libc::RTM_NEWADDR,
        body,
    }
}

/// `RTM_NEWROUTE` for `local default dev lo`.
fn local_default_route(family: libc::c_int) -> Request {
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol,
    // scope, type; flags.
    let mut body = vec![
        byte(family),
        0,
        0,
        0,
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ];
    body.extend_from_slice(&0u32.to_ne_bytes());
    attribute(&mut body, libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
    Request {
        kind: libc::RTM_NEWROUTE,
        body,
    }
}

struct Request {
    kind: u16,
    body: Vec<u8>,
}

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// Sends one request and reads the kernel's answer, which is there when the request has been sent
/// (netlink(7), `NLM_F_ACK`).
fn ask(socket: &std::os::fd::OwnedFd, request: Request) -> io::Result<()> {
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
    sendto(socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 512];
    let (_, length) = recv(socket, &mut answer, RecvFlags::DONTWAIT)?;
    acknowledgement(answer.get(..length).unwrap_or_default())
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

    #[test]
    fn the_name_server_has_the_same_number_in_both_blocks() {
        assert_eq!(name_server_v6().to_string(), "fd63:656c:6c6f::c612:35");
    }
}
