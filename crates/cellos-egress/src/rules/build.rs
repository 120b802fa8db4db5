//! Rules out of a document.

use std::collections::{HashMap, HashSet};

use cellos_core::{
    admission::{EgressHost, EgressProtocol, ResolverEndpoint},
    document::{AuthorityBundle, DnsAuthority, DnsQueryType, DnsResolverProtocol, EgressRule},
    event::FlowProtocol,
    ports::network::DNS_PORT,
};

use super::{Check, Door, HostIndex, Rule, RuleProblem, Rules};

/// What may be asked for where `allowedQueryTypes` is empty.
const DEFAULT_QUERY_TYPES: [DnsQueryType; 4] = [
    DnsQueryType::A,
    DnsQueryType::Aaaa,
    DnsQueryType::Cname,
    DnsQueryType::Https,
];
/// The port of DNS over QUIC and over TLS; RFC 9250, RFC 7858.
const DOQ_PORT: u16 = 853;
/// The port of HTTP/3.
const HTTP3_PORT: u16 = 443;

/// The field of `dnsAuthority` that blocks a port.
pub(super) fn blocking_field(port: u16) -> &'static str {
    match port {
        DNS_PORT => "authority.dnsAuthority.blockDirectWorkloadDns",
        DOQ_PORT => "authority.dnsAuthority.blockUdpDoq",
        _ => "authority.dnsAuthority.blockUdpHttp3",
    }
}

impl Rules {
    /// The rules of an admitted document.
    ///
    /// # Errors
    /// [`RuleProblem`] for what could not be enforced.
    pub fn of(authority: &AuthorityBundle) -> Result<Self, RuleProblem> {
        let rules = authority
            .egress_rules
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| typed(index, rule))
            .collect::<Result<Vec<_>, _>>()?;
        let mut doors: HashMap<Door, HostIndex> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            doors
                .entry((rule.port, rule.transport))
                .or_default()
                .insert(&rule.host, place);
        }
        let absent = DnsAuthority::default();
        let dns = authority.dns_authority.as_ref().unwrap_or(&absent);
        Ok(Self {
            names: names(&rules, dns)?,
            fronting: fronting(authority)?,
            query_types: match dns.allowed_query_types.as_slice() {
                [] => DEFAULT_QUERY_TYPES.to_vec(),
                declared => declared.to_vec(),
            },
            blocked: blocked(dns),
            response_names: response_names(dns)?,
            rules,
            doors,
            ..Self::default()
        })
    }
}

fn field(path: String, what: impl ToString) -> RuleProblem {
    RuleProblem::Field {
        path,
        what: what.to_string(),
    }
}

fn typed(index: usize, rule: &EgressRule) -> Result<Rule, RuleProblem> {
    let at = |name: &str| format!("spec.authority.egressRules[{index}].{name}");
    let host = rule
        .host
        .parse()
        .map_err(|error| field(at("host"), error))?;
    if rule.port == 0 {
        return Err(field(at("port"), "0 is no port"));
    }
    let protocol = rule.protocol.as_deref().map(str::to_ascii_lowercase);
    let transport = match EgressProtocol::of(protocol.as_deref()) {
        Some(EgressProtocol::Tcp) => FlowProtocol::Tcp,
        Some(EgressProtocol::Udp) => FlowProtocol::Udp,
        None => return Err(field(at("protocol"), "is not a known protocol")),
    };
    let check = match protocol.as_deref() {
        None => Check::TlsOrHttp,
        Some("tls" | "https") => Check::Tls,
        Some("http") => Check::Http,
        Some(_) => Check::Opaque,
    };
    Ok(Rule {
        index,
        host,
        port: rule.port,
        transport,
        check,
    })
}

/// The names that may be asked for.
fn names(rules: &[Rule], dns: &DnsAuthority) -> Result<HostIndex, RuleProblem> {
    let mut names = HostIndex::default();
    for (index, pattern) in dns.hostname_allowlist.iter().enumerate() {
        let path = || format!("spec.authority.dnsAuthority.hostnameAllowlist[{index}]");
        names.insert(&name_pattern(pattern, path)?, index);
    }
    if dns.hostname_allowlist.is_empty() {
        for (place, rule) in rules.iter().enumerate() {
            names.insert(&rule.host, place);
        }
    }
    Ok(names)
}

fn fronting(authority: &AuthorityBundle) -> Result<HostIndex, RuleProblem> {
    let mut fronting = HostIndex::default();
    let providers = authority.cdn_authority.iter().flat_map(|it| &it.providers);
    for (index, provider) in providers.enumerate() {
        let path = || format!("spec.authority.cdnAuthority.providers[{index}].hostnamePattern");
        let pattern = name_pattern(&provider.hostname_pattern, path)?;
        if provider.accept_fronting {
            fronting.insert(&pattern, index);
        }
    }
    Ok(fronting)
}

/// A name, or a domain.
fn name_pattern(text: &str, path: impl Fn() -> String) -> Result<EgressHost, RuleProblem> {
    match text.parse() {
        Ok(host @ (EgressHost::Name(_) | EgressHost::Wildcard(_))) => Ok(host),
        Ok(_) => Err(field(path(), "is no host name pattern")),
        Err(error) => Err(field(path(), error)),
    }
}

/// The ports that are closed, with the resolvers that stay reachable. A resolver for plain DNS is
/// reached over both transports, since a long answer over UDP has to be asked for again over TCP.
fn blocked(dns: &DnsAuthority) -> HashMap<Door, HashSet<EgressHost>> {
    let mut blocked: HashMap<Door, HashSet<EgressHost>> = HashMap::new();
    let tcp_and_udp = [FlowProtocol::Tcp, FlowProtocol::Udp];
    let udp = [FlowProtocol::Udp];
    for (closed, port, transports) in [
        (dns.block_direct_workload_dns, DNS_PORT, &tcp_and_udp[..]),
        (dns.block_udp_doq, DOQ_PORT, &udp),
        (dns.block_udp_http3, HTTP3_PORT, &udp),
    ] {
        for transport in transports.iter().filter(|_| closed) {
            let resolvers = dns
                .resolvers
                .iter()
                .filter(|it| port != DNS_PORT || is_plain(it.protocol))
                .filter_map(|it| ResolverEndpoint::parse(it.protocol, &it.endpoint).ok())
                .filter(|it| it.port() == port)
                .map(|it| it.host())
                .collect();
            blocked.insert((port, *transport), resolvers);
        }
    }
    blocked
}

fn is_plain(protocol: DnsResolverProtocol) -> bool {
    matches!(
        protocol,
        DnsResolverProtocol::Do53Udp | DnsResolverProtocol::Do53Tcp
    )
}

/// `hostname:ip-or-cidr`, by the pattern of the name.
fn response_names(dns: &DnsAuthority) -> Result<HashMap<EgressHost, Vec<EgressHost>>, RuleProblem> {
    let mut all: HashMap<EgressHost, Vec<EgressHost>> = HashMap::new();
    let entries = dns.rebinding_policy.iter();
    let entries = entries.flat_map(|policy| &policy.response_ip_allowlist);
    for (index, entry) in entries.enumerate() {
        let path =
            || format!("spec.authority.dnsAuthority.rebindingPolicy.responseIpAllowlist[{index}]");
        let (name, addresses) = entry
            .split_once(':')
            .ok_or_else(|| field(path(), "allows no address"))?;
        let name = name_pattern(name, path)?;
        match addresses.parse() {
            Ok(host @ (EgressHost::Ip(_) | EgressHost::Cidr(_))) => {
                all.entry(name).or_default().push(host);
            }
            _ => return Err(field(path(), "allows no address")),
        }
    }
    Ok(all)
}
