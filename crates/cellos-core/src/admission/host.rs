//! Egress hosts and protocols as typed values: the one place that reads and compares them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::grammar::{MAX_DNS_LABEL_BYTES, MAX_DNS_NAME_BYTES};

/// A destination of an egress rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EgressHost {
    /// `*`: every destination.
    Any,
    /// One address; IPv4 also where it was written as an IPv4-mapped IPv6 address.
    Ip(IpAddr),
    /// A block of addresses; the bits behind the prefix are zero.
    Cidr(CidrBlock),
    /// A DNS name, lower case, without a trailing dot.
    Name(String),
    /// The names below a domain; here the domain, lower case, without `*.` and a trailing dot.
    Wildcard(String),
}

/// A block of addresses; RFC 4632 and 4291.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CidrBlock {
    network: IpAddr,
    prefix: u8,
}

impl CidrBlock {
    /// The block that an address and a prefix length span; nothing when the length is longer than the
    /// address. Bits behind the prefix are cleared.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { network, prefix })
    }

    /// The first address.
    #[must_use]
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// Length of the prefix, in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in the block.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address.to_canonical(), self.prefix).is_some_and(|block| block == self)
    }
}

/// Why a text is no egress host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EgressHostError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// None of the known forms.
    #[error("is no IP address, CIDR block, DNS name, `*.` and a DNS name, or `*`")]
    Form,
    /// A block with a prefix that is no number or longer than the address.
    #[error("is a CIDR block with an impossible prefix length")]
    Prefix,
}

impl FromStr for EgressHost {
    type Err = EgressHostError;

    fn from_str(text: &str) -> Result<Self, EgressHostError> {
        if text.is_empty() {
            return Err(EgressHostError::Empty);
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(address) = parse_address(text) {
            return Ok(Self::Ip(address.to_canonical()));
        }
        if let Some((address, prefix)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| EgressHostError::Form)?;
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = prefix
                .parse()
                .ok()
                .filter(|_| digits)
                .ok_or(EgressHostError::Prefix)?;
            // A block of IPv4-mapped addresses is one of IPv4 addresses, as for single ones.
            let (address, prefix) = match address.to_canonical() {
                mapped @ IpAddr::V4(_) if address.is_ipv6() && (96..=128).contains(&prefix) => {
                    (mapped, prefix - 96)
                }
                _ => (address, prefix),
            };
            let block = CidrBlock::new(address, prefix).ok_or(EgressHostError::Prefix)?;
            return Ok(Self::Cidr(block));
        }
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_resolvable_name(name) {
            return Err(EgressHostError::Form);
        }
        let name = name.to_ascii_lowercase();
        Ok(if wildcard {
            Self::Wildcard(name)
        } else {
            Self::Name(name)
        })
    }
}

/// An address, IPv6 also in the brackets of a URL.
fn parse_address(text: &str) -> Option<IpAddr> {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// A name a resolver can be asked for. Underscores are taken, since resolvers take them; a last label
/// of digits is not, since it would be read as an address.
fn is_resolvable_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_DNS_LABEL_BYTES
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_DNS_NAME_BYTES
        && name.split('.').all(label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for EgressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Cidr(block) => write!(f, "{}/{}", block.network, block.prefix),
            Self::Name(name) => f.write_str(name),
            Self::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl EgressHost {
    /// Whether everything `other` stands for is also meant by this one. An address is not meant by a
    /// name, whatever the name resolves to.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Cidr(block), Self::Ip(address)) => block.contains(*address),
            (Self::Cidr(wide), Self::Cidr(narrow)) => {
                wide.prefix <= narrow.prefix && wide.contains(narrow.network)
            }
            (Self::Ip(address), Self::Cidr(block)) => {
                let all = if address.is_ipv4() { 32 } else { 128 };
                block.prefix == all && block.network == *address
            }
            (Self::Wildcard(domain), Self::Name(name)) => is_below(name, domain),
            (Self::Wildcard(wide), Self::Wildcard(narrow)) => {
                wide == narrow || is_below(narrow, wide)
            }
            (one, other) => one == other,
        }
    }

    /// Whether a host as it stands in a URL, a TLS server name or a query is meant by this one.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        // A pattern is not a host.
        host.parse()
            .is_ok_and(|host| matches!(host, Self::Ip(_) | Self::Name(_)) && self.covers(&host))
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// The transport of an egress rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EgressProtocol {
    /// TCP, also written `tls`, `http`, `https` or left out.
    Tcp,
    /// UDP, also written `dns-acknowledged`.
    Udp,
}

impl EgressProtocol {
    /// The spellings that are read, case ignored.
    pub const SPELLINGS: [(&'static str, Self); 6] = [
        ("tcp", Self::Tcp),
        ("tls", Self::Tcp),
        ("http", Self::Tcp),
        ("https", Self::Tcp),
        ("udp", Self::Udp),
        ("dns-acknowledged", Self::Udp),
    ];

    /// The transport that a rule's `protocol` means; nothing for an unknown one.
    #[must_use]
    pub fn of(protocol: Option<&str>) -> Option<Self> {
        let Some(protocol) = protocol else {
            return Some(Self::Tcp);
        };
        Self::SPELLINGS
            .iter()
            .find(|(spelling, _)| spelling.eq_ignore_ascii_case(protocol))
            .map(|(_, transport)| *transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> EgressHost {
        text.parse()
            .unwrap_or_else(|error| panic!("{text:?} {error}"))
    }

    #[test]
    fn reads_and_normalises_every_form() {
        for (text, shown) in [
            ("*", "*"),
            ("203.0.113.10", "203.0.113.10"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
            ("API.Example.com", "api.example.com"),
            ("example.com.", "example.com"),
            ("a", "a"),
            ("my_service.internal", "my_service.internal"),
            ("*.Example.com", "*.example.com"),
            ("*.com", "*.com"),
        ] {
            assert_eq!(host(text).to_string(), shown);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            " ",
            "$x",
            "@set",
            "a,b",
            "a b",
            "a/b",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "127.1",
            "0x7f.1.1.1.9",
            "*.*.a",
            "a.*",
            "*a.b",
            "**",
            "-a.b",
            "a..b",
            ".",
            "*.",
            "a\u{0}b",
            "a\u{7}",
            "é.example",
            "http://a.b",
            "a.b:80",
            "[::1]:80",
            "[1.2.3.4]",
            "fe80::1%eth0",
            "[]",
            "a.b..",
        ] {
            assert!(text.parse::<EgressHost>().is_err(), "{text:?} is read");
        }
    }

    #[test]
    fn covers_is_containment() {
        for (wide, narrow, expected) in [
            ("*", "a.b", true),
            ("*", "10.0.0.0/8", true),
            ("a.b", "*", false),
            ("a.b", "A.B", true),
            ("a.b", "x.a.b", false),
            ("*.a.b", "x.a.b", true),
            ("*.a.b", "y.x.a.b", true),
            ("*.a.b", "a.b", false),
            ("*.a.b", "xa.b", false),
            ("*.b", "*.a.b", true),
            ("*.a.b", "*.b", false),
            ("*.a.b", "*.a.b", true),
            ("x.a.b", "*.a.b", false),
            ("10.0.0.0/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("10.0.0.1", "10.0.0.1/32", true),
            ("::1", "[::1]", true),
            ("a.b", "10.0.0.1", false),
        ] {
            assert_eq!(
                host(wide).covers(&host(narrow)),
                expected,
                "{wide} covers {narrow}"
            );
        }
    }

    #[test]
    fn a_pattern_is_no_host() {
        assert!(host("*").matches("a.b"));
        assert!(host("*.b").matches("a.b"));
        assert!(!host("*").matches("*"));
        assert!(!host("*.b").matches("*.a.b"));
        assert!(!host("*").matches("10.0.0.0/8"));
    }

    #[test]
    fn protocols_normalise() {
        for (text, transport) in [
            (None, Some(EgressProtocol::Tcp)),
            (Some("TCP"), Some(EgressProtocol::Tcp)),
            (Some("tls"), Some(EgressProtocol::Tcp)),
            (Some("https"), Some(EgressProtocol::Tcp)),
            (Some("udp"), Some(EgressProtocol::Udp)),
            (Some("DNS-acknowledged"), Some(EgressProtocol::Udp)),
            (Some(""), None),
            (Some("sctp"), None),
            (Some(" tcp"), None),
        ] {
            assert_eq!(EgressProtocol::of(text), transport, "{text:?}");
        }
    }
}
