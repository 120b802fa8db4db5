//! Room for the sockets of a cell's network among this process's descriptors.

use cellos_core::{CellosError, ports::network::NetworkNeeds};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that this process needs besides a cell's sockets: its own, and those of a few flows.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises this process's soft limit on descriptors to the hard one where a cell's network needs more
/// sockets than it allows. Cells are not started by this process, so theirs stays what it was.
///
/// # Errors
/// [`CellosError::Host`] when the hard limit is too low, too.
pub(super) fn make_room(needs: &NetworkNeeds) -> Result<(), CellosError> {
    let wanted = wanted(needs);
    let limit = getrlimit(Resource::Nofile);
    if allows(limit.current, wanted) {
        return Ok(());
    }
    if !allows(limit.maximum, wanted) {
        let most = limit.maximum.unwrap_or(u64::MAX);
        return Err(CellosError::Host(format!(
            "the cell's network needs {wanted} open files, and the hard limit of this process is \
             {most}; raise it (`ulimit -Hn`, `LimitNOFILE=`), or declare fewer ports"
        )));
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        CellosError::Host(format!(
            "raise the limit on open files to {wanted}: {error}"
        ))
    })
}

/// A listener and a socket for each port, those for port 53, and one that sees refusals.
fn wanted(needs: &NetworkNeeds) -> u64 {
    let sockets =
        needs.tcp_ports.len() + needs.udp_ports.len() + usize::from(needs.inbound_sockets);
    u64::try_from(sockets)
        .unwrap_or(u64::MAX)
        .saturating_add(3 + OTHER_DESCRIPTORS)
}

/// No limit allows everything.
fn allows(limit: Option<u64>, wanted: u64) -> bool {
    limit.is_none_or(|limit| limit >= wanted)
}
