//! What a resolver said, before it is judged.

use std::net::IpAddr;

use cellos_core::event::{DnssecFailure, DnssecStatus};
use hickory_proto::rr::{Name, RData, Record};

/// Most addresses that are taken from one answer; more than one connection ever tries.
pub(super) const ADDRESSES_MAX: usize = 64;
/// Most records that are taken from one answer.
pub(super) const RECORDS_MAX: usize = 256;
/// Longest chain of aliases that is followed.
const ALIASES_MAX: usize = 8;

/// Addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// As they were answered, each once, IPv4-mapped ones as IPv4; never empty.
    pub(super) addresses: Vec<IpAddr>,
    /// Time to live in seconds, where the resolver tells.
    pub(super) ttl: Option<u32>,
    /// What DNSSEC said.
    pub(super) dnssec: DnssecStatus,
    /// The declared resolver that said so.
    pub(super) resolver_id: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskError {
    /// There is no such name, or it has no address.
    NoAddress,
    /// The resolver could not be asked, or could not say.
    Failed(String),
    /// What it said is not validated.
    Dnssec(Unvalidated),
}

/// An answer that is not validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unvalidated {
    pub(super) reason: DnssecFailure,
    pub(super) resolver_id: String,
    pub(super) fail_closed: bool,
    pub(super) anchors: String,
}

impl Answer {
    /// An answer with these addresses.
    pub(super) fn new(found: Vec<IpAddr>, ttl: Option<u32>) -> Result<Self, AskError> {
        let mut addresses = Vec::new();
        for address in found.into_iter().map(|it| it.to_canonical()) {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(AskError::NoAddress);
        }
        Ok(Self {
            addresses,
            ttl,
            dnssec: DnssecStatus::NotAttempted,
            resolver_id: None,
        })
    }
}

/// The addresses that these records give a name, along its aliases, and the shortest time to live on
/// the way. Records of other names do not count.
pub(super) fn addresses_of(name: &Name, records: &[Record]) -> (Vec<IpAddr>, u32) {
    let mut at = name;
    let mut ttl = u32::MAX;
    for _ in 0..ALIASES_MAX {
        let next = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *at => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = next else {
            break;
        };
        (at, ttl) = (target, ttl.min(alias_ttl));
    }
    let mut addresses = Vec::new();
    for record in records.iter().filter(|record| record.name == *at) {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => continue,
        };
        ttl = ttl.min(record.ttl);
        addresses.push(address);
    }
    (addresses, ttl)
}
