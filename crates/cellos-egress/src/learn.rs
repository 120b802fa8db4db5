//! What a run that was there to learn needed, and the document that would have sufficed.

mod complete;
mod ports;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use cellos_core::{
    admission::EgressHost,
    document::{DnsQueryType, EgressRule},
    event::FlowProtocol,
};

use crate::{names::Meaning, ranges::special};
pub use complete::Completed;
pub(crate) use ports::{UDP_PORTS, tcp_ports};

/// Most destinations, and most names without a destination, that one run learns. What a cell makes
/// up takes memory here; nobody reads a document with more.
const MAX_DESTINATIONS: usize = 4096;
/// Most notes about what was refused even so.
const MAX_NOTES: usize = 256;

/// What a flow was seen to carry, by the checks that a rule without `protocol` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// TLS for the name that was dialled.
    Tls,
    /// HTTP/1 for the name that was dialled, in every request.
    Http,
    /// What no check would let through: another protocol, another or no name, and everything over UDP.
    Opaque,
}

/// Everything that was seen of one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Contents {
    tls: u64,
    http: u64,
    opaque: u64,
}

/// A destination, in the order of the document that is made of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Destination {
    host: EgressHost,
    port: u16,
    transport: FlowProtocol,
}

/// What was refused although nothing declared is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Note {
    /// It leads to an address that has to be named.
    Forbidden {
        to: Destination,
        address: IpAddr,
        what: &'static str,
    },
    /// Nothing listened on the port.
    Undeclared(Destination),
    /// A name that was asked for, while nothing was connected to.
    OnlyAsked(String),
}

/// Collects what a run needs. One for a run, shared by the gateway, which adds, and the command, which
/// prints.
#[derive(Debug, Default)]
pub struct Learned {
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    destinations: BTreeMap<Destination, Contents>,
    asked: BTreeMap<String, BTreeSet<u16>>,
    notes: BTreeSet<Note>,
    /// What there was no room for.
    dropped: u64,
}

impl Learned {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cell used this destination.
    pub(crate) fn used(
        &self,
        destination: &Meaning,
        port: u16,
        transport: FlowProtocol,
        content: Content,
    ) {
        let Some(to) = Destination::of(destination, port, transport) else {
            return;
        };
        self.add(|seen| {
            if !seen.destinations.contains_key(&to) && seen.destinations.len() >= MAX_DESTINATIONS {
                return Err(());
            }
            let contents = seen.destinations.entry(to).or_default();
            let count = match (content, transport) {
                (Content::Opaque, _) | (_, FlowProtocol::Udp) => &mut contents.opaque,
                (Content::Tls, _) => &mut contents.tls,
                (Content::Http, _) => &mut contents.http,
            };
            *count = count.saturating_add(1);
            Ok(())
        });
    }

    /// The cell asked for records of this name (normal) and was answered.
    pub(crate) fn asked(&self, name: &str, kind: DnsQueryType) {
        self.add(|seen| {
            if !seen.asked.contains_key(name) && seen.asked.len() >= MAX_DESTINATIONS {
                return Err(());
            }
            let kinds = seen.asked.entry(name.to_owned()).or_default();
            kinds.insert(kind_place(kind));
            Ok(())
        });
    }

    /// The cell was refused this destination, since it leads to this address, which has to be named.
    pub(crate) fn forbidden(
        &self,
        destination: &Meaning,
        port: u16,
        transport: FlowProtocol,
        address: IpAddr,
        what: &'static str,
    ) {
        if let Some(to) = Destination::of(destination, port, transport) {
            let address = address.to_canonical();
            self.note(Note::Forbidden { to, address, what });
        }
    }

    /// The kernel refused the cell this destination, since nothing listens on its port.
    pub(crate) fn undeclared(&self, destination: &Meaning, port: u16, transport: FlowProtocol) {
        if let Some(to) = Destination::of(destination, port, transport) {
            self.note(Note::Undeclared(to));
        }
    }

    /// The rules that the run needed, and no others: by name where a name was asked for, with a
    /// protocol only where no check would have let the content through.
    #[must_use]
    pub fn rules(&self) -> Vec<EgressRule> {
        let seen = self.seen();
        let all = seen.destinations.iter();
        all.map(|(to, contents)| to.rule(*contents)).collect()
    }

    fn note(&self, note: Note) {
        self.add(|seen| {
            if seen.notes.len() >= MAX_NOTES && !seen.notes.contains(&note) {
                return Err(());
            }
            seen.notes.insert(note);
            Ok(())
        });
    }

    fn add(&self, add: impl FnOnce(&mut Seen) -> Result<(), ()>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if add(&mut seen).is_err() {
            seen.dropped = seen.dropped.saturating_add(1);
        }
    }

    fn seen(&self) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

impl Seen {
    /// What was refused only because nothing listened, and needs a rule.
    fn undeclared(&self) -> impl Iterator<Item = &Destination> {
        self.notes.iter().filter_map(|note| match note {
            Note::Undeclared(to)
                if to.special().is_none() && !self.destinations.contains_key(to) =>
            {
                Some(to)
            }
            _ => None,
        })
    }
}

impl Destination {
    /// What the address is, where it has to be named.
    fn special(&self) -> Option<&'static str> {
        match &self.host {
            EgressHost::Ip(address) => special(*address),
            _ => None,
        }
    }

    fn of(meaning: &Meaning, port: u16, transport: FlowProtocol) -> Option<Self> {
        let host = match meaning {
            Meaning::Name(name) => EgressHost::Name(name.to_string()),
            Meaning::Itself(address) => EgressHost::Ip(address.to_canonical()),
            Meaning::Nothing => return None,
        };
        Some(Self {
            host,
            port,
            transport,
        })
    }

    fn rule(&self, contents: Contents) -> EgressRule {
        EgressRule {
            host: self.host.to_string(),
            port: self.port,
            protocol: match self.transport {
                FlowProtocol::Udp => Some("udp".to_owned()),
                FlowProtocol::Tcp if contents.opaque > 0 => Some("tcp".to_owned()),
                FlowProtocol::Tcp => None,
            },
            dns_egress_justification: None,
        }
    }
}

/// The record types, in the order of the documents.
const KINDS: [DnsQueryType; 10] = [
    DnsQueryType::A,
    DnsQueryType::Aaaa,
    DnsQueryType::Cname,
    DnsQueryType::Https,
    DnsQueryType::Txt,
    DnsQueryType::Mx,
    DnsQueryType::Srv,
    DnsQueryType::Ns,
    DnsQueryType::Ptr,
    DnsQueryType::Svcb,
];

fn kind_place(kind: DnsQueryType) -> u16 {
    let place = KINDS.iter().position(|it| *it == kind);
    place
        .and_then(|it| u16::try_from(it).ok())
        .unwrap_or_default()
}
