//! Datagrams of declared UDP rules.
//!
//! The cell's socket of a declared port takes datagrams to every address, and tells each one's
//! destination. A *flow* is what one address and port of the cell says to one destination: it has a
//! socket outside of its own, connected to the one address that was judged, so that nothing but
//! answers from there comes back. Answers go to the cell with the address that it had dialled as
//! their source.
//!
//! The first datagram of a flow decides: the destination's meaning (a name or itself) and the port
//! give the rule, a name is resolved outside, and until that is done at most [`MAX_WAITING`]
//! datagrams wait. A flow whose name leads nowhere is remembered for [`REFUSED_FOR`], so that what
//! is repeated neither asks outside again nor is reported again. A refusal by rule costs no memory
//! and is reported for each datagram; the reporter sums up where there are many.
//!
//! **Bounds.** There are at most [`MAX_FLOWS`] flows in a cell, whatever source addresses it makes
//! up. When there is no room, the flow that was silent for longest ends, if that was at least
//! [`EVICT_AFTER`]; otherwise the new one is refused. A flow ends when nothing was said for
//! [`IDLE`], and when the gateway closes. The buffer that datagrams are read into belongs to the
//! thread; a flow has none. A flow's refusals by the network outside (ICMP) do not end it: they can
//! be forged, and the cell could make a flow, and an event, of each of its datagrams that way. A
//! datagram that the network outside does not carry for its size is reported once for the flow.
//!
//! **Evidence.** One event for each flow at its end, with bytes both ways, and one for each refusal.
//! When the record takes no more, every flow ends and none begins.

use std::time::Duration;

mod flow;
mod flows;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use flows::Flows;
pub(crate) use socket::{CellSocket, Letter};

/// Most flows of one cell at once; each takes a socket and about 2 KiB.
const MAX_FLOWS: usize = 512;
/// Most flows of one cell at once with those that have ended and wait until the record has room for
/// their reports.
const MAX_TASKS: usize = 2 * MAX_FLOWS;
/// Most datagrams of a flow that wait while its name is resolved.
const MAX_WAITING: usize = 8;
/// Most bytes of them.
const MAX_WAITING_BYTES: usize = 64 * 1024;
/// How long a flow may be silent. What keeps a mapping alive says something every 30 s or less (RFC
/// 8445, 11).
const IDLE: Duration = Duration::from_secs(60);
/// How long a flow has to have been silent to give way to a new one.
const EVICT_AFTER: Duration = Duration::from_secs(1);
/// How long a flow that leads nowhere is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Longest wait for the address of a name.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
