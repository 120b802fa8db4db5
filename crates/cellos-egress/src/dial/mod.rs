//! Connections to the outside: directly, or through the site's proxy.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// The proxy that connections have to go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// None.
    Direct,
}

/// A connection to the outside.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    /// What was dialled, after which nothing is resolved any more.
    pub(crate) address: SocketAddr,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody takes it.
    #[error("connect to {address}: {source}")]
    Refused {
        address: SocketAddr,
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("nobody answered in time")]
    TimedOut,
    /// The proxy refuses.
    #[error("the proxy refused: {0}")]
    Proxy(String),
}

impl Upstream {
    /// Connects to the first of these addresses that takes it.
    pub(crate) async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<Dialled, DialError> {
        let mut last = DialError::TimedOut;
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(Dialled { stream, address }),
                Err(source) => last = DialError::Refused { address, source },
            }
        }
        Err(last)
    }
}
