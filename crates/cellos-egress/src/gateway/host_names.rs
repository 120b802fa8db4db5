//! Names as this host resolves them, judged by the rules.

use std::net::IpAddr;

use async_trait::async_trait;
use cellos_core::{document::DnsQueryType, event::FlowProtocol};

use crate::{
    resolve::{Records, Resolution, Resolve, ResolveFailure},
    rules::Rules,
};

/// Asks the host's resolver.
pub(super) struct HostNames {
    rules: Rules,
}

impl HostNames {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules }
    }
}

#[async_trait]
impl Resolve for HostNames {
    async fn addresses(&self, name: &str, port: u16) -> Result<Resolution, ResolveFailure> {
        let found: Vec<IpAddr> = tokio::net::lookup_host((name, port))
            .await
            .map_err(|error| ResolveFailure::Unanswered(error.to_string()))?
            .map(|address| address.ip().to_canonical())
            .collect();
        let mut forbidden = ResolveFailure::NoAddress;
        let mut addresses = Vec::new();
        for address in found {
            match self.rules.forbidden(name, address, port, FlowProtocol::Tcp) {
                Some(what) => forbidden = ResolveFailure::Forbidden(address, what),
                None => addresses.push(address),
            }
        }
        if addresses.is_empty() {
            return Err(forbidden);
        }
        Ok(Resolution {
            addresses,
            resolver_id: None,
        })
    }

    async fn records(&self, _name: &str, _kind: DnsQueryType) -> Result<Records, ResolveFailure> {
        Err(ResolveFailure::Unanswered(
            "this host is asked for addresses only".to_owned(),
        ))
    }
}
