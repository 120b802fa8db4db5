//! Real addresses and records of names, from outside of the cell, judged before anybody sees them.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use cellos_core::{
    admission::MAX_RESOLVERS,
    document::{AuthorityBundle, DnsAuthority, DnsQueryType, DnsResolver, DnsResolverProtocol},
    ports::network::NetworkReports,
};

use self::{
    cell::{CellResolver, Drift, Source},
    endpoint::{Endpoint, EndpointProblem},
    keep::Keep,
    rebind::Rebinding,
    server::{Dnssec, Server, Unsigned},
    trust::TrustProblem,
};
use crate::rules::Rules;

mod answer;
mod cell;
mod endpoint;
mod host;
mod keep;
mod rebind;
mod server;
mod trust;

#[cfg(test)]
mod tests;

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// Addresses that may be dialled, best first; never empty. All are judged.
    pub(crate) addresses: Vec<IpAddr>,
    /// The declared resolver that said so.
    pub(crate) resolver_id: Option<String>,
}

/// Records other than addresses, in the form of the wire.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    /// Response code of DNS.
    pub(crate) rcode: u16,
    /// The answers.
    pub(crate) answers: Vec<hickory_proto::rr::Record>,
    /// The declared resolver that said so.
    pub(crate) resolver_id: Option<String>,
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveFailure {
    /// There is no such name, or it has no address.
    #[error("there is no address for this name")]
    NoAddress,
    /// No resolver answered.
    #[error("no resolver answered: {0}")]
    Unanswered(String),
    /// Only addresses that no rule names.
    #[error("it resolves to {0}, which is {1}; name that network in a rule to allow it")]
    Forbidden(IpAddr, &'static str),
    /// Addresses outside of the rebinding policy.
    #[error("it resolves to {0}, which the rebinding policy does not allow")]
    Rebind(IpAddr),
    /// Signatures that do not hold, or are missing.
    #[error("the answer is not validated by DNSSEC: {0}")]
    Dnssec(String),
}

impl ResolveFailure {
    /// The address that the name led to, where that is why.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Forbidden(address, _) | Self::Rebind(address) => Some(*address),
            Self::NoAddress | Self::Unanswered(_) | Self::Dnssec(_) => None,
        }
    }
}

/// Asks outside for what names mean.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// The addresses for one connection to this name and port. Asked anew for each connection; what
    /// may be remembered, and for how long, is the resolver's business.
    async fn addresses(&self, name: &str, port: u16) -> Result<Resolution, ResolveFailure>;

    /// Records of a type that the document allows.
    async fn records(&self, name: &str, kind: DnsQueryType) -> Result<Records, ResolveFailure>;
}

/// Why names cannot be resolved as a document wants it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverProblem {
    /// Too many resolvers.
    #[error("spec.authority.dnsAuthority.resolvers: declares more than {MAX_RESOLVERS}")]
    TooMany,
    /// An endpoint that cannot be asked.
    #[error("spec.authority.dnsAuthority.resolvers[{index}].endpoint: {problem}")]
    Endpoint {
        /// Which resolver.
        index: usize,
        /// What is wrong.
        problem: EndpointProblem,
    },
    /// Nothing to trust in TLS.
    #[error("spec.authority.dnsAuthority.resolvers[{index}]: {problem}")]
    Tls {
        /// Which resolver.
        index: usize,
        /// What is wrong.
        problem: TrustProblem,
    },
    /// Nothing to trust in DNSSEC.
    #[error("spec.authority.dnsAuthority.resolvers[{index}].dnssec.trustAnchorsPath: {problem}")]
    Anchors {
        /// Which resolver.
        index: usize,
        /// What is wrong.
        problem: TrustProblem,
    },
}

/// The resolver of a cell with this authority: the resolvers that it declares, or else the host's
/// own. What is amiss with answers goes to `reports`.
pub(crate) fn resolver_for(
    authority: &AuthorityBundle,
    rules: &Rules,
    reports: Arc<dyn NetworkReports>,
) -> Result<Arc<dyn Resolve>, ResolverProblem> {
    let bundle = std::env::var_os(trust::CA_BUNDLE);
    let none = DnsAuthority::default();
    let dns = authority.dns_authority.as_ref().unwrap_or(&none);
    let source = match dns.resolvers.as_slice() {
        [] => Source::Host(Box::new(Server::of_host())),
        declared => Source::Declared(servers(declared, bundle.as_deref())?),
    };
    let drift = match dns.refresh_policy {
        Some(_) => Drift::Told,
        None => Drift::Ignored,
    };
    let resolver = CellResolver::new(
        source,
        rules.clone(),
        (Keep::of(dns.refresh_policy), drift),
        dns.rebinding_policy.as_ref().map(Rebinding::of),
        reports,
    );
    Ok(Arc::new(resolver.with_kids(&dns.resolvers)))
}

fn servers(
    declared: &[DnsResolver],
    bundle: Option<&std::ffi::OsStr>,
) -> Result<Vec<Server>, ResolverProblem> {
    if declared.len() > MAX_RESOLVERS {
        return Err(ResolverProblem::TooMany);
    }
    let mut tls = None;
    let mut servers = Vec::new();
    for (index, resolver) in declared.iter().enumerate() {
        let endpoint = Endpoint::of(resolver.protocol, &resolver.endpoint)
            .map_err(|problem| ResolverProblem::Endpoint { index, problem })?;
        let speaks_tls = matches!(
            resolver.protocol,
            DnsResolverProtocol::Dot | DnsResolverProtocol::Doh
        );
        if speaks_tls && tls.is_none() {
            let config =
                trust::tls(bundle).map_err(|problem| ResolverProblem::Tls { index, problem })?;
            tls = Some(config);
        }
        let dnssec =
            dnssec(resolver).map_err(|problem| ResolverProblem::Anchors { index, problem })?;
        let tls = tls.clone().filter(|_| speaks_tls);
        let id = resolver.resolver_id.clone();
        servers.push(Server::declared(id, endpoint, tls, dnssec));
    }
    Ok(servers)
}

fn dnssec(resolver: &DnsResolver) -> Result<Option<Dnssec>, TrustProblem> {
    let Some(policy) = resolver.dnssec.as_ref().filter(|policy| policy.validate) else {
        return Ok(None);
    };
    let (anchors, anchors_name) = trust::anchors(policy.trust_anchors_path.as_deref())?;
    Ok(Some(Dnssec {
        anchors: Arc::new(anchors),
        anchors_name,
        unsigned: match policy.fail_closed {
            true => Unsigned::Refused,
            false => Unsigned::Taken,
        },
    }))
}

/// Now, as events say it.
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}
