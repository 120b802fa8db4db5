//! Real addresses and records of names, from outside of the cell, judged before anybody sees them.

use std::net::IpAddr;

use async_trait::async_trait;
use cellos_core::document::DnsQueryType;

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

/// Asks outside for what names mean.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// The addresses for one connection to this name and port. Asked anew for each connection; what
    /// may be remembered, and for how long, is the resolver's business.
    async fn addresses(&self, name: &str, port: u16) -> Result<Resolution, ResolveFailure>;

    /// Records of a type that the document allows.
    async fn records(&self, name: &str, kind: DnsQueryType) -> Result<Records, ResolveFailure>;
}
