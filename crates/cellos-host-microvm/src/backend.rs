//! The backend as the supervisor sees it.

mod cell;
mod creation;
mod driver;
mod notices;
mod shared;
mod staged;
#[cfg(test)]
mod tests;
mod working_folder;

use std::sync::Arc;

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    descriptor::BackendDescriptor,
    ports::{
        CellBackend, CellHandle, TeardownReport,
        network::{CellNetwork, NetworkNeeds},
        workload::{
            ExitReport, Loss, Notice, OutputBytes, Posture, ReleaseError, Released, Residue,
            StopSignal, Streams, WorkingFolder, WorkloadControl,
        },
    },
};
use cellos_isolation::{
    confined::Helper,
    plan::{self, MAX_NETWORK_SOCKETS},
};
use tokio::sync::{oneshot, watch};

use self::{
    creation::Delivered,
    driver::{Chosen, MakeDriver},
    shared::{Destroyed, Entry, Reservation, Shared},
};
use crate::{
    capacity::Capacity,
    config::MicrovmConfig,
    descriptor,
    plan::VmPlan,
    session::{Bounds, Fate},
};

/// The `microvm` backend.
///
/// It belongs to the tokio runtime it was made in. Dropping it kills every machine that is left.
pub struct MicrovmBackend {
    shared: Arc<Shared>,
    descriptor: BackendDescriptor,
}

impl MicrovmBackend {
    /// A backend whose machines are as the operator decided. The running program has to call
    /// [`take_over_if_asked`](cellos_isolation::confined::take_over_if_asked) first in its `main`,
    /// since it starts itself as the helper that starts monitors. Nothing is executed before the first
    /// creation has verified it.
    ///
    /// # Errors
    /// [`CellosError::Host`] outside a tokio runtime.
    pub fn new(config: MicrovmConfig) -> Result<Self, CellosError> {
        Self::with_helper(config, Helper::this_program())
    }

    /// The same in a program that cannot be the helper itself.
    ///
    /// # Errors
    /// As [`MicrovmBackend::new`].
    pub fn with_helper(config: MicrovmConfig, helper: Helper) -> Result<Self, CellosError> {
        Self::with(
            config,
            Box::new(Chosen { helper }),
            Capacity::default(),
            Bounds::default(),
        )
    }

    /// What the backend enforces on this host.
    #[must_use]
    pub fn describe(config: &MicrovmConfig) -> BackendDescriptor {
        descriptor::describe(config)
    }

    /// What it would enforce if this host's settings made one, which they do not, for this reason.
    #[must_use]
    pub fn describe_unusable(why: &str) -> BackendDescriptor {
        descriptor::unusable(why)
    }

    /// Cells that exist or are being built.
    #[must_use]
    pub fn tracked_cell_count(&self) -> usize {
        self.shared.state().cells.len()
    }

    fn with(
        config: MicrovmConfig,
        maker: Box<dyn MakeDriver>,
        capacity: Capacity,
        bounds: Bounds,
    ) -> Result<Self, CellosError> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| CellosError::Host(error.to_string()))?;
        let descriptor = descriptor::describe(&config);
        Ok(Self {
            shared: Shared::new(config, maker, capacity, bounds, runtime),
            descriptor,
        })
    }
}

impl Drop for MicrovmBackend {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[async_trait]
impl CellBackend for MicrovmBackend {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        let network = self.shared.state().needs.remove(&spec.spec.id);
        let plan = VmPlan {
            network,
            ..VmPlan::from_document(spec)?
        };
        let reservation = Reservation::take(&self.shared, &spec.spec.id)?;
        // In a task of its own: what it has begun is undone there when this future is dropped.
        let (sender, receiver) = oneshot::channel();
        self.shared.runtime.spawn(creation::run(
            Arc::clone(&self.shared),
            plan,
            reservation,
            sender,
        ));
        receiver
            .await
            .map_err(|_| CellosError::Host("the creation was given up".to_owned()))?
            .map(Delivered::keep)
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        let (report, residue) = self.destroy_and_measure(handle).await?;
        if residue.found.is_empty() {
            Ok(report)
        } else {
            Err(CellosError::Host(format!(
                "cell {:?} was taken apart, but something is left: {}",
                handle.cell_id,
                residue.found.join("; ")
            )))
        }
    }

    async fn wait_for_in_vm_exit(&self, cell_id: &str) -> Option<Result<i32, CellosError>> {
        let (mut fate, cell) = match self.shared.live(cell_id) {
            // The cell is not kept: its machine ends when it is destroyed meanwhile.
            Ok(cell) => (cell.fate(), Arc::downgrade(&cell)),
            Err(error) => return Some(Err(error)),
        };
        let known = fate
            .wait_for(Option::is_some)
            .await
            .map(|fate| fate.clone());
        Some(match known {
            Ok(Some(Fate::Lost(lost))) => {
                let console = cell
                    .upgrade()
                    .map(|cell| cell.console())
                    .unwrap_or_default();
                Err(CellosError::Host(format!(
                    "cell {cell_id:?}: {lost}{console}"
                )))
            }
            Ok(Some(fate)) => fate
                .report()
                .map(|report| report.end.shell_code())
                .map_err(|lost| CellosError::Host(format!("cell {cell_id:?}: {lost}"))),
            Ok(None) | Err(_) => Err(CellosError::Host(format!(
                "cell {cell_id:?} was destroyed before its workload ended"
            ))),
        })
    }

    fn descriptor(&self) -> BackendDescriptor {
        self.descriptor.clone()
    }

    fn workload(&self) -> Option<&dyn WorkloadControl> {
        Some(self)
    }
}

#[async_trait]
impl WorkloadControl for MicrovmBackend {
    async fn posture(&self, cell_id: &str) -> Result<Posture, CellosError> {
        Ok(self.shared.live(cell_id)?.posture())
    }

    async fn release(&self, cell_id: &str, streams: Streams) -> Result<Released, ReleaseError> {
        self.shared.live(cell_id)?.release(streams).await
    }

    async fn stop(&self, cell_id: &str, how: StopSignal) -> Result<(), CellosError> {
        match self.shared.live(cell_id) {
            Ok(cell) => cell.stop(how).await,
            Err(_) => Ok(()),
        }
    }

    async fn exit_report(&self, cell_id: &str) -> Result<ExitReport, CellosError> {
        let fate = self.shared.live(cell_id)?.fate().borrow().clone();
        fate.ok_or_else(|| CellosError::Host(format!("cell {cell_id:?} still runs")))?
            .report()
            .map_err(|lost| CellosError::Host(format!("cell {cell_id:?}: {lost}")))
    }

    async fn working_folder(&self, cell_id: &str) -> Result<WorkingFolder, CellosError> {
        self.shared.live(cell_id)?.working_folder().await
    }

    async fn destroy_and_measure(
        &self,
        handle: &CellHandle,
    ) -> Result<(TeardownReport, Residue), CellosError> {
        let cell_id = handle.cell_id.as_str();
        match remove(&self.shared, cell_id).await {
            Some(residue) => Ok((self.shared.report(cell_id, Destroyed::Now), residue)),
            None => Ok((
                self.shared.report(cell_id, Destroyed::NotHere),
                Residue::default(),
            )),
        }
    }

    async fn prepare_network(&self, cell_id: &str, needs: NetworkNeeds) -> Result<(), CellosError> {
        let cannot = |why: &str| {
            Err(CellosError::Host(format!(
                "cell {cell_id:?} cannot have a network: {why}"
            )))
        };
        if let Err(lacking) = descriptor::network(&self.shared.config) {
            return cannot(lacking.why);
        }
        if needs.inbound_sockets > 0 {
            return cannot(
                "ports of a cell in a machine cannot be published yet; use --backend linux",
            );
        }
        if plan::socket_count(&needs) > MAX_NETWORK_SOCKETS {
            return cannot("its declared ports need too many sockets; declare fewer ports");
        }
        let mut state = self.shared.state();
        if state.cells.contains_key(cell_id) {
            return cannot("it exists already, and a network has to be prepared before");
        }
        state.needs.insert(cell_id.to_owned(), needs);
        Ok(())
    }

    async fn network(&self, cell_id: &str) -> Result<CellNetwork, CellosError> {
        self.shared.live(cell_id)?.network().ok_or_else(|| {
            CellosError::Host(format!(
                "cell {cell_id:?} has no network, or it was handed over before"
            ))
        })
    }

    fn take_notices(&self, cell_id: &str) -> Vec<Notice> {
        self.shared.notices.take(cell_id)
    }

    fn output_bytes(&self, cell_id: &str) -> Option<OutputBytes> {
        self.shared.live(cell_id).ok()?.output_bytes()
    }

    fn loss(&self, cell_id: &str) -> Option<Loss> {
        match &*self.shared.live(cell_id).ok()?.fate().borrow() {
            Some(Fate::Lost(lost)) => lost.loss(),
            _ => None,
        }
    }
}

/// Takes a live cell apart and says what is left. `None` where there is none, or somebody else does
/// that; it is done then.
async fn remove(shared: &Arc<Shared>, cell_id: &str) -> Option<Residue> {
    let taken = {
        let mut state = shared.state();
        match state.cells.get_mut(cell_id) {
            Some(entry @ Entry::Live(_)) => {
                let (done, leaving) = watch::channel(());
                match std::mem::replace(entry, Entry::Leaving(leaving)) {
                    Entry::Live(cell) => Some((cell, done)),
                    Entry::Creating | Entry::Leaving(_) => None,
                }
            }
            // Somebody else's creation or removal of the same id, or nothing.
            _ => None,
        }
    };
    let Some((cell, done)) = taken else {
        shared.gone(cell_id).await;
        return None;
    };
    // In a task of its own: it goes on when this future is dropped.
    let (task, id) = (Arc::clone(shared), cell_id.to_owned());
    let teardown = shared.runtime.spawn(async move {
        let residue = cell.take_apart().await;
        drop(cell);
        task.state().cells.remove(&id);
        drop(done);
        residue
    });
    Some(teardown.await.unwrap_or_else(|error| Residue {
        looked_for: Vec::new(),
        found: vec![format!(
            "cell {cell_id:?}: its removal ended early: {error}"
        )],
    }))
}
