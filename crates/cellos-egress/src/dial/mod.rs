//! Connections to the outside: directly, or through the site's proxy.

mod direct;
mod proxy;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpStream;

pub use upstream::{Proxy, Upstream, UpstreamProblem};

/// Where a connection shall lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// To one of these addresses, which were judged; best first.
    Addresses(&'a [IpAddr]),
    /// To whatever the proxy finds under this name. Only where [`Upstream::resolves_names`].
    Name(&'a str),
}

/// A connection to the outside.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    /// What was dialled, after which nothing is resolved any more; nothing when the proxy resolved.
    pub(crate) address: Option<SocketAddr>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// There was nothing to dial.
    #[error("there is no address to connect to")]
    NoAddress,
    /// Port 0 is no port.
    #[error("port 0 cannot be connected to")]
    NoPort,
    /// A name was given where it is not the proxy that resolves.
    #[error("this gateway resolves names itself")]
    NotResolved,
    /// Nobody takes it.
    #[error("connect to {address}: {source}")]
    Refused {
        address: SocketAddr,
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("nobody answered in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The proxy is not there, or breaks off.
    #[error("the proxy {proxy}: {source}")]
    ProxyUnreachable {
        proxy: String,
        source: std::io::Error,
    },
    /// The proxy refuses.
    #[error("the proxy refused: {0}")]
    Proxy(String),
}

impl DialError {
    /// The reason that events give.
    pub(crate) fn reason(&self) -> cellos_core::event::FlowReason {
        use cellos_core::event::FlowReason;
        match self {
            Self::NoAddress | Self::NoPort | Self::NotResolved | Self::Refused { .. } => {
                FlowReason::ConnectFailed
            }
            Self::ProxyUnreachable { .. } => FlowReason::ConnectFailed,
            Self::TimedOut(_) => FlowReason::ConnectTimeout,
            Self::Proxy(_) => FlowReason::ProxyRefused,
        }
    }
}

impl Upstream {
    /// Connects to the first of these that takes it.
    pub(crate) async fn dial(&self, target: Target<'_>, port: u16) -> Result<Dialled, DialError> {
        if port == 0 {
            return Err(DialError::NoPort);
        }
        match (self, target) {
            (Self::Direct, Target::Addresses(addresses)) => direct::dial(addresses, port).await,
            (Self::Direct, Target::Name(_)) => Err(DialError::NotResolved),
            (Self::Proxy(proxy), target) => proxy.dial(target, port).await,
        }
    }
}
