//! The link between a machine and the namespace of its monitor, both ends of it.
//!
//! The monitor's namespace has a TAP device, on which every packet of the machine arrives and where
//! every address is local. The machine has the other end, which is moved into the network namespace
//! of its cell: the workload has no rights over it, and nothing else in the machine sees it.
//!
//! The link is IPv4's alone: there is a source address that packets of the machine can have, and the
//! kernel drops those with any other, since every other address is local. So nothing that is sent
//! to the machine goes anywhere else. IPv6 has no such check, and no socket here.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
};

use cellos_core::ports::network::NetworkNeeds;

use super::{addresses, refusals::Watched, sockets};
use crate::{
    init::step::{Step, StepResult},
    netlink::{Request, Routes},
    protocol::NetworkSocket,
    sys,
};

/// Address of the TAP device. Its block is the names', whose first 256 addresses stand for no name.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
/// Address of the machine.
const MACHINE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
/// Hardware address of the TAP device: locally administered, and the same on every link, which has
/// two ends and no third.
const GATEWAY_MAC: [u8; 6] = [0x02, 0x63, 0x65, 0x6c, 0x6c, 0x01];
/// Hardware address of a machine's card.
pub const MACHINE_MAC: [u8; 6] = [0x02, 0x63, 0x65, 0x6c, 0x6c, 0x02];

/// Name of the card in the machine: the kernel's, of the first one.
const CARD: &str = "eth0";

/// What a new namespace inherits of the host's settings and must not differ by: `forwarding` off,
/// `rp_filter` strict, `accept_local` off, `route_localnet` off (`linux/ip.h`, `IPV4_DEVCONF_…`).
const SETTINGS: [(u16, u32); 4] = [(1, 0), (8, 1), (23, 0), (26, 0)];

/// How seldom the kernel says that a port is unreachable, in milliseconds, icmp(7).
const ICMP_RATE: &str = "/proc/sys/net/ipv4/icmp_ratelimit";

/// Makes the TAP device's namespace answer for every address, and gives the sockets that do.
///
/// The caller has its capabilities over its network namespace, where `name` is the TAP device.
pub(crate) fn serve_tap(
    name: &str,
    needs: &NetworkNeeds,
) -> StepResult<Vec<(NetworkSocket, OwnedFd)>> {
    sys::bring_loopback_up().step("bring the loopback interface up")?;
    // Each refusal is to be seen, and the kernel's bound on these messages is for networks with
    // others in them. Where settings cannot be written, some are counted less often.
    let _ = fs::write(ICMP_RATE, "0");
    let routes = Routes::open().step("open a socket for routes")?;
    addresses::make_every_ipv4_address_local(&routes)?;
    let index = sys::interface_index(name).step(format_args!("find {name}"))?;
    for (step, request) in [
        (
            "give the TAP device its address",
            Request::address(index, GATEWAY),
        ),
        (
            "bring the TAP device up",
            Request::up(index, Some(GATEWAY_MAC), &SETTINGS),
        ),
        (
            "route the machine's address to the TAP device",
            Request::host_route(index, MACHINE),
        ),
        (
            "name the machine's card",
            Request::neighbour(index, MACHINE, MACHINE_MAC),
        ),
    ] {
        routes.ask(&request).step(step)?;
    }
    sockets::make(needs, Watched::Outgoing(index))
}

/// In the launcher of a machine: moves its card into the network namespace of that process.
///
/// # Errors
/// The kernel's; `ENODEV` without a card.
pub(crate) fn give_card_to(process: rustix::process::Pid) -> io::Result<()> {
    let index = sys::interface_index(CARD)?;
    Routes::open()?.ask(&Request::move_to(index, process))
}

/// In the cell of a machine, whose card has come: its address, and the way to every other one.
pub(crate) fn set_up_card() -> StepResult<()> {
    let routes = Routes::open().step("open a socket for routes")?;
    let index = sys::interface_index(CARD).step("find the machine's network card")?;
    for (step, request) in [
        (
            "give the network card its address",
            Request::address(index, MACHINE),
        ),
        ("bring the network card up", Request::up(index, None, &[])),
        (
            "route every address to the network card",
            Request::default_route(index, GATEWAY),
        ),
        (
            "name the other end of the network card's link",
            Request::neighbour(index, GATEWAY, GATEWAY_MAC),
        ),
    ] {
        routes.ask(&request).step(step)?;
    }
    Ok(())
}
