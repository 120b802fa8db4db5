//! The gateway of a cell: accepts what the cell connects to, decides, and carries it.

use std::sync::Arc;

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellSpec,
    event::EgressRecord,
    ports::network::{CellNetwork, NetworkGateway, NetworkNeeds, NetworkReports, OpenGateway},
};

use crate::{dial::Upstream, names::Names, report::Reporter, resolve::Resolve, rules::Rules};

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
}

/// Gives cells the destinations that their documents declare.
pub struct EgressGateway {
    config: GatewayConfig,
}

impl EgressGateway {
    /// A gateway for any number of cells.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Self {
        Self { config }
    }
}

/// What everything that serves one cell shares.
pub(crate) struct Cell {
    pub(crate) mode: Mode,
    pub(crate) rules: Rules,
    pub(crate) names: Names,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) upstream: Upstream,
    pub(crate) reporter: Reporter,
}

#[async_trait]
impl NetworkGateway for EgressGateway {
    fn needs(&self, spec: &ExecutionCellSpec) -> Result<Option<NetworkNeeds>, CellosError> {
        let rules = Rules::of(&spec.authority)
            .map_err(|problem| CellosError::InvalidSpec(problem.to_string()))?;
        let _ = self.config.mode;
        Ok((!rules.all().is_empty()).then(|| rules.needs()))
    }

    async fn open(
        &self,
        _spec: &ExecutionCellSpec,
        _network: CellNetwork,
        _reports: Arc<dyn NetworkReports>,
    ) -> Result<Box<dyn OpenGateway>, CellosError> {
        Ok(Box::new(Open))
    }
}

struct Open;

#[async_trait]
impl OpenGateway for Open {
    async fn close(self: Box<Self>) -> EgressRecord {
        EgressRecord::default()
    }
}
