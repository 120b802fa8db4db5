//! Connections without a proxy.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{DialError, Dialled};

/// Most addresses of one name that are tried: with more of them dead, the name is.
pub(crate) const MAX_ADDRESSES: usize = 6;
/// How long an address has before the next one is tried beside it, RFC 8305, 5.
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);
/// How long a connection may take altogether: four first packets of TCP.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(15);

/// Connects to the address that takes it first. An address that refuses, or an address family that
/// the host has no route for, costs no time; one that is silent costs [`HEAD_START`].
pub(super) async fn dial(addresses: &[IpAddr], port: u16) -> Result<Dialled, DialError> {
    match timeout(DIAL_TIME, race(addresses, port)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(DialError::TimedOut(DIAL_TIME)),
    }
}

async fn race(addresses: &[IpAddr], port: u16) -> Result<Dialled, DialError> {
    let mut failure = DialError::NoAddress;
    // Those that had their head start. Dropped, and with it closed, when one has won.
    let mut slow = JoinSet::new();
    for address in addresses.iter().take(MAX_ADDRESSES) {
        let mut attempt = Box::pin(attempt(SocketAddr::new(*address, port)));
        let head_start = Instant::now() + HEAD_START;
        loop {
            tokio::select! {
                biased;
                end = &mut attempt => match end {
                    Ok(dialled) => return Ok(dialled),
                    Err(error) => {
                        failure = error;
                        break;
                    }
                },
                Some(end) = slow.join_next() => match end {
                    Ok(Ok(dialled)) => return Ok(dialled),
                    Ok(Err(error)) => failure = error,
                    Err(_) => {}
                },
                () = sleep_until(head_start) => {
                    slow.spawn(attempt);
                    break;
                }
            }
        }
    }
    while let Some(end) = slow.join_next().await {
        match end {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(error)) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn attempt(address: SocketAddr) -> Result<Dialled, DialError> {
    match connect(address).await {
        Ok(stream) => Ok(Dialled {
            stream,
            address: Some(address),
        }),
        Err(source) => Err(DialError::Refused { address, source }),
    }
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
        // 127.0.0.2 has no listener on this port.
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

    #[tokio::test]
    async fn a_silent_address_costs_its_head_start() {
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let silent = silent.unwrap();
        let silent_address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let any_port = SocketAddr::new(silent_address, 0);
        silent.bind(&any_port.into()).unwrap();
        silent.listen(0).unwrap();
        let port = silent.local_addr().unwrap().as_socket().unwrap().port();
        let _listener = TcpListener::bind((LOCAL, port)).await.unwrap();
        // With its queue full it answers no first packet.
        let _queued = std::net::TcpStream::connect((silent_address, port)).unwrap();
        let begun = Instant::now();
        let dialled = dial(&[silent_address, LOCAL], port).await.unwrap();
        assert_eq!(dialled.address.unwrap().ip(), LOCAL);
        assert!((HEAD_START..DIAL_TIME / 3).contains(&begun.elapsed()));
    }
}
