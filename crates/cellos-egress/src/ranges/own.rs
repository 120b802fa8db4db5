//! The addresses of this host, at which its own services listen.

use std::{collections::HashSet, io, net::IpAddr};

use nix::ifaddrs::getifaddrs;

/// The addresses of this host's interfaces, without loopback (which has a range of its own). A name
/// that leads there reaches services that trust their network, so a rule has to name the very address.
/// Addresses that a router translates to this host are not known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnAddresses(HashSet<IpAddr>);

impl OwnAddresses {
    /// What the interfaces have now; `getifaddrs(3)`.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn read() -> io::Result<Self> {
        let addresses = getifaddrs()
            .map_err(io::Error::from)?
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
                let v6 = address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
                v4.or(v6)
            });
        Ok(addresses.collect())
    }

    /// Whether this host has the address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromIterator<IpAddr> for OwnAddresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        Self(
            addresses
                .into_iter()
                .map(|address| address.to_canonical())
                .filter(|address| !address.is_loopback())
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    #[test]
    fn what_the_host_would_send_from_is_its_own() {
        // Connecting a datagram socket sends nothing, but picks the address that it would come from.
        let own = OwnAddresses::read().unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let SocketAddr::V4(address) = socket.local_addr().unwrap() else {
                panic!("no IPv4 address")
            };
            assert!(own.contains(IpAddr::V4(*address.ip())), "{own:?}");
        }
        assert!(!own.contains("127.0.0.1".parse().unwrap()));
        assert!(!own.contains("192.0.2.1".parse().unwrap()));
    }
}
