//! Addresses and routes of the devices of a cell's network.

use std::{io, net::Ipv6Addr};

use cellos_core::ports::network::{NAME_POOL_V6, NAME_SERVER};

use crate::{
    init::step::{Step, StepResult},
    netlink::{LOOPBACK_INDEX, Request, Routes},
};

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
pub(super) fn make_every_address_local(routes: &Routes) -> StepResult<()> {
    make_every_ipv4_address_local(routes)?;
    for (step, request) in [
        (
            "give the loopback device an IPv6 address",
            Request::address(LOOPBACK_INDEX, name_server_v6().into()),
        ),
        (
            "route every IPv6 address to the loopback device",
            Request::local_default_route(libc::AF_INET6),
        ),
    ] {
        match routes.ask(&request) {
            Err(error) if is_without_ipv6(&error) => break,
            other => other.step(step)?,
        }
    }
    Ok(())
}

/// The same for IPv4 alone.
pub(super) fn make_every_ipv4_address_local(routes: &Routes) -> StepResult<()> {
    routes
        .ask(&Request::address(LOOPBACK_INDEX, NAME_SERVER.into()))
        .step("give the loopback device the name server's address")?;
    routes
        .ask(&Request::local_default_route(libc::AF_INET))
        .step("route every IPv4 address to the loopback device")
}

/// Whether the kernel was built without IPv6 or told not to use it: its requests are unknown then,
/// or refused for the device (`disable_ipv6`).
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_server_has_the_same_number_in_both_blocks() {
        assert_eq!(name_server_v6().to_string(), "fd63:656c:6c6f::c612:35");
    }
}
