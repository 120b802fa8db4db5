//! The gateway of a cell: accepts what the cell connects to, decides, and carries it.

mod accept;
mod datagrams;
mod descriptors;
mod flow;
mod opening;
mod refused;
mod slots;
#[cfg(test)]
pub(crate) mod tests;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellSpec,
    event::{EgressRecord, NetworkMode},
    ports::network::{CellNetwork, NetworkGateway, NetworkNeeds, NetworkReports, OpenGateway},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    dial::Upstream,
    dns::NameServer,
    learn::Learned,
    names::Names,
    publish::{self, Publish, Published},
    ranges::OwnAddresses,
    refusals::Refusals,
    relay::{Patience, Pipes},
    report::Reporter,
    resolve::{Resolve, resolver_for},
    rules::Rules,
    udp::{CellSocket, Flows},
};
use slots::{CellSlots, ProcessSlots};

/// How long the end of a cell waits for its flows to be told, once they were told to end. The record
/// takes what it has room for meanwhile.
pub(crate) const CLOSE_TIME: Duration = Duration::from_secs(10);

/// Connections from outside that a cell with published ports can have at once; each is a socket that
/// is made with the cell.
pub(crate) const INBOUND_SOCKETS: u16 = 32;

/// How strict a gateway is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the document declares, and nothing else.
    #[default]
    Enforce,
    /// Everything, to learn what a document would have to declare.
    Learn,
}

/// What the operator says of the gateway.
#[derive(Debug, Clone, Default)]
pub struct GatewayConfig {
    /// How strict it is.
    pub mode: Mode,
    /// What connections to the outside go through.
    pub upstream: Upstream,
    /// Ports of the cell that are open to the host.
    pub publish: Vec<Publish>,
    /// Told of each of them when it is open, with the port that the host gave.
    pub published: Option<fn(Publish)>,
    /// Collects what cells need, in [`Mode::Learn`]. Whoever prints it keeps the other half.
    pub learned: Arc<Learned>,
}

/// Gives cells the destinations that their documents declare.
pub struct EgressGateway {
    config: GatewayConfig,
    slots: ProcessSlots,
    pipes: Arc<Pipes>,
}

/// What everything that serves one cell shares.
pub(crate) struct Cell {
    pub(crate) mode: Mode,
    pub(crate) rules: Rules,
    pub(crate) names: Names,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) upstream: Upstream,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) learned: Arc<Learned>,
}

/// A cell that is served.
pub(crate) struct Serving {
    pub(crate) cell: Arc<Cell>,
    name_server: Arc<NameServer>,
    datagrams: Arc<Flows>,
    pub(crate) slots: CellSlots,
    pipes: Arc<Pipes>,
    patience: Patience,
    closing: watch::Sender<bool>,
}

impl EgressGateway {
    /// A gateway for any number of cells.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Self {
        Self {
            config,
            slots: ProcessSlots::of_this_process(),
            pipes: Arc::default(),
        }
    }

    fn rules(&self, spec: &ExecutionCellSpec) -> Result<Rules, CellosError> {
        let rules = Rules::of(&spec.authority)
            .map_err(|problem| CellosError::InvalidSpec(problem.to_string()))?;
        Ok(rules.in_mode(self.config.mode))
    }
}

#[async_trait]
impl NetworkGateway for EgressGateway {
    fn mode(&self) -> NetworkMode {
        match self.config.mode {
            Mode::Enforce => NetworkMode::Enforce,
            Mode::Learn => NetworkMode::Learn,
        }
    }

    fn needs(&self, spec: &ExecutionCellSpec) -> Result<Option<NetworkNeeds>, CellosError> {
        let rules = self.rules(spec)?;
        if !rules.wants_network() && self.config.publish.is_empty() {
            return Ok(None);
        }
        let mut needs = rules.needs();
        if !self.config.publish.is_empty() {
            needs.inbound_sockets = INBOUND_SOCKETS;
        }
        descriptors::make_room(&needs)?;
        Ok(Some(needs))
    }

    async fn open(
        &self,
        spec: &ExecutionCellSpec,
        network: CellNetwork,
        reports: Arc<dyn NetworkReports>,
    ) -> Result<Box<dyn OpenGateway>, CellosError> {
        let own = OwnAddresses::read()
            .map_err(|error| CellosError::Host(format!("the host's own addresses: {error}")))?;
        let rules = self.rules(spec)?.on_host(Arc::new(own));
        let resolver = resolver_for(&spec.authority, &rules, Arc::clone(&reports))
            .map_err(|problem| CellosError::InvalidSpec(problem.to_string()))?;
        let serving = Arc::new(Serving::new(
            Cell {
                mode: self.config.mode,
                rules,
                resolver,
                names: Names::default(),
                upstream: self.config.upstream.clone(),
                reporter: Arc::new(Reporter::new(reports)),
                learned: Arc::clone(&self.config.learned),
            },
            self.slots.for_cell(),
            Arc::clone(&self.pipes),
        ));
        let mut tasks = JoinSet::new();
        for (port, socket) in network.tcp {
            let listener = tokio_listener(socket.into()).map_err(|error| {
                CellosError::Host(format!("the cell's listener on port {port}: {error}"))
            })?;
            let serving = Arc::clone(&serving);
            tasks.spawn(accept::serve(serving, listener, accept::intended));
        }
        for (port, socket) in network.udp {
            let socket = CellSocket::new(socket).map_err(|error| {
                CellosError::Host(format!("the cell's UDP socket on port {port}: {error}"))
            })?;
            tasks.spawn(datagrams::serve(
                Arc::clone(&serving),
                port,
                Arc::new(socket),
            ));
        }
        if let Some(socket) = network.refusals {
            let refusals = Refusals::new(socket).map_err(|error| {
                CellosError::Host(format!("the cell's socket for refusals: {error}"))
            })?;
            tasks.spawn(refused::watch(Arc::clone(&serving), refusals));
        }
        let reporter = Arc::clone(&serving.cell.reporter);
        let published = publish::start(&self.config.publish, network.inbound, reporter)
            .await
            .map_err(|error| CellosError::Host(error.to_string()))?;
        for publish in published.open() {
            tracing::info!(host = %publish.host, port = publish.port, "published a port of the cell");
            if let Some(told) = self.config.published {
                told(*publish);
            }
        }
        tasks.spawn(Arc::clone(&serving).sum_up());
        Ok(Box::new(Open {
            serving,
            tasks,
            published: Some(published),
        }))
    }
}

impl Serving {
    pub(crate) fn new(cell: Cell, slots: CellSlots, pipes: Arc<Pipes>) -> Self {
        let cell = Arc::new(cell);
        Self {
            name_server: NameServer::new(Arc::clone(&cell)),
            datagrams: Flows::new(Arc::clone(&cell)),
            cell,
            slots,
            pipes,
            patience: Patience::default(),
            closing: watch::Sender::new(false),
        }
    }

    /// Returns when the cell is no longer served, because it ended or because nothing can be
    /// recorded any more.
    pub(crate) async fn ended(&self) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            // The sender lives as long as this does.
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.cell.reporter.halted() => {}
        }
    }

    async fn sum_up(self: Arc<Self>) {
        tokio::select! {
            () = self.ended() => {}
            _ = self.cell.reporter.flush_at_intervals() => {}
        }
    }
}

/// A cell that is served. Dropping it aborts every task, and with it every flow.
struct Open {
    serving: Arc<Serving>,
    tasks: JoinSet<()>,
    published: Option<Published>,
}

#[async_trait]
impl OpenGateway for Open {
    async fn close(self: Box<Self>) -> Result<EgressRecord, CellosError> {
        let Self {
            serving,
            mut tasks,
            published,
        } = *self;
        serving.closing.send_replace(true);
        let told = timeout(CLOSE_TIME, async {
            let inbound = async {
                if let Some(published) = published {
                    published.close().await;
                }
            };
            tokio::join!(inbound, serving.datagrams.finish());
            while tasks.join_next().await.is_some() {}
            serving.cell.reporter.flush().await
        });
        match told.await {
            Ok(Ok(())) => {}
            Ok(Err(unrecorded)) => tracing::error!("{unrecorded}"),
            Err(_) => {
                serving.cell.reporter.halt();
                return Err(CellosError::EventSink(format!(
                    "the record had no room for the ends of the cell's flows within {} s",
                    CLOSE_TIME.as_secs()
                )));
            }
        }
        let cell = &serving.cell;
        Ok(EgressRecord {
            declared_rules: cell.rules.all().len(),
            learning: cell.mode == Mode::Learn,
            ..cell.reporter.record()
        })
    }
}

fn tokio_listener(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
