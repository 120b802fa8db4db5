//! Connections without a proxy.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{DialError, Dialled};

/// Most addresses of one name that are tried: with more of them dead, the name is.
pub(crate) const MAX_ADDRESSES: usize = 6;
/// How long one address has to take a connection when others are left: three attempts of TCP.
pub(crate) const ATTEMPT_TIME: Duration = Duration::from_secs(4);
/// How long a connection may take altogether.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(15);

/// Connects to the first address that takes it. An address family that the host has no route for
/// fails at once and costs nothing.
pub(super) async fn dial(addresses: &[IpAddr], port: u16) -> Result<Dialled, DialError> {
    let end = Instant::now() + DIAL_TIME;
    let tried = &addresses[..addresses.len().min(MAX_ADDRESSES)];
    let mut failure = DialError::NoAddress;
    for (index, address) in tried.iter().enumerate() {
        let address = SocketAddr::new(*address, port);
        let is_last = index + 1 == tried.len();
        let until = if is_last {
            end
        } else {
            end.min(Instant::now() + ATTEMPT_TIME)
        };
        match timeout_at(until, connect(address)).await {
            Ok(Ok(stream)) => {
                return Ok(Dialled {
                    stream,
                    address: Some(address),
                });
            }
            Ok(Err(source)) => failure = DialError::Refused { address, source },
            Err(_) => failure = DialError::TimedOut(DIAL_TIME),
        }
        if Instant::now() >= end {
            return Err(DialError::TimedOut(DIAL_TIME));
        }
    }
    Err(failure)
}

/// One connection, without waiting for more to send.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A socket to a port of this very host can meet itself, where nobody listens: then both ends
    // are the same, and what the cell sends would come back to it.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpListener;

    use super::*;
    use crate::dial::{Target, Upstream};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn goes_on_to_the_address_that_takes_it_and_says_which() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // 127.0.0.2 has no listener on this port; the documentation prefix has no route here, or
        // nobody in it.
        let addresses = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), LOCAL];
        let dialled = Upstream::Direct
            .dial(Target::Addresses(&addresses), port)
            .await
            .unwrap();
        assert_eq!(dialled.address, Some(SocketAddr::new(LOCAL, port)));
        assert_eq!(dialled.stream.peer_addr().unwrap(), (LOCAL, port).into());
        assert!(dialled.stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn never_dials_port_zero_or_nothing_or_a_name() {
        let direct = Upstream::Direct;
        let failure = direct.dial(Target::Addresses(&[LOCAL]), 0).await;
        assert!(matches!(failure, Err(DialError::NoPort)));
        let failure = direct.dial(Target::Addresses(&[]), 80).await;
        assert!(matches!(failure, Err(DialError::NoAddress)));
        let failure = direct.dial(Target::Name("example.com"), 80).await;
        assert!(matches!(failure, Err(DialError::NotResolved)));
    }

    #[tokio::test]
    async fn tries_no_more_addresses_than_its_bound() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)); MAX_ADDRESSES];
        addresses.push(LOCAL);
        let failure = Upstream::Direct
            .dial(Target::Addresses(&addresses), port)
            .await
            .unwrap_err();
        assert!(matches!(failure, DialError::Refused { address, .. }
            if address.ip() == addresses[0]));
    }

    #[tokio::test]
    async fn an_address_family_without_a_route_costs_no_time() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Multicast over TCP is refused by the kernel before anything is sent.
        let nowhere = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
        let begun = Instant::now();
        let dialled = Upstream::Direct
            .dial(Target::Addresses(&[nowhere, LOCAL]), port)
            .await
            .unwrap();
        assert_eq!(dialled.address.unwrap().ip(), LOCAL);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
