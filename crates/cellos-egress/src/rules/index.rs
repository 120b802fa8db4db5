//! Patterns of hosts, found without walking through all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use cellos_core::admission::{CidrBlock, EgressHost};

/// Patterns of hosts, each with the place of what it belongs to. The narrowest pattern that fits is
/// found; of equal patterns the first that was added.
#[derive(Debug, Clone, Default)]
pub(super) struct HostIndex {
    names: HashMap<Box<str>, usize>,
    domains: HashMap<Box<str>, usize>,
    addresses: HashMap<IpAddr, usize>,
    /// By the length of the prefix, the longest first.
    blocks: BTreeMap<Reverse<u8>, HashMap<IpAddr, usize>>,
    any: Option<usize>,
}

/// The block of a pattern that covers an address, and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Covering {
    pub(super) place: usize,
    /// The addresses it spans, one or more; nothing for `*`.
    pub(super) block: Option<CidrBlock>,
}

impl HostIndex {
    pub(super) fn insert(&mut self, host: &EgressHost, place: usize) {
        match host {
            EgressHost::Any => {
                self.any.get_or_insert(place);
            }
            EgressHost::Name(name) => {
                self.names.entry(name.as_str().into()).or_insert(place);
            }
            EgressHost::Wildcard(domain) => {
                self.domains.entry(domain.as_str().into()).or_insert(place);
            }
            EgressHost::Ip(address) => {
                self.addresses.entry(*address).or_insert(place);
            }
            EgressHost::Cidr(block) if block.prefix() == address_bits(block.network()) => {
                self.addresses.entry(block.network()).or_insert(place);
            }
            EgressHost::Cidr(block) => {
                self.blocks
                    .entry(Reverse(block.prefix()))
                    .or_default()
                    .entry(block.network())
                    .or_insert(place);
            }
        }
    }

    /// The narrowest pattern for a normal name: the name itself, the longest domain that it is below,
    /// `*`.
    pub(super) fn name(&self, name: &str) -> Option<usize> {
        if let Some(place) = self.names.get(name) {
            return Some(*place);
        }
        domains_above(name)
            .find_map(|domain| self.domains.get(domain))
            .copied()
            .or(self.any)
    }

    /// The narrowest pattern for an address in canonical form: the address itself, the block with the
    /// longest prefix, `*`.
    pub(super) fn address(&self, address: IpAddr) -> Option<Covering> {
        let all = address_bits(address);
        if let Some(place) = self.addresses.get(&address) {
            let block = CidrBlock::new(address, all);
            return Some(Covering {
                place: *place,
                block,
            });
        }
        self.blocks
            .iter()
            .filter(|(Reverse(prefix), _)| *prefix <= all)
            .find_map(|(Reverse(prefix), networks)| {
                let block = CidrBlock::new(address, *prefix)?;
                let place = *networks.get(&block.network())?;
                Some(Covering {
                    place,
                    block: Some(block),
                })
            })
            .or_else(|| self.any.map(|place| Covering { place, block: None }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.domains.is_empty()
            && self.addresses.is_empty()
            && self.blocks.is_empty()
            && self.any.is_none()
    }
}

/// The length of an address, in bits.
pub(super) fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The domains that a name is below, the longest first.
pub(super) fn domains_above(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (_, domain) = rest.split_once('.')?;
        rest = domain;
        Some(domain)
    })
}
