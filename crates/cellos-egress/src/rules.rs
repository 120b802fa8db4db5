//! What a document lets through, as typed rules: the one place that decides.
//!
//! Where several rules fit, the narrowest host decides: a name before a domain, the longer domain
//! before the shorter, an address before a block, the longer prefix before the shorter, `*` last. Of
//! rules with the same host, port and transport the first in the document decides, so a second one
//! with another `protocol` changes nothing.

mod build;
mod index;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cellos_core::{
    admission::EgressHost,
    document::DnsQueryType,
    event::{FlowProtocol, FlowReason},
    ports::network::{DNS_PORT, NetworkNeeds},
};

use crate::{
    gateway::Mode,
    learn,
    names::{Meaning, normal_name},
    ranges::{Opens, OwnAddresses, special_block},
};
use index::{Covering, HostIndex};

/// What the bytes of a connection are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// TLS for the declared name, or HTTP for it. `protocol` is absent.
    TlsOrHttp,
    /// TLS for the declared name: `protocol: tls` or `https`.
    Tls,
    /// HTTP/1 for the declared name: `protocol: http`.
    Http,
    /// Nothing: `protocol: tcp`, and everything over UDP.
    Opaque,
}

/// One rule of `authority.egressRules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the document.
    pub index: usize,
    /// The destination.
    pub host: EgressHost,
    /// The port.
    pub port: u16,
    /// The transport.
    pub transport: FlowProtocol,
    /// What is checked.
    pub check: Check,
}

impl Rule {
    /// How events name it: `authority.egressRules[3]`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("authority.egressRules[{}]", self.index)
    }
}

/// A port and a transport.
type Door = (u16, FlowProtocol);

/// Everything that a document lets through.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    mode: Mode,
    rules: Vec<Rule>,
    doors: HashMap<Door, HostIndex>,
    /// Names that the cell may ask for.
    names: HostIndex,
    /// Names of content delivery networks that accept fronting.
    fronting: HostIndex,
    query_types: Vec<DnsQueryType>,
    /// Doors that `dnsAuthority` closes, each with the resolvers that stay reachable.
    blocked: HashMap<Door, HashSet<EgressHost>>,
    /// The entries of `responseIpAllowlist`, by the pattern of their name.
    response_names: HashMap<EgressHost, Vec<EgressHost>>,
    own: Arc<OwnAddresses>,
}

/// Why a document's network authority cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// A field that is not understood; admission would have refused it.
    #[error("{path}: {what}")]
    Field {
        /// The field, `spec.authority.egressRules[0].host`.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// Why a flow is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit<'r> {
    /// A rule says so, and its check applies.
    By(&'r Rule),
    /// The run is there to learn what it needs; nothing is checked. With the rule that says so too.
    ToLearn(Option<&'r Rule>),
}

/// Why a flow is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial<'r> {
    /// For the event.
    pub(crate) reason: FlowReason,
    /// The rule that would have let it through otherwise.
    pub(crate) rule: Option<&'r Rule>,
    /// More for people, with what would mend it.
    pub(crate) detail: Option<String>,
}

/// What the rebinding policy says of an address as an answer for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// `responseIpAllowlist` has an entry for the name with this address.
    Listed,
    /// It has entries for the name, but none with this address.
    Unlisted,
    /// It has no entry for the name.
    NoList,
}

impl Rules {
    /// The same in another mode; [`Mode::Enforce`] without this.
    #[must_use]
    pub fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The same for a host with these addresses; for one with none without this.
    pub(crate) fn on_host(mut self, own: Arc<OwnAddresses>) -> Self {
        self.own = own;
        self
    }

    /// All of them, in the document's order.
    #[must_use]
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a cell of this document has a network: it may connect to something, or ask for a name.
    #[must_use]
    pub fn wants_network(&self) -> bool {
        self.mode == Mode::Learn || !self.rules.is_empty() || !self.names.is_empty()
    }

    /// The sockets that these rules need.
    #[must_use]
    pub fn needs(&self) -> NetworkNeeds {
        let declared = |wanted| -> BTreeSet<u16> {
            let doors = self.doors.keys();
            doors
                .filter(|(_, transport)| *transport == wanted)
                .map(|(port, _)| *port)
                .collect()
        };
        let mut needs = NetworkNeeds {
            tcp_ports: declared(FlowProtocol::Tcp),
            udp_ports: declared(FlowProtocol::Udp),
            inbound_sockets: 0,
        };
        if self.mode == Mode::Learn {
            needs.tcp_ports.extend(learn::tcp_ports());
            needs.udp_ports.extend(learn::UDP_PORTS);
        }
        needs
    }

    /// Decides on a flow to what the cell dialled. For a name its answers are still to be judged, by
    /// [`forbidden`](Self::forbidden).
    pub(crate) fn decide(
        &self,
        destination: &Meaning,
        port: u16,
        transport: FlowProtocol,
    ) -> Result<Permit<'_>, Denial<'_>> {
        let denial = |reason, rule, detail| Denial {
            reason,
            rule,
            detail,
        };
        let (rule, host) = match destination {
            Meaning::Nothing => {
                return Err(denial(FlowReason::UnknownAddress, None, None));
            }
            Meaning::Name(name) => {
                let rule = self.find_name(name, port, transport);
                (rule, EgressHost::Name(name.to_string()))
            }
            Meaning::Itself(address) => {
                let address = address.to_canonical();
                let covering = self.find_address(address, port, transport);
                let rule = covering.and_then(|it| self.rules.get(it.place));
                // Without a rule "no rule" is the reason, whatever the address is.
                if (rule.is_some() || self.mode == Mode::Learn)
                    && let Err((what, mend)) = self.open_to(address, covering)
                {
                    let detail = format!("{address} is {what}; {mend}");
                    return Err(denial(FlowReason::AddressForbidden, rule, Some(detail)));
                }
                (rule, EgressHost::Ip(address))
            }
        };
        if let Some(resolvers) = self.blocked.get(&(port, transport))
            && !resolvers.contains(&host)
            && (rule.is_some() || self.mode == Mode::Learn)
        {
            let detail = format!(
                "{} is set, and {host} is no declared resolver for it",
                build::blocking_field(port)
            );
            let reason = FlowReason::BlockedByDnsAuthority;
            return Err(denial(reason, rule, Some(detail)));
        }
        match (self.mode, rule) {
            (Mode::Learn, rule) => Ok(Permit::ToLearn(rule)),
            (Mode::Enforce, Some(rule)) => Ok(Permit::By(rule)),
            (Mode::Enforce, None) => Err(denial(FlowReason::NoRule, None, None)),
        }
    }

    /// Whether our name server answers what is sent to port 53 of this destination: always, unless a
    /// rule names that destination, which then is reached or refused like any other.
    pub(crate) fn dns_is_ours(&self, destination: &Meaning, transport: FlowProtocol) -> bool {
        match self.decide(destination, DNS_PORT, transport) {
            Ok(Permit::By(_) | Permit::ToLearn(Some(_))) => false,
            Ok(Permit::ToLearn(None)) => true,
            Err(Denial { reason, rule, .. }) => {
                reason != FlowReason::BlockedByDnsAuthority || rule.is_none()
            }
        }
    }

    /// Whether the cell may ask for this name: it is on `dnsAuthority.hostnameAllowlist`, or, where
    /// that is empty, some rule is for it.
    #[must_use]
    pub fn knows_name(&self, name: &str) -> bool {
        normal_name(name)
            .is_some_and(|name| self.mode == Mode::Learn || self.names.name(&name).is_some())
    }

    /// Whether the cell may ask for records of this type.
    pub(crate) fn allows_query(&self, kind: DnsQueryType) -> bool {
        self.mode == Mode::Learn || self.query_types.contains(&kind)
    }

    /// The types of records that the cell may ask for.
    pub(crate) fn query_types(&self) -> &[DnsQueryType] {
        &self.query_types
    }

    /// The rule that lets a connection to this name through.
    #[must_use]
    pub fn for_name(&self, name: &str, port: u16, transport: FlowProtocol) -> Option<&Rule> {
        let meaning = Meaning::Name(normal_name(name)?.as_ref().into());
        self.permitted(&meaning, port, transport)
    }

    /// The rule that lets a connection to this address, given as such, through.
    #[must_use]
    pub fn for_address(
        &self,
        address: IpAddr,
        port: u16,
        transport: FlowProtocol,
    ) -> Option<&Rule> {
        self.permitted(&Meaning::Itself(address), port, transport)
    }

    /// Whether a TLS connection to this name may present another one, or none.
    #[must_use]
    pub fn accepts_fronting(&self, name: &str) -> bool {
        normal_name(name).is_some_and(|name| self.fronting.name(&name).is_some())
    }

    /// Whether the document names the network of this address, so that a name may resolve to it
    /// although it is private or otherwise special: a rule for the address, or for a block of its
    /// network, on this port, or an entry of `responseIpAllowlist` for this name. `*` names no network.
    #[must_use]
    pub fn names_network(
        &self,
        name: &str,
        address: IpAddr,
        port: u16,
        transport: FlowProtocol,
    ) -> bool {
        let address = address.to_canonical();
        let covering = self.find_address(address, port, transport);
        covering.is_some_and(|it| it.block.is_some()) && self.open_to(address, covering).is_ok()
            || self
                .responses(name)
                .filter_map(|host| covered_by(host, address))
                .any(|covering| self.open_to(address, Some(covering)).is_ok())
    }

    /// Why this name may not lead to this address; nothing when it may. To be asked of every answer
    /// before it is dialled or shown.
    pub(crate) fn forbidden(
        &self,
        name: &str,
        address: IpAddr,
        port: u16,
        transport: FlowProtocol,
    ) -> Option<&'static str> {
        let (what, _) = self.open_to(address.to_canonical(), None).err()?;
        (!self.names_network(name, address, port, transport)).then_some(what)
    }

    /// What `responseIpAllowlist` says of this address as an answer for this name.
    pub(crate) fn response(&self, name: &str, address: IpAddr) -> Response {
        let address = address.to_canonical();
        let mut found = Response::NoList;
        for host in self.responses(name) {
            if covered_by(host, address).is_some() {
                return Response::Listed;
            }
            found = Response::Unlisted;
        }
        found
    }

    fn permitted(&self, to: &Meaning, port: u16, transport: FlowProtocol) -> Option<&Rule> {
        match self.decide(to, port, transport) {
            Ok(Permit::By(rule)) => Some(rule),
            Ok(Permit::ToLearn(rule)) => rule,
            Err(_) => None,
        }
    }

    /// The narrowest rule for a normal name.
    fn find_name(&self, name: &str, port: u16, transport: FlowProtocol) -> Option<&Rule> {
        let place = self.doors.get(&(port, transport))?.name(name)?;
        self.rules.get(place)
    }

    /// The narrowest rule for an address in canonical form.
    fn find_address(
        &self,
        address: IpAddr,
        port: u16,
        transport: FlowProtocol,
    ) -> Option<Covering> {
        self.doors.get(&(port, transport))?.address(address)
    }

    /// Whether a pattern, or nothing, is enough to reach an address; otherwise what the address is,
    /// and what would be enough.
    fn open_to(
        &self,
        address: IpAddr,
        covering: Option<Covering>,
    ) -> Result<(), (&'static str, String)> {
        let named = covering.and_then(|it| it.block);
        if let Some(special) = special_block(address) {
            let (block, what) = (special.block, special.what);
            match special.opens {
                Opens::Never => {
                    return Err((what, "nothing can be reached there".to_owned()));
                }
                Opens::Named if named.is_none_or(|named| named.prefix() < block.prefix()) => {
                    let block = EgressHost::Cidr(block);
                    let mend =
                        format!("a rule has to name the address, or a block inside of {block}");
                    return Err((what, mend));
                }
                Opens::Named => {}
            }
        }
        if self.own.contains(address)
            && named.is_none_or(|named| named.prefix() < index::address_bits(address))
        {
            let mend = "a rule has to name the very address".to_owned();
            return Err(("an address of this host", mend));
        }
        Ok(())
    }

    /// The hosts of `responseIpAllowlist` for a name.
    fn responses(&self, name: &str) -> impl Iterator<Item = &EgressHost> {
        let mut patterns = Vec::new();
        if !self.response_names.is_empty()
            && let Some(name) = normal_name(name)
        {
            patterns.push(EgressHost::Name(name.to_string()));
            let domains = index::domains_above(&name);
            patterns.extend(domains.map(|domain| EgressHost::Wildcard(domain.to_owned())));
        }
        patterns
            .into_iter()
            .filter_map(|pattern| self.response_names.get(&pattern))
            .flatten()
    }
}

/// The address or block of an entry of `responseIpAllowlist`, where it has the address.
fn covered_by(host: &EgressHost, address: IpAddr) -> Option<Covering> {
    let mut index = HostIndex::default();
    index.insert(host, 0);
    index.address(address).filter(|it| it.block.is_some())
}
