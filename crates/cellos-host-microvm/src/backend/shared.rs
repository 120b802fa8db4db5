//! What callers and tasks share: which ids are taken, and by what.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellos_core::{
    CellosError,
    ports::{TeardownReport, network::NetworkNeeds},
};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, watch},
};

use super::{cell::Cell, driver::MakeDriver, notices::Notices};
use crate::{
    artifacts::{Artifacts, Digests},
    capacity::Capacity,
    config::{BootFiles, MicrovmConfig},
    parked::Yard,
    pool::{Grounds, Pool},
    session::Bounds,
    vmm::{Driver, MonitorFacts, VmmError},
};

pub(super) struct Shared {
    pub(super) config: MicrovmConfig,
    pub(super) capacity: Capacity,
    pub(super) digests: Arc<Digests>,
    pub(super) notices: Notices,
    pub(super) bounds: Bounds,
    /// Where tasks are spawned, also by what is dropped elsewhere.
    pub(super) runtime: Handle,
    /// Whether the backend was dropped: creations are given up then.
    pub(super) closing: watch::Sender<Closing>,
    maker: Box<dyn MakeDriver>,
    engine: OnceCell<Engine>,
    state: Mutex<State>,
}

/// What makes machines, from the first creation on.
pub(super) struct Engine {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) facts: MonitorFacts,
    pub(super) pool: Option<Pool>,
}

/// Whether the backend goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    Yes,
}

/// Whether a call took the cell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destroyed {
    Now,
    NotHere,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) cells: HashMap<String, Entry>,
    /// The sockets that cells which are about to be created get in their networks.
    pub(super) needs: HashMap<String, NetworkNeeds>,
}

/// What is known of a cell id.
pub(super) enum Entry {
    /// It is reserved; a machine is being made.
    Creating,
    /// The cell is there.
    Live(Arc<Cell>),
    /// The cell is being taken apart. The channel closes when that is done.
    Leaving(watch::Receiver<()>),
}

impl Shared {
    pub(super) fn new(
        config: MicrovmConfig,
        maker: Box<dyn MakeDriver>,
        capacity: Capacity,
        bounds: Bounds,
        runtime: Handle,
    ) -> Arc<Self> {
        let digests = Arc::new(Digests::kept_in(&config.run_folder));
        Arc::new(Self {
            config,
            capacity,
            digests,
            notices: Notices::default(),
            bounds,
            runtime,
            closing: watch::Sender::new(Closing::No),
            maker,
            engine: OnceCell::new(),
            state: Mutex::default(),
        })
    }

    /// The driver and its pool; the first creation makes them.
    ///
    /// # Errors
    /// [`VmmError`] when the monitor cannot be used; the next creation tries again.
    pub(super) async fn engine(&self, artifacts: &Artifacts) -> Result<&Engine, VmmError> {
        self.engine
            .get_or_try_init(|| async {
                let driver = self.maker.make(&self.config, artifacts).await?;
                let pool = (self.config.pool_size > 0
                    && matches!(self.config.boot, BootFiles::Bundle(_)))
                .then(|| {
                    let grounds = Grounds {
                        run_folder: self.config.run_folder.clone(),
                        cgroup_parent: self.config.cgroup_parent.clone(),
                        driver: Arc::clone(&driver),
                        capacity: self.capacity.clone(),
                        runtime: self.runtime.clone(),
                        bounds: self.bounds,
                    };
                    Pool::new(self.config.pool_size, grounds)
                });
                let facts = driver.facts();
                Ok(Engine {
                    driver,
                    facts,
                    pool,
                })
            })
            .await
    }

    /// The engine, once there is one.
    pub(super) fn ready_engine(&self) -> Option<&Engine> {
        self.engine.get()
    }

    pub(super) fn yard<'a>(&'a self, engine: &'a Engine, artifacts: &'a Artifacts) -> Yard<'a> {
        Yard {
            driver: &*engine.driver,
            run_folder: &self.config.run_folder,
            artifacts,
            cgroup_parent: self.config.cgroup_parent.as_deref(),
            bounds: self.bounds,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics or waits; a poisoned state is still a consistent one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self, cell_id: &str) -> Result<Arc<Cell>, CellosError> {
        match self.state().cells.get(cell_id) {
            Some(Entry::Live(cell)) => Ok(Arc::clone(cell)),
            Some(Entry::Creating) => Err(CellosError::Host(format!("{cell_id:?} is being built"))),
            Some(Entry::Leaving(_)) => Err(CellosError::Host(format!(
                "{cell_id:?} is being taken apart"
            ))),
            None => Err(CellosError::Host(format!("no cell {cell_id:?} is tracked"))),
        }
    }

    /// Waits until a cell that is being taken apart is gone.
    pub(super) async fn gone(&self, cell_id: &str) {
        let leaving = match self.state().cells.get(cell_id) {
            Some(Entry::Leaving(gone)) => Some(gone.clone()),
            _ => None,
        };
        if let Some(mut gone) = leaving {
            // Nothing is ever sent: it only closes.
            let _ = gone.changed().await;
        }
    }

    pub(super) fn report(&self, cell_id: &str, destroyed: Destroyed) -> TeardownReport {
        TeardownReport {
            cell_id: cell_id.to_owned(),
            destroyed: matches!(destroyed, Destroyed::Now),
            peers_tracked_after: self.state().cells.len(),
        }
    }

    /// Gives every creation up and kills every machine.
    pub(super) fn close(&self) {
        self.closing.send_replace(Closing::Yes);
        if let Some(pool) = self.engine.get().and_then(|engine| engine.pool.as_ref()) {
            pool.close();
        }
        let cells = std::mem::take(&mut self.state().cells);
        // Each is killed by being dropped, outside of the lock.
        drop(cells);
    }
}

/// Gives a reserved id back unless the creation succeeded.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    cell_id: String,
    kept: bool,
}

impl Reservation {
    pub(super) fn take(shared: &Arc<Shared>, cell_id: &str) -> Result<Self, CellosError> {
        let mut state = shared.state();
        if state.cells.contains_key(cell_id) {
            return Err(CellosError::Host(format!(
                "cell {cell_id:?} is already active: no duplicate live cells"
            )));
        }
        state.cells.insert(cell_id.to_owned(), Entry::Creating);
        Ok(Self {
            shared: Arc::clone(shared),
            cell_id: cell_id.to_owned(),
            kept: false,
        })
    }

    /// Puts the cell in its place.
    pub(super) fn keep(mut self, cell: Arc<Cell>) {
        let mut state = self.shared.state();
        // A backend that was dropped meanwhile has forgotten the id; the cell goes with this.
        if let Some(entry) = state.cells.get_mut(&self.cell_id) {
            *entry = Entry::Live(cell);
        }
        drop(state);
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.state().cells.remove(&self.cell_id);
        }
    }
}
