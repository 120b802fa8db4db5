//! Addresses that a name may not resolve to unless the document names their network.
//!
//! A public name that leads to the host's loopback device, to the network the host stands in or to a
//! cloud's metadata service is an attack, or a mistake that looks like one. The table has every block
//! of the IANA special-purpose address registries (RFC 6890 and its updates) that is not globally
//! reachable, the addresses at which clouds hand out credentials, and multicast. An IPv6 address that
//! carries an IPv4 address is judged by that one.

mod own;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cellos_core::admission::CidrBlock;

pub(crate) use own::OwnAddresses;

/// What it takes to reach an address of a special block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opens {
    /// A rule, or an entry of the rebinding policy, that names the address or a block that lies
    /// within this one. A block that reaches beyond, such as `0.0.0.0/0`, names nothing special.
    Named,
    /// Nothing.
    Never,
}

/// A block of addresses that are not simply somebody on the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Special {
    /// The narrowest block of the table that has the address.
    pub(crate) block: CidrBlock,
    /// What it is for, with its source.
    pub(crate) what: &'static str,
    /// What it takes to reach it.
    pub(crate) opens: Opens,
}

/// What is special about an address; nothing for one that is globally reachable.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    special_block(address).map(|special| special.what)
}

/// The special block that an address lies in.
pub(crate) fn special_block(address: IpAddr) -> Option<Special> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// IPv4 blocks: address, prefix, what. Where two have an address the longer prefix counts.
const V4: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "\"this network\" (RFC 791)"),
    ([10, 0, 0, 0], 8, "private use (RFC 1918)"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT (RFC 6598)"),
    ([100, 100, 100, 200], 32, "cloud metadata (Alibaba Cloud)"),
    ([127, 0, 0, 0], 8, "loopback (RFC 1122)"),
    ([168, 63, 129, 16], 32, "cloud metadata (Azure)"),
    ([169, 254, 0, 0], 16, "link-local (RFC 3927)"),
    ([169, 254, 169, 254], 32, "cloud metadata"),
    ([169, 254, 170, 2], 32, "cloud credentials (Amazon ECS)"),
    ([169, 254, 170, 23], 32, "cloud credentials (Amazon EKS)"),
    ([172, 16, 0, 0], 12, "private use (RFC 1918)"),
    ([192, 0, 0, 0], 24, "IETF protocol assignments (RFC 6890)"),
    ([192, 0, 0, 192], 32, "cloud metadata (Oracle Cloud)"),
    ([192, 0, 2, 0], 24, "documentation (RFC 5737)"),
    ([192, 31, 196, 0], 24, "AS112 (RFC 7535)"),
    (
        [192, 52, 193, 0],
        24,
        "automatic multicast tunneling (RFC 7450)",
    ),
    ([192, 88, 99, 0], 24, "6to4 relay anycast (RFC 7526)"),
    ([192, 168, 0, 0], 16, "private use (RFC 1918)"),
    ([192, 175, 48, 0], 24, "AS112 (RFC 7534)"),
    ([198, 18, 0, 0], 15, "benchmarking (RFC 2544)"),
    ([198, 51, 100, 0], 24, "documentation (RFC 5737)"),
    ([203, 0, 113, 0], 24, "documentation (RFC 5737)"),
    ([224, 0, 0, 0], 4, "multicast (RFC 5771)"),
    ([240, 0, 0, 0], 4, "reserved (RFC 1112)"),
    ([255, 255, 255, 255], 32, "limited broadcast (RFC 919)"),
];

/// IPv6 blocks that carry no IPv4 address, likewise.
const V6: &[([u16; 8], u8, &str)] = &[
    (
        [0, 0, 0, 0, 0, 0, 0, 0],
        128,
        "the unspecified address (RFC 4291)",
    ),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback (RFC 4291)"),
    (
        [0, 0, 0, 0, 0, 0, 0, 0],
        96,
        "IPv4-compatible (RFC 4291, deprecated)",
    ),
    (
        [0, 0, 0, 0, 0xffff, 0, 0, 0],
        96,
        "IPv4-translated (RFC 7915)",
    ),
    ([0, 0, 0, 0, 0, 0, 0, 0], 8, "reserved (RFC 4291)"),
    (
        [0x64, 0xff9b, 1, 0, 0, 0, 0, 0],
        48,
        "local-use NAT64 (RFC 8215)",
    ),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard only (RFC 6666)"),
    ([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix (RFC 9780)"),
    (
        [0x2001, 0, 0, 0, 0, 0, 0, 0],
        23,
        "IETF protocol assignments (RFC 2928)",
    ),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo (RFC 4380)"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking (RFC 5180)"),
    (
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0],
        32,
        "documentation (RFC 3849)",
    ),
    (
        [0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0],
        48,
        "AS112 (RFC 7534)",
    ),
    (
        [0x3fff, 0, 0, 0, 0, 0, 0, 0],
        20,
        "documentation (RFC 9637)",
    ),
    (
        [0x5f00, 0, 0, 0, 0, 0, 0, 0],
        16,
        "segment routing (RFC 9602)",
    ),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local (RFC 4193)"),
    (
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
        128,
        "cloud metadata (Amazon EC2)",
    ),
    (
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],
        128,
        "cloud credentials (Amazon EKS)",
    ),
    (
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
        128,
        "cloud metadata (Google Cloud)",
    ),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local (RFC 4291)"),
    (
        [0xfec0, 0, 0, 0, 0, 0, 0, 0],
        10,
        "site-local (RFC 3879, deprecated)",
    ),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast (RFC 4291)"),
];

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    let (network, prefix, what) = V4
        .iter()
        .filter(|(network, prefix, _)| {
            let differ = address.to_bits() ^ Ipv4Addr::from(*network).to_bits();
            differ.leading_zeros() >= u32::from(*prefix)
        })
        .max_by_key(|(_, prefix, _)| *prefix)?;
    Some(Special {
        block: CidrBlock::new(IpAddr::V4((*network).into()), *prefix)?,
        what,
        opens: match network {
            [0, ..] => Opens::Never,
            _ => Opens::Named,
        },
    })
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if let Some((inner, offset)) = inner_v4(address) {
        // The block within the translated ones: whoever names that names the network.
        let special = special_v4(inner)?;
        let prefix = offset + special.block.prefix();
        return Some(Special {
            block: CidrBlock::new(IpAddr::V6(address), prefix)?,
            ..special
        });
    }
    let (network, prefix, what) = V6
        .iter()
        .filter(|(network, prefix, _)| {
            let differ = address.to_bits() ^ Ipv6Addr::from(*network).to_bits();
            differ.leading_zeros() >= u32::from(*prefix)
        })
        .max_by_key(|(_, prefix, _)| *prefix)?;
    Some(Special {
        block: CidrBlock::new(IpAddr::V6((*network).into()), *prefix)?,
        what,
        opens: match (network, prefix) {
            ([0, 0, 0, 0, 0, 0, 0, 0], 128) => Opens::Never,
            _ => Opens::Named,
        },
    })
}

/// The IPv4 address that an IPv6 address leads to, and how many bits stand before it: NAT64 with the
/// well-known prefix (RFC 6052) and 6to4 (RFC 3056). Teredo and IPv4-compatible addresses are refused
/// as such, since nobody needs them.
fn inner_v4(address: Ipv6Addr) -> Option<(Ipv4Addr, u8)> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((join(high, low), 96)),
        [0x2002, high, low, ..] => Some((join(high, low), 16)),
        _ => None,
    }
}
