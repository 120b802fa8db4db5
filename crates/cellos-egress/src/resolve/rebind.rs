//! What the document says of names that move: the rebinding policy.

use std::{collections::BTreeSet, net::IpAddr};

use cellos_core::{
    canonical,
    document::DnsRebindingPolicy,
    event::{DnsAuthorityRebindRejected, DnsAuthorityRebindThreshold, NETWORK_SCHEMA_VERSION},
    ports::network::NetworkReport,
};

use super::now;
use crate::rules::{Response, Rules};

/// Addresses that are remembered for one name over a cell's life, and as many that were refused or
/// told of. Beyond that an address counts as new each time, and nothing more is told.
const SEEN_MAX: usize = 256;

/// The policy of a document.
pub(super) struct Rebinding {
    policy: DnsRebindingPolicy,
    digest: String,
}

/// Addresses that a name has led to.
#[derive(Debug, Default)]
pub(super) struct Seen {
    addresses: BTreeSet<IpAddr>,
    told: BTreeSet<IpAddr>,
}

/// What the policy makes of an answer.
#[derive(Debug)]
pub(super) struct Ruling {
    /// Addresses that stay.
    pub(super) allowed: Vec<IpAddr>,
    /// The first that does not.
    pub(super) refused: Option<IpAddr>,
    /// What there is to tell.
    pub(super) reports: Vec<NetworkReport>,
}

impl Rebinding {
    pub(super) fn of(policy: &DnsRebindingPolicy) -> Self {
        let canonical = canonical::canonical_payload(policy).unwrap_or_default();
        Self {
            policy: policy.clone(),
            digest: canonical::sha256_ref(&canonical),
        }
    }

    /// Judges an answer. An address that the document lists for the name is expected, and counts as
    /// neither foreign nor new.
    pub(super) fn judge(
        &self,
        name: &str,
        answer: &super::answer::Answer,
        rules: &Rules,
        seen: &mut Seen,
    ) -> Ruling {
        let rejects = self.policy.reject_on_rebind;
        let mut ruling = Ruling {
            allowed: Vec::new(),
            refused: None,
            reports: Vec::new(),
        };
        for address in answer.addresses.iter().copied() {
            let listed = rules.response(name, address);
            let known = seen.addresses.contains(&address);
            let before = count(seen.addresses.len());
            let with_it = before.saturating_add(u32::from(!known));
            let over = !known && with_it > self.policy.max_novel_ips_per_hostname;
            let report = match listed {
                Response::Listed => None,
                Response::Unlisted => Some(NetworkReport::RebindRejected(Box::new(
                    DnsAuthorityRebindRejected {
                        schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
                        hostname: name.to_owned(),
                        novel_ip: address.to_string(),
                        previous_ip_count: before,
                        cumulative_ip_count: with_it,
                        response_ip_allowlist: self.listed_for(name),
                        policy_digest: self.digest.clone(),
                        resolver_id: answer.resolver_id.clone(),
                        rejected: rejects,
                        issuer_kid: None,
                        observed_at: now(),
                    },
                ))),
                Response::NoList if over => Some(NetworkReport::RebindThreshold(Box::new(
                    DnsAuthorityRebindThreshold {
                        schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
                        hostname: name.to_owned(),
                        novel_ip: address.to_string(),
                        previous_ip_count: before,
                        cumulative_ip_count: with_it,
                        max_novel_ips_per_hostname: self.policy.max_novel_ips_per_hostname,
                        policy_digest: self.digest.clone(),
                        resolver_id: answer.resolver_id.clone(),
                        rejected: rejects,
                        issuer_kid: None,
                        observed_at: now(),
                    },
                ))),
                Response::NoList => None,
            };
            let refused = rejects && report.is_some();
            if let Some(report) = report
                && remember(&mut seen.told, address)
            {
                ruling.reports.push(report);
            }
            if refused {
                ruling.refused.get_or_insert(address);
                continue;
            }
            if listed != Response::Listed {
                remember(&mut seen.addresses, address);
            }
            ruling.allowed.push(address);
        }
        ruling
    }

    /// The entries for a name, as they are written.
    fn listed_for(&self, name: &str) -> Vec<String> {
        self.policy
            .response_ip_allowlist
            .iter()
            .filter(|entry| {
                entry.split_once(':').is_some_and(|(pattern, _)| {
                    pattern
                        .parse::<cellos_core::admission::EgressHost>()
                        .is_ok_and(|pattern| pattern.matches(name))
                })
            })
            .cloned()
            .collect()
    }
}

/// Whether this was new and there was room for it.
fn remember(set: &mut BTreeSet<IpAddr>, address: IpAddr) -> bool {
    set.len() < SEEN_MAX && set.insert(address)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
