//! Where a declared resolver is, as a document says it.

use std::net::{IpAddr, Ipv6Addr};

use cellos_core::document::DnsResolverProtocol;

/// The path of RFC 8484's examples, which everybody uses; for an endpoint without one.
const DOH_PATH: &str = "/dns-query";
/// Longest endpoint that is looked at, in bytes: a name of 253, a port and a path.
const ENDPOINT_MAX: usize = 1024;

/// Where a resolver is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) transport: Transport,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// How a resolver is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transport {
    /// Datagrams; TCP for what does not fit.
    Udp,
    /// TCP only.
    Tcp,
    /// TLS, RFC 7858.
    Tls,
    /// HTTP/2, RFC 8484, with this path.
    Https(String),
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, which the host resolves.
    Name(String),
}

/// Why an endpoint is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointProblem {
    /// Longer than anything that is one.
    #[error("is longer than {ENDPOINT_MAX} bytes")]
    TooLong,
    /// Not what plain DNS needs.
    #[error(
        "has to be `address` or `address:port`; a resolver by name would need another one first"
    )]
    Plain,
    /// Not what TLS needs.
    #[error("has to be `host` or `host:port`")]
    Tls,
    /// Not what HTTPS needs.
    #[error(
        "has to be `https://host/path` or `https://host:port/path`, without user, query and fragment"
    )]
    Https,
    /// DNS over QUIC.
    #[error("DNS over QUIC is not spoken here; use `dot` or `doh`")]
    Quic,
}

impl Host {
    /// The name that a certificate has to be for.
    pub(super) fn certificate_name(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl Endpoint {
    /// Reads one.
    pub(super) fn of(protocol: DnsResolverProtocol, text: &str) -> Result<Self, EndpointProblem> {
        if text.len() > ENDPOINT_MAX {
            return Err(EndpointProblem::TooLong);
        }
        match protocol {
            DnsResolverProtocol::Do53Udp => plain(text, Transport::Udp),
            DnsResolverProtocol::Do53Tcp => plain(text, Transport::Tcp),
            DnsResolverProtocol::Dot => {
                let (host, port) = host_and_port(text).ok_or(EndpointProblem::Tls)?;
                Ok(Self {
                    transport: Transport::Tls,
                    host,
                    port: port.unwrap_or(853),
                })
            }
            DnsResolverProtocol::Doh => https(text).ok_or(EndpointProblem::Https),
            DnsResolverProtocol::Doq => Err(EndpointProblem::Quic),
        }
    }
}

fn plain(text: &str, transport: Transport) -> Result<Endpoint, EndpointProblem> {
    match host_and_port(text) {
        Some((host @ Host::Address(_), port)) => Ok(Endpoint {
            transport,
            host,
            port: port.unwrap_or(53),
        }),
        _ => Err(EndpointProblem::Plain),
    }
}

fn https(text: &str) -> Option<Endpoint> {
    let rest = text.strip_prefix("https://")?;
    if rest
        .bytes()
        .any(|byte| !byte.is_ascii_graphic() || b"?#@\\".contains(&byte))
    {
        return None;
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, DOH_PATH),
    };
    let (host, port) = host_and_port(authority)?;
    Some(Endpoint {
        transport: Transport::Https(path.to_owned()),
        host,
        port: port.unwrap_or(443),
    })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or an IPv6 address alone.
fn host_and_port(text: &str) -> Option<(Host, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match rest {
            "" => None,
            _ => Some(port(rest.strip_prefix(':')?)?),
        };
        return Some((Host::Address(address.into()), port));
    }
    if let Ok(address) = text.parse() {
        return Some((Host::Address(address), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host, Some(port(digits)?)),
        None => (text, None),
    };
    let host = match host.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(name(host)?),
    };
    Some((host, port))
}

fn port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port != 0)
}

/// A name of letters, digits and hyphens. One that looks like an address is none.
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next()?;
    let named = text.len() <= 253
        && text.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit());
    named.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use DnsResolverProtocol::{Do53Tcp, Do53Udp, Doh, Doq, Dot};

    #[test]
    fn endpoints() {
        let read = |protocol, text| {
            let endpoint = Endpoint::of(protocol, text).unwrap();
            let path = match endpoint.transport {
                Transport::Https(path) => path,
                _ => String::new(),
            };
            format!(
                "{} {} {path}",
                endpoint.host.certificate_name(),
                endpoint.port
            )
        };
        assert_eq!(read(Do53Udp, "192.0.2.1"), "192.0.2.1 53 ");
        assert_eq!(read(Do53Tcp, "[2001:db8::1]:5353"), "2001:db8::1 5353 ");
        assert_eq!(read(Do53Udp, "2001:db8::1"), "2001:db8::1 53 ");
        assert_eq!(read(Dot, "Dns.Example.net"), "dns.example.net 853 ");
        assert_eq!(read(Dot, "192.0.2.1:8853"), "192.0.2.1 8853 ");
        assert_eq!(read(Doh, "https://a.example"), "a.example 443 /dns-query");
        assert_eq!(read(Doh, "https://a.example:8443/q"), "a.example 8443 /q");
        assert_eq!(read(Doh, "https://[::1]/q"), "::1 443 /q");
        for (protocol, text) in [
            (Do53Udp, "dns.example"),
            (Do53Udp, "192.0.2.1:0"),
            (Do53Udp, "192.0.2.1:+5"),
            (Do53Udp, ""),
            (Do53Tcp, "192.0.2.1:65536"),
            (Dot, "tls://a.example"),
            (Dot, "a_b.example"),
            (Dot, "1.2.3"),
            (Doh, "http://a.example/q"),
            (Doh, "https://user@a.example/q"),
            (Doh, "https://a.example/q?x"),
            (Doh, "https://a.example/q\r\nx"),
            (Doh, "https:///q"),
            (Doq, "a.example"),
        ] {
            assert!(Endpoint::of(protocol, text).is_err(), "{text}");
        }
        let long = "a".repeat(ENDPOINT_MAX + 1);
        assert_eq!(Endpoint::of(Dot, &long), Err(EndpointProblem::TooLong));
    }
}
