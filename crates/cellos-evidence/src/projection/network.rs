//! What a run did with its network: its decisions, their sums, and what its end says of them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    grants,
    parts::EndView,
    step::Step,
    take::{cut, items},
    view::RunView,
};
use crate::{
    facts::{DataFacts, EgressRecordFacts, Facts},
    finding::{Finding, FindingKind, Place},
};

/// What `declared.networkMode` says of a run whose network lets everything through.
const LEARN: &str = "learn";
/// The reason of flows that were let through to learn what a run needs.
const LEARNED: &str = "learned";
/// Reasons of flows that the published firewall lets through for itself.
const OWN_REASONS: [&str; 2] = ["nft_resolver_allowlist_match", "egress_declared_allowlist"];

/// Where a decision about the network was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowLayer {
    /// Packets, or connections as a whole.
    Packet,
    /// The name a connection asks for.
    Name,
    /// A name query.
    Query,
}

/// One decision about the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// Where it was made.
    pub layer: FlowLayer,
    /// Its id.
    pub id: Option<String>,
    /// `allow` or `deny`.
    pub decision: String,
    /// `egress` or `ingress`.
    pub direction: Option<String>,
    /// Address or name.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u64>,
    /// Protocol.
    pub protocol: Option<String>,
    /// Type of a name query.
    pub query_type: Option<String>,
    /// Name that the cell asked for.
    pub requested_name: Option<String>,
    /// Name that the bytes carried instead.
    pub presented_name: Option<String>,
    /// Why.
    pub reason_code: Option<String>,
    /// More about that.
    pub detail: Option<String>,
    /// The rule, as the event names it.
    pub rule: Option<String>,
    /// Bytes out of the cell.
    pub bytes_out: Option<u64>,
    /// Bytes into the cell.
    pub bytes_in: Option<u64>,
    /// How long it lasted, in milliseconds.
    pub duration_ms: Option<u64>,
    /// How it ended.
    pub ended_by: Option<String>,
    /// How many decisions it sums up; one where nothing is said.
    pub count: Option<u64>,
    /// Whether it is about a connection out of the cell that the document has to declare.
    pub needs_rule: bool,
    /// When it was told.
    pub at: Option<Timestamp>,
    /// Where the event stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

impl FlowView {
    /// The decision that an event tells; `None` for events that tell none. Long texts are cut.
    #[must_use]
    pub fn of(facts: &Facts<'_>, place: &Place) -> Option<Self> {
        let data = facts.data.as_deref()?;
        let step = Step::of(&facts.ty)?;
        if !matches!(step, Step::Flow | Step::Name | Step::Query) {
            return None;
        }
        let at = facts.time.as_deref().and_then(|time| time.parse().ok());
        Self::read(step, data, at, place, &mut |text| cut(text).to_owned())
    }

    /// The same, with texts as `text` keeps them. `None` where nothing was decided.
    pub(super) fn read(
        step: Step,
        data: &DataFacts<'_>,
        at: Option<Timestamp>,
        place: &Place,
        text: &mut dyn FnMut(&str) -> String,
    ) -> Option<Self> {
        let (layer, decision, host, id) = match step {
            Step::Name => (FlowLayer::Name, &data.action, &data.sni_host, &None),
            Step::Query => (
                FlowLayer::Query,
                &data.decision,
                &data.query_name,
                &data.query_id,
            ),
            _ => (
                FlowLayer::Packet,
                &data.decision,
                &data.dst_addr,
                &data.decision_id,
            ),
        };
        let decision = decision.as_deref()?;
        let reason = data.reason_code.as_deref();
        let needs_rule = decision == "allow"
            && layer != FlowLayer::Query
            && data.direction.as_deref() != Some("ingress")
            && !reason.is_some_and(|reason| reason == LEARNED || OWN_REASONS.contains(&reason));
        let mut kept = |value: Option<&str>| value.map(&mut *text);
        Some(Self {
            layer,
            id: kept(id.as_deref()),
            decision: kept(Some(decision)).unwrap_or_default(),
            direction: kept(data.direction.as_deref()),
            host: kept(host.as_deref()),
            port: data.dst_port,
            protocol: kept(data.protocol.as_deref()),
            query_type: kept(data.query_type.as_deref()),
            requested_name: kept(data.requested_name.as_deref()),
            presented_name: kept(data.presented_name.as_deref()),
            reason_code: kept(reason),
            detail: kept(data.detail.as_deref()),
            rule: kept(data.nft_rule_ref.as_deref()),
            bytes_out: data.bytes_out,
            bytes_in: data.bytes_in,
            duration_ms: data.duration_ms,
            ended_by: kept(data.ended_by.as_deref()),
            count: data.count,
            needs_rule,
            at,
            place: place.clone(),
        })
    }

    /// Whether it was let through.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decision == "allow"
    }

    /// How many decisions it stands for.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.count.unwrap_or(1)
    }

    /// The place in the document of the rule that decided.
    #[must_use]
    pub fn rule_index(&self) -> Option<u64> {
        self.rule.as_deref().and_then(grants::rule_index)
    }
}

/// Sums over all decisions of a run, those that are not kept included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkTotals {
    /// Flows that were let through.
    pub allowed: u64,
    /// Flows that were refused.
    pub refused: u64,
    /// Name queries that were refused.
    pub queries_refused: u64,
    /// Bytes out of the cell.
    pub bytes_out: u64,
    /// Bytes into the cell.
    pub bytes_in: u64,
    /// Flows that were let through to learn what the run needs.
    pub learned: u64,
    /// Places of the rules that let something through.
    pub rules: BTreeSet<u64>,
    /// Whether the run says that its network lets everything through.
    pub learning: bool,
    /// Whether every rule that let something through is in `rules`.
    #[serde(skip)]
    rules_cut: bool,
}

/// What the end of a run says about its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressView {
    /// How many rules are declared.
    pub declared_rules: Option<u64>,
    /// Places of the rules that let something through.
    pub exercised_rules: BTreeSet<u64>,
    /// Flows that were let through.
    pub flows_allowed: Option<u64>,
    /// Flows that were refused.
    pub flows_refused: Option<u64>,
    /// Name queries that were refused.
    pub queries_refused: Option<u64>,
    /// Bytes out of the cell.
    pub bytes_out: Option<u64>,
    /// Bytes into the cell.
    pub bytes_in: Option<u64>,
    /// Whether everything was let through.
    pub learning: bool,
}

/// Adds a decision to the sums.
pub(super) fn count(view: &mut RunView, flow: &FlowView) {
    let times = flow.times();
    let rule = flow.rule_index().filter(|_| flow.is_allowed());
    let totals = &mut view.network;
    let add = |sum: &mut u64, more: Option<u64>| *sum = sum.saturating_add(more.unwrap_or(0));
    match (flow.layer, flow.is_allowed()) {
        // Of the published implementation, which tells the same connection on two layers.
        (FlowLayer::Name, _) | (FlowLayer::Query, true) => return,
        (FlowLayer::Query, false) => return add(&mut totals.queries_refused, Some(times)),
        (FlowLayer::Packet, true) => add(&mut totals.allowed, Some(times)),
        (FlowLayer::Packet, false) => add(&mut totals.refused, Some(times)),
    }
    add(&mut totals.bytes_out, flow.bytes_out);
    add(&mut totals.bytes_in, flow.bytes_in);
    if flow.reason_code.as_deref() == Some(LEARNED) && flow.is_allowed() {
        add(&mut totals.learned, Some(times));
    }
    if let Some(rule) = rule
        && !view.network.rules.contains(&rule)
    {
        match view.takes(size_of::<u64>()) {
            true => drop(view.network.rules.insert(rule)),
            false => view.network.rules_cut = true,
        }
    }
}

/// Takes in what the start says of the network's mode.
pub(super) fn mode(view: &mut RunView, mode: Option<&str>, findings: &mut Vec<Finding>) {
    if mode == Some(LEARN)
        && let Some(place) = view.started.as_ref().map(|started| started.place.clone())
    {
        learning(view, &place, findings);
    }
}

fn learning(view: &mut RunView, place: &Place, findings: &mut Vec<Finding>) {
    if !std::mem::replace(&mut view.network.learning, true) {
        let detail = "ran with a permissive gateway, to learn what it needs: its connections \
                      were not held to its document";
        view.find(findings, place, FindingKind::LearnedNetwork, detail);
    }
}

/// What the end of a run says.
pub(super) fn record(view: &mut RunView, facts: &EgressRecordFacts<'_>) -> EgressView {
    let mut exercised = BTreeSet::new();
    for rule in items(facts.exercised_rules.as_ref()) {
        if view.takes(size_of::<u64>()) {
            exercised.insert(*rule);
        }
    }
    EgressView {
        declared_rules: facts.declared_rules,
        exercised_rules: exercised,
        flows_allowed: facts.flows_allowed,
        flows_refused: facts.flows_refused,
        queries_refused: facts.queries_refused,
        bytes_out: facts.bytes_out,
        bytes_in: facts.bytes_in,
        learning: facts.learning == Some(true),
    }
}

/// Compares what the end says with what the events told.
pub(super) fn check(view: &mut RunView, end: &EndView, findings: &mut Vec<Finding>) {
    if end.egress.as_ref().is_some_and(|egress| egress.learning) {
        learning(view, &end.place, findings);
    }
    let totals = view.network.clone();
    if totals.learned > 0 && !totals.learning {
        let detail = format!(
            "{} connections were let through to learn, and the run does not say that it learns",
            totals.learned
        );
        view.find(findings, &end.place, FindingKind::UndeclaredFlow, detail);
    }
    let Some(egress) = &end.egress else { return };
    let declared = view
        .declared
        .as_ref()
        .filter(|declared| declared.complete)
        .map(|declared| declared.egress_rules.len() as u64);
    let mut details = Vec::new();
    let mut same = |what: &str, told: Option<u64>, ends: Option<u64>| {
        if let (Some(told), Some(ends)) = (told, ends)
            && told != ends
        {
            details.push(format!("the end counts {ends} {what}, the events {told}"));
        }
    };
    same("declared rules", declared, egress.declared_rules);
    same(
        "flows let through",
        Some(totals.allowed),
        egress.flows_allowed,
    );
    same("flows refused", Some(totals.refused), egress.flows_refused);
    same(
        "queries refused",
        Some(totals.queries_refused),
        egress.queries_refused,
    );
    same("bytes out", Some(totals.bytes_out), egress.bytes_out);
    same("bytes in", Some(totals.bytes_in), egress.bytes_in);
    if !totals.rules_cut && !view.cut && totals.rules != egress.exercised_rules {
        details.push(format!(
            "the end names the exercised rules {:?}, the events {:?}",
            egress.exercised_rules, totals.rules
        ));
    }
    for detail in details {
        view.find(findings, &end.place, FindingKind::NetworkMismatch, detail);
    }
}
