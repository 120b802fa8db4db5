//! The network of a cell that has one: every address is local, and the declared ports have sockets
//! that somebody outside serves.
//!
//! A socket belongs to the namespace that it was made in, wherever its descriptor goes. So init
//! makes them all before there is a workload, sends them to the launcher and keeps none.

mod addresses;
pub(crate) mod link;
mod refusals;
mod sockets;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cellos_core::ports::network::NetworkNeeds;

use self::refusals::Watched;
use super::{
    step::{Step, StepResult},
    tell,
};
use crate::{
    message::MAX_DESCRIPTORS,
    netlink::Routes,
    plan::socket_count,
    protocol::{FromInit, NetworkSocket},
    sandbox::limits,
};

/// Descriptors that init and the launcher have open besides a cell's sockets, generously.
const OTHER_DESCRIPTORS: u64 = 128;

/// The first port that needs no capability, of the namespace of whoever writes it (ip-sysctl).
const FIRST_FREE_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Makes the network, and sends its sockets to the launcher. Returns how many there were.
///
/// The caller still has its capabilities over its network namespace, whose loopback device is up.
pub(super) fn make(needs: &NetworkNeeds, control: BorrowedFd<'_>) -> StepResult<usize> {
    let wanted = u64::try_from(socket_count(needs)).unwrap_or(u64::MAX);
    let before = limits::raise_open_files(wanted.saturating_add(OTHER_DESCRIPTORS))
        .step("raise the limit on open files for the network's sockets")?;
    let routes = Routes::open().step("open a socket for routes")?;
    addresses::make_every_address_local(&routes)?;
    let sockets = sockets::make(needs, Watched::Loopback)?;
    for chunk in sockets.chunks(MAX_DESCRIPTORS) {
        send(chunk, control)?;
    }
    let count = sockets.len();
    drop(sockets);
    limits::set_open_files(before).step("lower the limit on open files again")?;
    Ok(count)
}

/// Lets the workload listen on ports below 1024 as well, for ports that are published. Those of the
/// gateway are taken before there is a workload. Where `/proc/sys` cannot be written, the workload
/// is refused (`EACCES`) as on the host.
///
/// The caller still sees the host's `/proc` as the host does: later it can only be read.
pub(super) fn open_low_ports() {
    let _ = std::fs::write(FIRST_FREE_PORT, "0");
}

fn send(sockets: &[(NetworkSocket, OwnedFd)], control: BorrowedFd<'_>) -> StepResult<()> {
    let (kinds, descriptors): (Vec<_>, Vec<_>) = sockets
        .iter()
        .map(|(kind, socket)| (*kind, socket.as_fd()))
        .unzip();
    tell(control, &FromInit::Network(kinds), &descriptors)
        .step("send the network's sockets to the launcher")
}
