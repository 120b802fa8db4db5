//! The network of a cell, from the sockets that are asked for to the gateway's last word.

use std::{future::Future, sync::Arc};

use cellos_core::{
    CellosError,
    descriptor::Feature,
    event::NetworkMode,
    ports::{
        CellHandle,
        network::{NetworkGateway, OpenGateway},
    },
};
use tokio::time::timeout;

use super::{Run, Skip};
use crate::{
    RunError, bounds,
    error::{NetworkError, no_answer},
    journal::Journal,
    reports::ReportWriter,
};

/// What there is of a cell's network.
#[derive(Default)]
pub(super) enum Network {
    /// The cell has none, or it has ended.
    #[default]
    None,
    /// The backend was told to make the sockets.
    Prepared(Arc<dyn NetworkGateway>),
    /// The gateway serves it.
    Open(Box<dyn OpenGateway>, ReportWriter),
}

impl Run<'_> {
    /// Has the backend make the sockets that the gateway needs for this document. A document with
    /// egress rules that nobody would enforce goes no further.
    pub(super) async fn prepare_network(&mut self) -> Result<(), NetworkError> {
        // A cell that runs nothing connects nowhere.
        if self.spec.run.is_none() {
            return Ok(());
        }
        let backend = &self.supervisor.backend;
        let Some(gateway) = &self.supervisor.gateway else {
            return self.needs_no_gateway();
        };
        let Some(needs) = gateway.needs(self.spec).map_err(NetworkError::Spec)? else {
            return self.needs_no_gateway();
        };
        let no_sockets = |source| NetworkError::NoSockets {
            backend: self.facts.backend.clone(),
            source,
        };
        let control = backend.workload().ok_or_else(|| {
            no_sockets(CellosError::Host(
                "it gives no control over workloads".into(),
            ))
        })?;
        answer("prepare_network", bounds::QUERY, async {
            control.prepare_network(&self.spec.id, needs).await
        })
        .await
        .map_err(no_sockets)?;
        self.facts.network_mode = Some(gateway.mode());
        self.network = Network::Prepared(Arc::clone(gateway));
        Ok(())
    }

    /// Without a gateway, rules are for a backend that says itself that it enforces them.
    fn needs_no_gateway(&self) -> Result<(), NetworkError> {
        let declares = self
            .spec
            .authority
            .egress_rules
            .as_ref()
            .is_some_and(|rules| !rules.is_empty());
        if declares && !self.supervisor.backend.descriptor().has(Feature::Egress) {
            return Err(NetworkError::NobodyEnforces {
                backend: self.facts.backend.clone(),
            });
        }
        Ok(())
    }

    /// Has the gateway serve the network of the created cell.
    pub(super) async fn open_network(&mut self, cell: &CellHandle) -> Result<(), Skip> {
        let Network::Prepared(gateway) = std::mem::take(&mut self.network) else {
            return Ok(());
        };
        let opened = self.open(&*gateway, cell).await;
        self.network = opened.map_err(|error| self.fail(RunError::Network(error)))?;
        Ok(())
    }

    async fn open(
        &self,
        gateway: &dyn NetworkGateway,
        cell: &CellHandle,
    ) -> Result<Network, NetworkError> {
        let sockets = match self.supervisor.backend.workload() {
            Some(control) => answer("network", bounds::QUERY, control.network(&cell.cell_id)).await,
            None => Err(CellosError::Host("it has none any more".into())),
        }
        .map_err(|source| NetworkError::NoSockets {
            backend: self.facts.backend.clone(),
            source,
        })?;
        let journal = Journal::new(
            Arc::clone(&self.supervisor.events),
            Arc::clone(&self.supervisor.clock),
            self.journal.subject().clone(),
        );
        let (writer, reports) = ReportWriter::start(journal);
        let opening = gateway.open(self.spec, sockets, reports);
        let open = answer("the egress gateway", bounds::NETWORK_OPEN, opening)
            .await
            .map_err(NetworkError::Open)?;
        Ok(Network::Open(open, writer))
    }

    /// Lets reports into the record, after everything that belongs before them, and tells when one
    /// of them cannot be written.
    pub(super) fn release_reports(&mut self) -> impl Future<Output = ()> + use<> {
        let failure = match &mut self.network {
            Network::Open(_, writer) => {
                writer.release();
                Some(writer.failure())
            }
            _ => None,
        };
        async move {
            match failure {
                Some(failure) => failure.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Ends every flow, and returns when each is in the record.
    pub(super) async fn close_network(&mut self) {
        let Network::Open(gateway, writer) = std::mem::take(&mut self.network) else {
            return;
        };
        writer.release();
        match timeout(bounds::NETWORK_CLOSE, gateway.close()).await {
            Ok(Ok(record)) => self.outcome.egress = Some(record),
            Ok(Err(error)) => self.note(Err(RunError::Network(NetworkError::NotClosed(
                error.to_string(),
            )))),
            Err(_) => self.note(Err(RunError::Network(NetworkError::NotClosed(no_answer(
                "the egress gateway",
                bounds::NETWORK_CLOSE,
            ))))),
        }
        let written = writer.finish().await;
        self.note(written);
    }

    /// How strict the gateway of this cell is; nothing for a cell without a network.
    pub(super) fn network_mode(&self) -> Option<NetworkMode> {
        self.facts.network_mode
    }
}

async fn answer<T>(
    what: &str,
    bound: std::time::Duration,
    asked: impl Future<Output = Result<T, CellosError>>,
) -> Result<T, CellosError> {
    timeout(bound, asked)
        .await
        .unwrap_or_else(|_| Err(CellosError::Host(no_answer(what, bound))))
}
