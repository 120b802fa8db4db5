//! The network of a machine: none, unless a gateway on the host is to answer for it.
//!
//! Each monitor has a network namespace of its own, with nothing in it. A machine that may reach
//! something has a card on a TAP device there, and every address is local to that namespace: what
//! the machine sends ends at the sockets of the gateway, or nowhere. The host's own network is in no
//! way touched.

use std::os::fd::OwnedFd;

use cellos_core::ports::network::{CellNetwork, NetworkNeeds};
use cellos_isolation::{
    confined::{FIRST_DESCRIPTOR, MACHINE_MAC, Network},
    protocol::NetworkSocket,
};

/// Name of the TAP device, which no other machine's namespace shares.
pub(crate) const TAP_NAME: &str = "tap0";

/// A word of the kernel's command line: the machine has a network card, which is its cell's.
pub(crate) const CARD_WORD: &str = "cellos.network=card";

/// What the helper that confines the monitor has to make.
pub(crate) fn order(needs: Option<&NetworkNeeds>) -> Network {
    match needs {
        None => Network::Empty,
        Some(needs) => Network::Tap {
            name: TAP_NAME.to_owned(),
            needs: needs.clone(),
        },
    }
}

/// Number that the TAP device's descriptor has in a monitor that is given `given` others.
pub(crate) fn descriptor(needs: Option<&NetworkNeeds>, given: usize) -> Option<i32> {
    needs?;
    i32::try_from(given)
        .ok()
        .and_then(|given| FIRST_DESCRIPTOR.checked_add(given))
}

/// The hardware address of a machine's card, as it is written.
pub(crate) fn card_address() -> String {
    MACHINE_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// The sockets by their kinds.
pub(crate) fn sorted(sockets: Vec<(NetworkSocket, OwnedFd)>) -> CellNetwork {
    let mut network = CellNetwork::default();
    for (kind, socket) in sockets {
        match kind {
            NetworkSocket::Tcp(port) => network.tcp.push((port, socket)),
            NetworkSocket::Udp(port) => network.udp.push((port, socket)),
            NetworkSocket::Inbound => network.inbound.push(socket),
            NetworkSocket::Refusals => network.refusals = Some(socket),
        }
    }
    network
}
