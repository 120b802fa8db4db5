//! Applying policy packs to documents.

use std::fmt;

use serde::Serialize;

use super::{
    HostPattern, PolicyPackSpec, PolicyRule, PolicyRules, ScopeDecision, check_secret_refs,
    pack_scope,
};
use crate::{
    ExecutionCellSpec,
    document::{EgressRule, PlacementSpec, RunLimits, SecretDeliveryMode},
};

/// Port of DNS over UDP and TCP, RFC 1035.
const DNS_PORT: u16 = 53;
/// The protocol word by which a document acknowledges that it opens plain DNS.
const DNS_ACKNOWLEDGED: &str = "dns-acknowledged";

/// What is known about a request apart from its document.
#[derive(Debug, Clone, Copy)]
pub struct PolicyContext<'a> {
    /// Where this host is; it decides which packs apply. `None` when the host does not know.
    pub host_placement: Option<&'a PlacementSpec>,
    /// Who asks, [`super::DEFAULT_CALLER`] when nothing else is known.
    pub caller: &'a str,
}

/// One rule that a document breaks. Serialises to the form that rejection events carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyViolation {
    /// The rule.
    pub rule: PolicyRule,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for PolicyViolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}] {}", self.rule, self.message)
    }
}

/// A document that breaks no rule, with the packs' caps filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyAdmission {
    /// The specification to run. Hashes of the document are taken over the original.
    pub effective: ExecutionCellSpec,
    /// The limits that came from packs.
    pub caps: Vec<AppliedCap>,
    /// Ids of the packs that applied, in the order given.
    pub applied_packs: Vec<String>,
}

/// A limit that a pack supplied because the document set none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedCap {
    /// Id of the pack.
    pub pack_id: String,
    /// The field.
    pub field: CappedField,
    /// Its value: bytes or milliseconds.
    pub value: u64,
}

/// A field that a pack supplies when a document leaves it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CappedField {
    /// `run.limits.memoryMaxBytes`.
    MemoryMaxBytes,
    /// `run.timeoutMs`.
    TimeoutMs,
}

/// Applies packs to a document: all of them that are for this place, each on its own.
///
/// # Errors
/// Every violation of every pack.
pub fn admit_under_packs(
    spec: &ExecutionCellSpec,
    packs: &[&PolicyPackSpec],
    context: &PolicyContext<'_>,
) -> Result<PolicyAdmission, Vec<PolicyViolation>> {
    let violations: Vec<_> = packs
        .iter()
        .flat_map(|pack| validate_spec_against_policy(spec, pack, context))
        .collect();
    if !violations.is_empty() {
        return Err(violations);
    }
    let applied: Vec<_> = packs
        .iter()
        .copied()
        .filter(|pack| applies(spec, pack, context))
        .collect();
    let mut effective = spec.clone();
    let caps = fill_in_caps(&mut effective, &applied);
    let applied_packs = applied.iter().map(|pack| pack.id.clone()).collect();
    Ok(PolicyAdmission {
        effective,
        caps,
        applied_packs,
    })
}

/// Every rule of one pack that a document breaks; none when the pack is for elsewhere.
///
/// A limit that the document leaves out breaks no cap, because the cap becomes the limit: run the
/// document that [`admit_under_packs`] returns.
#[must_use]
pub fn validate_spec_against_policy(
    spec: &ExecutionCellSpec,
    pack: &PolicyPackSpec,
    context: &PolicyContext<'_>,
) -> Vec<PolicyViolation> {
    if !applies(spec, pack, context) {
        return Vec::new();
    }
    let rules = &pack.rules;
    let mut found = Violations(Vec::new());
    check_bounds(spec, rules, &mut found);
    check_egress(spec, rules, &mut found);
    check_dns_egress(spec, rules, &mut found);
    check_run(spec, rules, &mut found);
    for denial in check_secret_refs(spec, rules, context.caller) {
        found.add(PolicyRule::SecretRefAllowlist, denial.to_string());
    }
    found.0
}

fn applies(spec: &ExecutionCellSpec, pack: &PolicyPackSpec, context: &PolicyContext<'_>) -> bool {
    let decision = pack_scope(
        pack.placement.as_ref(),
        spec.placement.as_ref(),
        context.host_placement,
    );
    decision != ScopeDecision::Elsewhere
}

struct Violations(Vec<PolicyViolation>);

impl Violations {
    fn add(&mut self, rule: PolicyRule, message: String) {
        self.0.push(PolicyViolation { rule, message });
    }

    fn bound(&mut self, rule: PolicyRule, field: &str, value: Option<u64>, max: Option<u64>) {
        if let (Some(value), Some(max)) = (value, max)
            && value > max
        {
            self.add(
                rule,
                format!("{field} is {value}, the most allowed is {max}"),
            );
        }
    }
}

fn check_bounds(spec: &ExecutionCellSpec, rules: &PolicyRules, found: &mut Violations) {
    let run = spec.run.as_ref();
    found.bound(
        PolicyRule::MaxLifetimeTtlSeconds,
        "lifetime.ttlSeconds",
        Some(spec.lifetime.ttl_seconds),
        rules.max_lifetime_ttl_seconds,
    );
    found.bound(
        PolicyRule::MaxMemoryMaxBytes,
        "run.limits.memoryMaxBytes",
        run.and_then(|run| run.limits.as_ref()?.memory_max_bytes),
        rules.max_memory_max_bytes,
    );
    found.bound(
        PolicyRule::MaxRunTimeoutMs,
        "run.timeoutMs",
        run.and_then(|run| run.timeout_ms),
        rules.max_run_timeout_ms,
    );
}

fn check_egress(spec: &ExecutionCellSpec, rules: &PolicyRules, found: &mut Violations) {
    let egress = egress_rules(spec);
    if rules.require_egress_declared && egress.is_empty() {
        found.add(
            PolicyRule::RequireEgressDeclared,
            "authority.egressRules must declare at least one rule".to_owned(),
        );
    }
    if rules.forbid_outbound_egress_rules && !egress.is_empty() {
        found.add(
            PolicyRule::ForbidOutboundEgressRules,
            format!(
                "authority.egressRules must be empty, found {} rules",
                egress.len()
            ),
        );
    }
    if rules.allowed_egress_hosts.is_empty() {
        return;
    }
    // A pattern that cannot be read allows nothing; packs that hold one are refused on loading.
    let allowed: Vec<HostPattern> = rules
        .allowed_egress_hosts
        .iter()
        .filter_map(|pattern| pattern.parse().ok())
        .collect();
    for (index, rule) in egress.iter().enumerate() {
        let matches = rule
            .host
            .parse::<HostPattern>()
            .is_ok_and(|host| allowed.iter().any(|pattern| pattern.contains(&host)));
        if !matches {
            found.add(
                PolicyRule::AllowedEgressHosts,
                format!(
                    "authority.egressRules[{index}].host {:?} is not allowed",
                    rule.host
                ),
            );
        }
    }
}

fn check_dns_egress(spec: &ExecutionCellSpec, rules: &PolicyRules, found: &mut Violations) {
    let dns = || {
        egress_rules(spec)
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.port == DNS_PORT)
    };
    if rules.flag_dns_egress_without_acknowledgment == Some(true) {
        let plain: Vec<_> = dns()
            .filter(|(_, rule)| !is_acknowledged(rule))
            .map(|(index, _)| format!("authority.egressRules[{index}]"))
            .collect();
        if !plain.is_empty() {
            found.add(
                PolicyRule::FlagDnsEgressWithoutAcknowledgment,
                format!(
                    "{} opens port {DNS_PORT}; set protocol to {DNS_ACKNOWLEDGED} or drop the rule",
                    plain.join(", ")
                ),
            );
        }
    }
    if rules.require_dns_egress_justification == Some(true) {
        for (index, rule) in dns().filter(|(_, rule)| is_acknowledged(rule)) {
            let reason = rule.dns_egress_justification.as_deref().unwrap_or_default();
            if reason.trim().is_empty() {
                found.add(
                    PolicyRule::RequireDnsEgressJustification,
                    format!("authority.egressRules[{index}].dnsEgressJustification must say why"),
                );
            }
        }
    }
}

/// Rules about the workload; a cell that runs nothing breaks none of them.
fn check_run(spec: &ExecutionCellSpec, rules: &PolicyRules, found: &mut Violations) {
    let Some(run) = &spec.run else {
        return;
    };
    let has_secrets = spec
        .authority
        .secret_refs
        .as_ref()
        .is_some_and(|refs| !refs.is_empty());
    if rules.require_runtime_secret_delivery
        && has_secrets
        && run.secret_delivery == SecretDeliveryMode::Env
    {
        found.add(
            PolicyRule::RequireRuntimeSecretDelivery,
            "run.secretDelivery must be runtimeBroker or runtimeLeasedBroker, found env".to_owned(),
        );
    }
    if rules.require_resource_limits {
        let limits = run.limits.as_ref();
        let memory = limits.and_then(|limits| limits.memory_max_bytes);
        if memory.or(rules.max_memory_max_bytes).is_none() {
            found.add(
                PolicyRule::RequireResourceLimits,
                "run.limits.memoryMaxBytes must be set".to_owned(),
            );
        }
        if limits.and_then(|limits| limits.cpu_max).is_none() {
            found.add(
                PolicyRule::RequireResourceLimits,
                "run.limits.cpuMax must be set".to_owned(),
            );
        }
    }
}

/// Fills in what the document leaves out; the lowest cap of all packs counts.
fn fill_in_caps(spec: &mut ExecutionCellSpec, packs: &[&PolicyPackSpec]) -> Vec<AppliedCap> {
    let Some(run) = &mut spec.run else {
        return Vec::new();
    };
    let lowest = |field, cap: fn(&PolicyRules) -> Option<u64>| {
        packs
            .iter()
            .filter_map(|pack| {
                cap(&pack.rules).map(|value| AppliedCap {
                    pack_id: pack.id.clone(),
                    field,
                    value,
                })
            })
            .min_by_key(|cap| cap.value)
    };
    let mut caps = Vec::new();
    if run
        .limits
        .as_ref()
        .is_none_or(|limits| limits.memory_max_bytes.is_none())
        && let Some(cap) = lowest(CappedField::MemoryMaxBytes, |rules| {
            rules.max_memory_max_bytes
        })
    {
        run.limits
            .get_or_insert(RunLimits {
                memory_max_bytes: None,
                cpu_max: None,
                graceful_shutdown_seconds: None,
                pids_max: None,
            })
            .memory_max_bytes = Some(cap.value);
        caps.push(cap);
    }
    // A timeout beyond the lifetime is no valid document, and the lifetime ends the run anyway.
    let lifetime_ms = spec.lifetime.ttl_seconds.saturating_mul(1000);
    if run.timeout_ms.is_none()
        && let Some(cap) = lowest(CappedField::TimeoutMs, |rules| rules.max_run_timeout_ms)
        && cap.value < lifetime_ms
    {
        run.timeout_ms = Some(cap.value);
        caps.push(cap);
    }
    caps
}

fn egress_rules(spec: &ExecutionCellSpec) -> &[EgressRule] {
    spec.authority.egress_rules.as_deref().unwrap_or_default()
}

fn is_acknowledged(rule: &EgressRule) -> bool {
    rule.protocol
        .as_deref()
        .is_some_and(|word| word.eq_ignore_ascii_case(DNS_ACKNOWLEDGED))
}
