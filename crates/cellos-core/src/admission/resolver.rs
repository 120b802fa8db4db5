//! Where a resolver is reached, as a typed value.

use std::net::{IpAddr, SocketAddr};

use super::EgressHost;
use crate::document::DnsResolverProtocol;

/// Longest endpoint, in bytes; far longer than a host and a path need.
pub const MAX_ENDPOINT_BYTES: usize = 1024;
/// Most resolvers of a document: each that stays silent costs a connection its time-out.
pub const MAX_RESOLVERS: usize = 8;

/// The port of DNS over TLS; RFC 7858.
const DOT_PORT: u16 = 853;
/// The port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// Where a resolver is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolverEndpoint {
    /// Plain DNS at this address.
    Plain(SocketAddr),
    /// DNS over TLS; the certificate has to be for this host.
    Tls {
        /// An address or a name, which the host's own resolver looks up.
        host: EgressHost,
        /// The port, 853 where none is written.
        port: u16,
    },
    /// DNS over HTTPS; the certificate has to be for this host.
    Https {
        /// An address or a name, which the host's own resolver looks up.
        host: EgressHost,
        /// The port, 443 where none is written.
        port: u16,
        /// The path and the query, from `/` on.
        path: String,
    },
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolverEndpointError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Longer than [`MAX_ENDPOINT_BYTES`].
    #[error("is longer than {MAX_ENDPOINT_BYTES} bytes")]
    TooLong,
    /// No address and port.
    #[error("is no IP address with a port, which plain DNS needs")]
    Plain,
    /// No host and port.
    #[error("is no host with a port, which DNS over TLS needs")]
    Tls,
    /// No URL.
    #[error("is no https URL, which DNS over HTTPS needs")]
    Https,
    /// A user name in the URL.
    #[error("has credentials, which nobody would send")]
    Credentials,
    /// A protocol that is not spoken.
    #[error("is reached over DNS over QUIC, which the egress gateway does not speak")]
    Quic,
}

impl ResolverEndpointError {
    /// What to write instead.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::Empty | Self::TooLong | Self::Plain => {
                "write the address and the port, such as `9.9.9.9:53` or `[2620:fe::fe]:53`"
            }
            Self::Tls => "write host and port, such as `dns.quad9.net:853`",
            Self::Https | Self::Credentials => {
                "write the URL without a template, such as `https://dns.quad9.net/dns-query`"
            }
            Self::Quic => "declare the resolver with protocol `doh` or `dot`",
        }
    }
}

impl ResolverEndpoint {
    /// Reads the endpoint of a resolver that speaks this protocol.
    ///
    /// # Errors
    /// [`ResolverEndpointError`] for every other form.
    pub fn parse(protocol: DnsResolverProtocol, text: &str) -> Result<Self, ResolverEndpointError> {
        if text.is_empty() {
            return Err(ResolverEndpointError::Empty);
        }
        if text.len() > MAX_ENDPOINT_BYTES {
            return Err(ResolverEndpointError::TooLong);
        }
        match protocol {
            DnsResolverProtocol::Do53Udp | DnsResolverProtocol::Do53Tcp => plain(text),
            DnsResolverProtocol::Dot => {
                let rest = strip_scheme(text, "tls://").unwrap_or(text);
                let (host, port) =
                    host_and_port(rest, DOT_PORT).ok_or(ResolverEndpointError::Tls)?;
                Ok(Self::Tls { host, port })
            }
            DnsResolverProtocol::Doh => https(text),
            DnsResolverProtocol::Doq => Err(ResolverEndpointError::Quic),
        }
    }

    /// The host, an address or a name.
    #[must_use]
    pub fn host(&self) -> EgressHost {
        match self {
            Self::Plain(address) => EgressHost::Ip(address.ip().to_canonical()),
            Self::Tls { host, .. } | Self::Https { host, .. } => host.clone(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Plain(address) => address.port(),
            Self::Tls { port, .. } | Self::Https { port, .. } => *port,
        }
    }
}

fn plain(text: &str) -> Result<ResolverEndpoint, ResolverEndpointError> {
    let address: SocketAddr = text.parse().map_err(|_| ResolverEndpointError::Plain)?;
    let zone = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
    if address.port() == 0 || address.ip().is_unspecified() || zone {
        return Err(ResolverEndpointError::Plain);
    }
    let ip: IpAddr = address.ip().to_canonical();
    Ok(ResolverEndpoint::Plain(SocketAddr::new(ip, address.port())))
}

fn https(text: &str) -> Result<ResolverEndpoint, ResolverEndpointError> {
    let rest = strip_scheme(text, "https://").ok_or(ResolverEndpointError::Https)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err(ResolverEndpointError::Credentials);
    }
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"{}#\"<>\\^`|".contains(&byte);
    if !path.bytes().all(allowed) {
        return Err(ResolverEndpointError::Https);
    }
    let (host, port) = host_and_port(authority, HTTPS_PORT).ok_or(ResolverEndpointError::Https)?;
    let path = match path {
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    Ok(ResolverEndpoint::Https { host, port, path })
}

/// What follows a scheme, which is compared without its case.
fn strip_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A host, IPv6 in brackets, and its port.
fn host_and_port(text: &str, default: u16) -> Option<(EgressHost, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // The colon is one of an address in brackets.
        Some((_, after)) if after.ends_with(']') => (text, default),
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, port.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
        None => (text, default),
    };
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    match host.parse().ok()? {
        EgressHost::Ip(address) if address.is_unspecified() => None,
        host @ (EgressHost::Ip(_) | EgressHost::Name(_)) => Some((host, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DnsResolverProtocol::{Do53Tcp, Do53Udp, Doh, Doq, Dot};

    #[test]
    fn each_protocol_has_its_form() {
        for (protocol, text, host, port) in [
            (Do53Udp, "9.9.9.9:53", "9.9.9.9", 53),
            (Do53Tcp, "[2620:fe::fe]:5353", "2620:fe::fe", 5353),
            (Do53Udp, "[::ffff:9.9.9.9]:53", "9.9.9.9", 53),
            (Do53Udp, "127.0.0.53:53", "127.0.0.53", 53),
            (Dot, "dns.quad9.net:853", "dns.quad9.net", 853),
            (Dot, "DNS.quad9.net", "dns.quad9.net", 853),
            (Dot, "tls://9.9.9.9:8853", "9.9.9.9", 8853),
            (Dot, "[2620:fe::fe]", "2620:fe::fe", 853),
            (
                Doh,
                "https://dns.example.net/dns-query",
                "dns.example.net",
                443,
            ),
            (Doh, "HTTPS://[2620:fe::fe]:8443", "2620:fe::fe", 8443),
            (Doh, "https://9.9.9.9?x=1", "9.9.9.9", 443),
        ] {
            let endpoint = ResolverEndpoint::parse(protocol, text).unwrap();
            assert_eq!(
                (endpoint.host().to_string().as_str(), endpoint.port()),
                (host, port),
                "{text}"
            );
        }
        for (text, expected) in [
            ("https://a.b", "/"),
            ("https://a.b/", "/"),
            ("https://a.b/x?y=z", "/x?y=z"),
            ("https://a.b?y", "/?y"),
        ] {
            let Ok(ResolverEndpoint::Https { path, .. }) = ResolverEndpoint::parse(Doh, text)
            else {
                panic!("{text}")
            };
            assert_eq!(path, expected);
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        use ResolverEndpointError as E;
        let long = format!("https://a.b/{}", "a".repeat(MAX_ENDPOINT_BYTES));
        for (protocol, text, error) in [
            (Do53Udp, "", E::Empty),
            (Do53Udp, "9.9.9.9", E::Plain),
            (Do53Udp, "dns.quad9.net:53", E::Plain),
            (Do53Udp, "9.9.9.9:0", E::Plain),
            (Do53Udp, "0.0.0.0:53", E::Plain),
            (Do53Tcp, "2620:fe::fe:53", E::Plain),
            (Do53Tcp, "[fe80::1%2]:53", E::Plain),
            (Do53Tcp, "https://a.b", E::Plain),
            (Dot, "a.b:", E::Tls),
            (Dot, "a.b:0", E::Tls),
            (Dot, "a.b:65536", E::Tls),
            (Dot, "a.b:+1", E::Tls),
            (Dot, "*.b:853", E::Tls),
            (Dot, "10.0.0.0/8:853", E::Tls),
            (Dot, "2620:fe::fe", E::Tls),
            (Dot, "https://a.b", E::Tls),
            (Doh, "http://a.b/dns-query", E::Https),
            (Doh, "a.b/dns-query", E::Https),
            (Doh, "https://", E::Https),
            (Doh, "https://a.b/dns-query{?dns}", E::Https),
            (Doh, "https://a.b/#x", E::Https),
            (Doh, "https://a.b/x y", E::Https),
            (Doh, "https://a.b/\r\nx", E::Https),
            (Doh, "https://a b/", E::Https),
            (Doh, "https://u:p@a.b/", E::Credentials),
            (Doh, long.as_str(), E::TooLong),
            (Doq, "a.b:853", E::Quic),
        ] {
            assert_eq!(
                ResolverEndpoint::parse(protocol, text),
                Err(error),
                "{text:?}"
            );
        }
    }
}
