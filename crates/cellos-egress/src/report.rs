//! What is told about flows and queries: counted, and with refusals summed up where there are many.
//!
//! Each flow that was let through has an event. Refusals and queries are cheap to make for a cell,
//! so of each kind only the first ones have events of their own; what comes beyond the budget is
//! counted, and told in one event with `count` at intervals and at the end. Nothing is dropped: who
//! has something to tell waits until the record takes it, and when the record takes no more the
//! gateway is halted.

mod budget;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_core::{
    event::{
        DnsQuery, EgressRecord, FlowDirection, FlowProtocol, FlowReason, NetworkFlowDecision,
        NetworkVerdict, QueryReason,
    },
    ports::network::{NetworkReport, NetworkReports},
};
use tokio::sync::watch;

use budget::{Budget, Turn};

/// Refusals, and queries, of one kind that have an event of their own before they are summed up.
pub(crate) const OWN_EVENTS: u32 = 64;
/// How long until a kind may have one more event of its own.
pub(crate) const OWN_EVENT_AGAIN: Duration = Duration::from_secs(60);
/// How often what was summed up is told.
pub(crate) const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// Tells what happened in one cell's network.
pub(crate) struct Reporter {
    reports: Arc<dyn NetworkReports>,
    counts: Counts,
    exercised: Mutex<BTreeSet<usize>>,
    flows: Mutex<Budget<FlowKind, NetworkFlowDecision>>,
    queries: Mutex<Budget<QueryKind, DnsQuery>>,
    halted: watch::Sender<bool>,
}

/// The record takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what happens on the network can no longer be recorded")]
pub(crate) struct Unrecorded;

#[derive(Debug, Default)]
struct Counts {
    allowed: AtomicU64,
    refused: AtomicU64,
    queries_refused: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    summed_up: AtomicU64,
}

/// What refused flows are summed up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKind {
    reason: FlowReason,
    direction: FlowDirection,
    protocol: Option<FlowProtocol>,
    destination: DestinationKind,
}

/// What a cell wanted to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DestinationKind {
    Name,
    V4,
    V6,
    Nothing,
}

/// What queries are summed up by.
type QueryKind = (NetworkVerdict, QueryReason);

impl FlowKind {
    fn of(flow: &NetworkFlowDecision) -> Self {
        let address = || flow.dst_addr.as_deref()?.parse::<IpAddr>().ok();
        Self {
            reason: flow.reason_code,
            direction: flow.direction,
            protocol: flow.protocol,
            destination: match (&flow.requested_name, address()) {
                (Some(_), _) => DestinationKind::Name,
                (None, Some(IpAddr::V4(_))) => DestinationKind::V4,
                (None, Some(IpAddr::V6(_))) => DestinationKind::V6,
                (None, None) => DestinationKind::Nothing,
            },
        }
    }
}

impl Reporter {
    /// Tells these reports.
    pub(crate) fn new(reports: Arc<dyn NetworkReports>) -> Self {
        Self {
            reports,
            counts: Counts::default(),
            exercised: Mutex::default(),
            flows: Mutex::default(),
            queries: Mutex::default(),
            halted: watch::Sender::new(false),
        }
    }

    /// One flow that ended, or a refusal. Waits while the record has no room.
    pub(crate) async fn flow(&self, flow: NetworkFlowDecision) -> Result<(), Unrecorded> {
        match flow.decision {
            NetworkVerdict::Allow => {
                add(&self.counts.allowed, 1);
                add(&self.counts.bytes_out, flow.bytes_out.unwrap_or(0));
                add(&self.counts.bytes_in, flow.bytes_in.unwrap_or(0));
                if let Some(index) = flow.nft_rule_ref.as_deref().and_then(rule_index) {
                    lock(&self.exercised).insert(index);
                }
                self.tell(NetworkReport::Flow(Box::new(flow))).await
            }
            NetworkVerdict::Deny => {
                let count = flow.count.unwrap_or(1);
                add(&self.counts.refused, count);
                let kind = FlowKind::of(&flow);
                let turn = lock(&self.flows).take(kind, flow, count, Instant::now());
                match turn {
                    Turn::Own(flow) => self.tell(NetworkReport::Flow(Box::new(flow))).await,
                    Turn::SummedUp => self.sum_up(count),
                }
            }
        }
    }

    /// One name query. Waits while the record has no room.
    pub(crate) async fn query(&self, query: DnsQuery) -> Result<(), Unrecorded> {
        let count = query.count.unwrap_or(1);
        if query.decision == NetworkVerdict::Deny {
            add(&self.counts.queries_refused, count);
        }
        let kind = (query.decision, query.reason_code);
        let turn = lock(&self.queries).take(kind, query, count, Instant::now());
        match turn {
            Turn::Own(query) => self.tell(NetworkReport::Query(Box::new(query))).await,
            Turn::SummedUp => self.sum_up(count),
        }
    }

    /// Tells what was summed up since the last time.
    pub(crate) async fn flush(&self) -> Result<(), Unrecorded> {
        let flows = lock(&self.flows).drain();
        for (mut flow, count) in flows {
            flow.detail = Some(summary(count, flow.detail.as_deref()));
            flow.count = Some(count);
            self.tell(NetworkReport::Flow(Box::new(flow))).await?;
        }
        let queries = lock(&self.queries).drain();
        for (mut query, count) in queries {
            query.count = Some(count);
            self.tell(NetworkReport::Query(Box::new(query))).await?;
        }
        Ok(())
    }

    /// Tells what was summed up at intervals, until the record takes no more.
    pub(crate) async fn flush_at_intervals(&self) -> Unrecorded {
        loop {
            tokio::time::sleep(SUMMARY_EVERY).await;
            if let Err(unrecorded) = self.flush().await {
                return unrecorded;
            }
        }
    }

    /// Whether nothing may be let through any more, because it could not be recorded.
    pub(crate) fn is_halted(&self) -> bool {
        *self.halted.borrow()
    }

    /// Returns when nothing may be let through any more.
    pub(crate) async fn halted(&self) {
        // The sender lives as long as this does.
        let _ = self.halted.subscribe().wait_for(|halted| *halted).await;
    }

    /// Lets nothing through any more.
    pub(crate) fn halt(&self) {
        self.halted.send_replace(true);
    }

    /// What it all came to, but for what only the document says.
    pub(crate) fn record(&self) -> EgressRecord {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EgressRecord {
            exercised_rules: lock(&self.exercised).iter().copied().collect(),
            flows_allowed: get(&self.counts.allowed),
            flows_refused: get(&self.counts.refused),
            queries_refused: get(&self.counts.queries_refused),
            bytes_out: get(&self.counts.bytes_out),
            bytes_in: get(&self.counts.bytes_in),
            summed_up: get(&self.counts.summed_up),
            ..EgressRecord::default()
        }
    }

    async fn tell(&self, report: NetworkReport) -> Result<(), Unrecorded> {
        if self.is_halted() {
            return Err(Unrecorded);
        }
        self.reports.report(report).await.map_err(|error| {
            tracing::error!(%error, "the record takes no more; the gateway lets nothing through");
            self.halt();
            Unrecorded
        })
    }

    fn sum_up(&self, count: u64) -> Result<(), Unrecorded> {
        add(&self.counts.summed_up, count);
        match self.is_halted() {
            true => Err(Unrecorded),
            false => Ok(()),
        }
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter")
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// The rule that [`Rule::reference`](crate::Rule::reference) names.
fn rule_index(reference: &str) -> Option<usize> {
    let rest = reference.strip_prefix("authority.egressRules[")?;
    rest.strip_suffix(']')?.parse().ok()
}

fn summary(count: u64, last: Option<&str>) -> String {
    let refusals = if count == 1 { "refusal" } else { "refusals" };
    match last {
        Some(last) => format!("{count} {refusals} of this kind, this one last: {last}"),
        None => format!("{count} {refusals} of this kind, this one last"),
    }
}
