//! The network of a cell: what a backend makes inside it, and the gateway that serves it.
//!
//! A cell's network namespace has a loopback device and nothing else, and every address is local to
//! it. So a connection to any address on a port that has a listener reaches that listener, which the
//! backend made before the workload's first instruction and handed to the gateway outside. Nothing
//! else leads anywhere.

use std::{collections::BTreeSet, net::Ipv4Addr, os::fd::OwnedFd};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    CellosError, ExecutionCellSpec,
    event::{
        DnsAuthorityDnssecFailed, DnsAuthorityDrift, DnsAuthorityRebindRejected,
        DnsAuthorityRebindThreshold, DnsQuery, EgressRecord, NetworkFlowDecision, NetworkMode,
    },
};

/// Where a cell finds its name server, and an address of its loopback device: programs that look
/// for one before they ask for names (`AI_ADDRCONFIG`) find it. In the block of RFC 2544, which is
/// routed nowhere.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);
/// The IPv4 block that addresses for names are taken from, RFC 2544: never routed, and not
/// loopback. Its first 256 addresses stand for no name.
pub const NAME_POOL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// The first three groups of the IPv6 block that addresses for names are taken from, a /48 of
/// unique local addresses, RFC 4193. The last 32 bits are those of the IPv4 address.
pub const NAME_POOL_V6: [u16; 3] = [0xfd63, 0x656c, 0x6c6f];
/// The port of name servers.
pub const DNS_PORT: u16 = 53;

/// The sockets that a cell's network needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkNeeds {
    /// Ports with a TCP listener. Port 53 always has one.
    pub tcp_ports: BTreeSet<u16>,
    /// Ports with a UDP socket. Port 53 always has one.
    pub udp_ports: BTreeSet<u16>,
    /// How many TCP sockets are wanted for connections from outside to ports of the cell: as many
    /// such connections can exist at once.
    pub inbound_sockets: u16,
}

/// Sockets inside a cell's network namespace. They were made before the workload's first
/// instruction.
#[derive(Debug, Default)]
pub struct CellNetwork {
    /// Listening TCP sockets, bound to every address (IPv4 and IPv6 where the host has both) of
    /// their port. `getsockname(2)` of an accepted connection is where the cell wanted to go.
    pub tcp: Vec<(u16, OwnedFd)>,
    /// UDP sockets, bound likewise; each datagram comes with its destination (`IP_PKTINFO`,
    /// `IPV6_RECVPKTINFO`).
    pub udp: Vec<(u16, OwnedFd)>,
    /// TCP sockets that are not connected; each can be connected to a port of the cell.
    pub inbound: Vec<OwnedFd>,
    /// A packet socket that sees the kernel's refusals on the loopback device: TCP resets that
    /// answer a first packet, and ICMP "port unreachable". Read-only for whoever has it.
    pub refusals: Option<OwnedFd>,
}

/// Something that happened in a cell's network and belongs into its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkReport {
    /// A flow that ended or was refused.
    Flow(Box<NetworkFlowDecision>),
    /// A name query.
    Query(Box<DnsQuery>),
    /// A name that leads to other addresses than before.
    Drift(Box<DnsAuthorityDrift>),
    /// A name that has led to more addresses than it may.
    RebindThreshold(Box<DnsAuthorityRebindThreshold>),
    /// A name that led to an address that is not listed for it.
    RebindRejected(Box<DnsAuthorityRebindRejected>),
    /// An answer that DNSSEC does not validate.
    DnssecFailed(Box<DnsAuthorityDnssecFailed>),
}

/// Takes what gateways have to report. When a report was taken, it will be in the record, or the run
/// fails.
#[async_trait]
pub trait NetworkReports: Send + Sync {
    /// Takes one. Waits while there is no room: evidence is not dropped, the cell waits.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when the record can take no more; the gateway then lets nothing
    /// through any more.
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError>;
}

/// Gives cells the destinations that their documents declare.
#[async_trait]
pub trait NetworkGateway: Send + Sync {
    /// How strict it is, which the record of each cell says from its start.
    fn mode(&self) -> NetworkMode {
        NetworkMode::Enforce
    }

    /// The sockets that the network of this document's cell needs; nothing for one without a
    /// network.
    ///
    /// # Errors
    /// [`CellosError::InvalidSpec`] for what the gateway cannot enforce, naming the field;
    /// [`CellosError::Host`] when this process has no room for the sockets.
    fn needs(&self, spec: &ExecutionCellSpec) -> Result<Option<NetworkNeeds>, CellosError>;

    /// Begins to serve a cell's network. Returns when everything is served.
    ///
    /// # Errors
    /// [`CellosError::InvalidSpec`] as [`needs`](Self::needs), [`CellosError::Host`] when something
    /// could not be set up; nothing is served then.
    async fn open(
        &self,
        spec: &ExecutionCellSpec,
        network: CellNetwork,
        reports: std::sync::Arc<dyn NetworkReports>,
    ) -> Result<Box<dyn OpenGateway>, CellosError>;
}

/// A gateway that serves one cell. Dropping it ends every flow without a report.
#[async_trait]
pub trait OpenGateway: Send + Sync {
    /// Ends every flow, reports each, and says what the cell did.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when flows ended without a report because the record had no room
    /// for too long. That the record takes no more at all is known to whoever keeps it.
    async fn close(self: Box<Self>) -> Result<EgressRecord, CellosError>;
}
