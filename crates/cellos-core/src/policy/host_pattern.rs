//! Hosts that a policy pack allows.

use std::{net::IpAddr, str::FromStr};

/// A set of hosts: all, one name, the names below a domain, or a block of addresses.
///
/// Egress rules are read in the same way, so a rule for a whole domain or block is allowed by a
/// pattern that contains all of it. Names compare without regard to ASCII case; addresses compare
/// as numbers; a name never contains an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`: every host.
    Any,
    /// One name, in lower case.
    Name(String),
    /// `*.` and a domain: names with at least one label before the domain, never the domain itself.
    Below(String),
    /// An address, or a CIDR block.
    Block(AddressBlock),
}

/// A CIDR block; a single address is a block of full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    /// The address, as a number with the bits outside the prefix cleared.
    network: u128,
    /// Length of the prefix in bits.
    prefix: u32,
    /// Length of an address in bits, 32 or 128.
    width: u32,
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} can match no host; write a name, `*.` and a domain, `*`, an IP address or a CIDR block"
)]
pub struct HostPatternError {
    /// The text.
    pub text: String,
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || HostPatternError {
            text: text.to_owned(),
        };
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(block) = AddressBlock::parse(text) {
            return Ok(Self::Block(block));
        }
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        // A trailing dot only says that the name is complete.
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_host_name(name) {
            return Err(error());
        }
        let name = name.to_ascii_lowercase();
        Ok(if wildcard {
            Self::Below(name)
        } else {
            Self::Name(name)
        })
    }
}

impl HostPattern {
    /// Whether every host of `other` is one of these.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Name(own), Self::Name(other)) => own == other,
            (Self::Below(domain), Self::Name(name)) => is_below(name, domain),
            (Self::Below(domain), Self::Below(other)) => other == domain || is_below(other, domain),
            (Self::Block(own), Self::Block(other)) => own.contains(*other),
            _ => false,
        }
    }
}

impl AddressBlock {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(address)
            .parse::<IpAddr>()
            .ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse::<u32>()
                .ok()
                .filter(|prefix| *prefix <= width)?,
            Some(_) => return None,
        };
        Some(Self::new(address, prefix))
    }

    /// A block of IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2) is the IPv4 block behind it;
    /// otherwise a pattern for all of IPv6 would allow IPv4 destinations in another spelling.
    fn new(address: IpAddr, prefix: u32) -> Self {
        const MAPPED_PREFIX: u32 = 96;
        let (number, prefix, width) = match (address, address.to_canonical()) {
            (IpAddr::V4(v4), _) => (u128::from(u32::from(v4)), prefix, 32),
            (IpAddr::V6(_), IpAddr::V4(v4)) if prefix >= MAPPED_PREFIX => {
                (u128::from(u32::from(v4)), prefix - MAPPED_PREFIX, 32)
            }
            (IpAddr::V6(v6), _) => (u128::from(v6), prefix, 128),
        };
        Self {
            network: leading_bits(number, prefix, width),
            prefix,
            width,
        }
    }

    fn contains(self, other: Self) -> bool {
        self.width == other.width
            && self.prefix <= other.prefix
            && leading_bits(other.network, self.prefix, self.width) == self.network
    }
}

/// The number with everything after its first `prefix` of `width` bits cleared.
fn leading_bits(number: u128, prefix: u32, width: u32) -> u128 {
    // A shift by the whole width of the type is not defined; it happens for `::/0` only.
    let host_bits = width - prefix;
    number
        .checked_shr(host_bits)
        .unwrap_or(0)
        .checked_shl(host_bits)
        .unwrap_or(0)
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .and_then(|labels| labels.strip_suffix('.'))
        .is_some_and(|labels| !labels.is_empty())
}

/// RFC 1035 lengths; underscores are allowed, because service names carry them. A name of digits
/// and dots only is a broken address and no name.
fn is_host_name(text: &str) -> bool {
    const MAX_NAME: usize = 253;
    const MAX_LABEL: usize = 63;
    text.len() <= MAX_NAME
        && text.contains(|c: char| !c.is_ascii_digit() && c != '.')
        && text.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn hosts_are_matched_by_meaning() {
        let cases = [
            ("*", "api.example", true),
            ("*", "10.0.0.0/8", true),
            ("*", "*.example", true),
            ("api.example", "API.Example", true),
            ("api.example", "a.api.example", false),
            ("api.example", "*", false),
            ("*.models.example", "api.models.example", true),
            ("*.MODELS.example", "a.b.models.EXAMPLE", true),
            ("*.models.example", "models.example", false),
            ("*.models.example", "evilmodels.example", false),
            ("*.models.example", "*.models.example", true),
            ("*.models.example", "*.cdn.models.example", true),
            ("*.models.example", "*.example", false),
            ("*.models.example", "*", false),
            ("203.0.113.10", "203.0.113.10", true),
            ("203.0.113.10", "203.0.113.11", false),
            ("203.0.113.0/24", "203.0.113.10", true),
            ("203.0.113.99/24", "203.0.113.10", true),
            ("203.0.113.0/24", "203.0.113.128/25", true),
            ("203.0.113.0/24", "203.0.0.0/16", false),
            ("0.0.0.0/0", "198.51.100.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1", "[::1]", true),
            ("2001:DB8::/32", "2001:db8:0:0::5", true),
            ("*.example", "203.0.113.10", false),
            ("*.example.", "a.example", true),
            ("a.example", "a.example.", true),
            ("::/0", "::ffff:203.0.113.10", false),
            ("::/0", "::ffff:0:0/96", false),
            ("203.0.113.0/24", "::ffff:203.0.113.10", true),
            ("203.0.113.0/24", "::ffff:203.0.113.0/120", true),
            ("203.0.113.0/24", "::ffff:203.0.113.0/119", false),
        ];
        for (allowed, host, expected) in cases {
            assert_eq!(
                pattern(allowed).contains(&pattern(host)),
                expected,
                "{allowed} {host}"
            );
        }
    }

    #[test]
    fn texts_that_can_match_no_host_are_refused() {
        let bad = [
            "",
            " ",
            ".internal",
            "*.",
            "*.*.example",
            "a*.example",
            "*example",
            "a..b",
            "a.b..",
            ".",
            "*..",
            "-a.example",
            "a-.example",
            "a,b",
            "a b",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0",
            "256.1.1.1",
            "::/129",
            "$x",
            "@set",
            "ex\u{e4}mple.org",
        ];
        for text in bad {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?}");
        }
    }
}
