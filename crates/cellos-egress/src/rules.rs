//! What a document lets through, as typed rules: the one place that decides.

use std::{collections::BTreeSet, net::IpAddr};

use cellos_core::{
    admission::{EgressHost, EgressProtocol},
    document::AuthorityBundle,
    event::FlowProtocol,
    ports::network::NetworkNeeds,
};

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

/// Everything that a document lets through.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
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

impl Rules {
    /// The rules of an admitted document.
    ///
    /// # Errors
    /// [`RuleProblem`] for what could not be enforced.
    pub fn of(authority: &AuthorityBundle) -> Result<Self, RuleProblem> {
        let mut rules = Vec::new();
        for (index, rule) in authority.egress_rules.iter().flatten().enumerate() {
            let field = |name: &str, what: String| RuleProblem::Field {
                path: format!("spec.authority.egressRules[{index}].{name}"),
                what,
            };
            let host = rule
                .host
                .parse()
                .map_err(|error| field("host", format!("{error}")))?;
            let protocol = rule.protocol.as_deref().map(str::to_ascii_lowercase);
            let transport = match EgressProtocol::of(protocol.as_deref()) {
                Some(EgressProtocol::Tcp) => FlowProtocol::Tcp,
                Some(EgressProtocol::Udp) => FlowProtocol::Udp,
                None => return Err(field("protocol", "is not known".into())),
            };
            let check = match protocol.as_deref() {
                None => Check::TlsOrHttp,
                Some("tls" | "https") => Check::Tls,
                Some("http") => Check::Http,
                Some(_) => Check::Opaque,
            };
            rules.push(Rule {
                index,
                host,
                port: rule.port,
                transport,
                check,
            });
        }
        Ok(Self { rules })
    }

    /// All of them, in the document's order.
    #[must_use]
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether the cell may ask for this name (lower case, no last dot).
    #[must_use]
    pub fn knows_name(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| rule.host.matches(name))
    }

    /// The rule that lets a connection to this name through.
    #[must_use]
    pub fn for_name(&self, name: &str, port: u16, transport: FlowProtocol) -> Option<&Rule> {
        self.rules
            .iter()
            .filter(|rule| rule.port == port && rule.transport == transport)
            .find(|rule| rule.host.matches(name))
    }

    /// The rule that lets a connection to this address, given as such, through.
    #[must_use]
    pub fn for_address(
        &self,
        address: IpAddr,
        port: u16,
        transport: FlowProtocol,
    ) -> Option<&Rule> {
        let host = EgressHost::Ip(address.to_canonical());
        self.rules
            .iter()
            .filter(|rule| rule.port == port && rule.transport == transport)
            .find(|rule| rule.host.covers(&host))
    }

    /// Whether a TLS connection to this name may present another one, or none.
    #[must_use]
    pub fn accepts_fronting(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether the document names the network of this address, so that a name may resolve to it
    /// although it is private or otherwise special.
    #[must_use]
    pub fn names_network(&self, name: &str, address: IpAddr, port: u16) -> bool {
        let _ = name;
        self.for_address(address, port, FlowProtocol::Tcp).is_some()
    }

    /// The sockets that these rules need.
    #[must_use]
    pub fn needs(&self) -> NetworkNeeds {
        let ports = |transport| -> BTreeSet<u16> {
            self.rules
                .iter()
                .filter(|rule| rule.transport == transport)
                .map(|rule| rule.port)
                .collect()
        };
        NetworkNeeds {
            tcp_ports: ports(FlowProtocol::Tcp),
            udp_ports: ports(FlowProtocol::Udp),
            inbound_sockets: 0,
        }
    }
}
