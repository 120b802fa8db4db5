//! Machines that are ready before anybody needs them.
//!
//! A machine is kept for others of its shape that boot from the same files by the same monitor. It
//! has said hello and nothing else: keys, entropy, clock and identity come with the configuration,
//! so a parked machine is no cell's until it is checked out, and then only one's.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellos_core::ports::workload::MachineOrigin;
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    artifacts::Artifacts,
    capacity::Capacity,
    error::CreateError,
    parked::{self, From, Order, Parked, Yard},
    plan::MachineShape,
    session::Bounds,
    vmm::{Driver, MonitorFacts, Parking, Snapshot},
};

/// Most kinds of machines that are kept at once; the one that was asked for longest ago goes.
const MAX_SHELVES: usize = 8;

/// What two machines must have in common to stand for one another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    shape: MachineShape,
    digests: Vec<String>,
    monitor: &'static str,
    version: String,
}

impl PoolKey {
    pub(crate) fn new(shape: MachineShape, artifacts: &Artifacts, facts: &MonitorFacts) -> Self {
        Self {
            shape,
            digests: artifacts.digests(),
            monitor: facts.name,
            version: facts.version.clone(),
        }
    }
}

/// The pool. Dropping it kills what is parked.
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    size: usize,
    grounds: Grounds,
    state: Mutex<State>,
}

/// Where and how the pool makes machines.
pub(crate) struct Grounds {
    pub(crate) run_folder: PathBuf,
    pub(crate) cgroup_parent: Option<PathBuf>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) capacity: Capacity,
    pub(crate) runtime: Handle,
    pub(crate) bounds: Bounds,
}

#[derive(Default)]
struct State {
    /// By how recently they were asked for, the last one last.
    shelves: Vec<(PoolKey, Shelf)>,
    /// Tasks that fill, by key.
    filling: HashMap<PoolKey, AbortHandle>,
    closed: bool,
}

#[derive(Default)]
struct Shelf {
    ready: VecDeque<Parked>,
    template: Option<Arc<Template>>,
}

/// A parked machine in files, which live as long as this.
struct Template {
    snapshot: Snapshot,
    _place: Parked,
}

impl Pool {
    pub(crate) fn new(size: u16, grounds: Grounds) -> Self {
        Self(Arc::new(Inner {
            size: usize::from(size),
            grounds,
            state: Mutex::default(),
        }))
    }

    /// Machines of a kind that are ready. A snapshot stands for one, restored when it is wanted.
    pub(crate) fn available(&self, key: &PoolKey) -> u32 {
        let state = self.0.state();
        let Some(shelf) = state.shelf(key) else {
            return 0;
        };
        let live = shelf
            .ready
            .iter()
            .filter(|parked| parked.is_alive())
            .count();
        u32::try_from(live + usize::from(shelf.template.is_some())).unwrap_or(u32::MAX)
    }

    /// Takes a machine into `slot`; leaves it empty where there is none.
    ///
    /// # Errors
    /// [`CreateError`] when a snapshot cannot be restored; it is not used again then.
    pub(crate) async fn checkout(
        &self,
        key: &PoolKey,
        artifacts: &Artifacts,
        order: Order<'_>,
        slot: &mut Option<Parked>,
    ) -> Result<(), CreateError> {
        let template = {
            let mut state = self.0.state();
            let Some(shelf) = state.shelf_mut(key) else {
                return Ok(());
            };
            while let Some(mut parked) = shelf.ready.pop_front() {
                if parked.is_alive() {
                    parked.origin = MachineOrigin::Parked;
                    *slot = Some(parked);
                    return Ok(());
                }
                self.0.discard(parked);
            }
            shelf.template.clone()
        };
        let Some(template) = template else {
            return Ok(());
        };
        let order = Order {
            from: From::Snapshot(&template.snapshot),
            ..order
        };
        let restored = parked::boot(self.0.yard(artifacts), order, slot).await;
        if restored.is_err()
            && let Some(shelf) = self.0.state().shelf_mut(key)
        {
            shelf.template = None;
        }
        restored
    }

    /// Sees to it that there are machines of a kind, in a task of its own.
    pub(crate) fn refill(&self, key: &PoolKey, artifacts: &Artifacts) {
        let (key, artifacts) = (key.clone(), artifacts.clone());
        let mut state = self.0.state();
        if state.closed || state.filling.contains_key(&key) {
            return;
        }
        let evicted = state.touch(&key);
        let inner = Arc::clone(&self.0);
        let task = self.0.grounds.runtime.spawn({
            let key = key.clone();
            async move {
                inner.fill(&key, &artifacts).await;
                inner.state().filling.remove(&key);
            }
        });
        state.filling.insert(key, task.abort_handle());
        drop(state);
        evicted
            .into_iter()
            .flat_map(|shelf| shelf.ready)
            .for_each(|parked| self.0.discard(parked));
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let (shelves, filling) = {
            let mut state = self.0.state();
            state.closed = true;
            (
                std::mem::take(&mut state.shelves),
                std::mem::take(&mut state.filling),
            )
        };
        // What a task has begun goes with it.
        filling.values().for_each(AbortHandle::abort);
        drop(shelves);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics or waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn yard<'a>(&'a self, artifacts: &'a Artifacts) -> Yard<'a> {
        Yard {
            driver: &*self.grounds.driver,
            run_folder: &self.grounds.run_folder,
            artifacts,
            cgroup_parent: self.grounds.cgroup_parent.as_deref(),
            bounds: self.grounds.bounds,
        }
    }

    /// Boots until there are enough. Gives up at the first failure: the next checkout tries again.
    async fn fill(self: &Arc<Self>, key: &PoolKey, artifacts: &Artifacts) {
        while self.wants(key) {
            let execution = self.grounds.driver.facts().execution;
            let Ok(_promise) = self.grounds.capacity.promise(key.shape, execution) else {
                return;
            };
            let order = Order {
                shape: key.shape,
                cpu_max: None,
                cell_id: None,
                from: From::Boot,
                network: None,
            };
            let mut slot = None;
            if parked::boot(self.yard(artifacts), order, &mut slot)
                .await
                .is_err()
            {
                if let Some(parked) = slot {
                    parked.remove().await;
                }
                return;
            }
            let Some(parked) = slot else {
                return;
            };
            let kept = match self.grounds.driver.parking() {
                Parking::Live => self.keep(key, parked),
                Parking::Snapshot => self.keep_snapshot(key, parked).await,
            };
            if let Some(parked) = kept {
                parked.remove().await;
                return;
            }
        }
    }

    fn wants(&self, key: &PoolKey) -> bool {
        let state = self.state();
        let all: usize = state
            .shelves
            .iter()
            .map(|(_, shelf)| shelf.ready.len())
            .sum();
        !state.closed
            && state
                .shelf(key)
                .is_some_and(|shelf| match self.grounds.driver.parking() {
                    Parking::Live => all < self.size,
                    Parking::Snapshot => shelf.template.is_none(),
                })
    }

    /// Puts a machine on its shelf, and watches over it there. It comes back where it cannot stay.
    fn keep(self: &Arc<Self>, key: &PoolKey, parked: Parked) -> Option<Parked> {
        let Some(mut fate) = parked.session.as_ref().map(|session| session.fate()) else {
            return Some(parked);
        };
        let name = parked.place.name().to_owned();
        {
            let mut state = self.state();
            match state.shelf_mut(key) {
                Some(shelf) => shelf.ready.push_back(parked),
                None => return Some(parked),
            }
        }
        let (pool, key) = (Arc::downgrade(self), key.clone());
        self.grounds.runtime.spawn(async move {
            // An error means that it was taken apart.
            let lost = fate.wait_for(Option::is_some).await.is_ok();
            let Some(pool) = pool.upgrade().filter(|_| lost) else {
                return;
            };
            let dead = pool.state().shelf_mut(&key).and_then(|shelf| {
                let index = shelf
                    .ready
                    .iter()
                    .position(|one| one.place.name() == name)?;
                shelf.ready.remove(index)
            });
            if let Some(dead) = dead {
                dead.remove().await;
            }
        });
        None
    }

    /// Writes a machine to files, which become the template. It comes back where that fails.
    async fn keep_snapshot(&self, key: &PoolKey, parked: Parked) -> Option<Parked> {
        let (Some(session), Some(machine)) = (&parked.session, &parked.machine) else {
            return Some(parked);
        };
        session.close();
        let Ok(snapshot) = machine.snapshot().await else {
            return Some(parked);
        };
        let template = Arc::new(Template {
            snapshot,
            _place: parked,
        });
        if let Some(shelf) = self.state().shelf_mut(key) {
            shelf.template = Some(template);
        }
        None
    }

    fn discard(&self, parked: Parked) {
        self.grounds
            .runtime
            .spawn(async move { parked.remove().await });
    }
}

impl State {
    fn shelf(&self, key: &PoolKey) -> Option<&Shelf> {
        let found = self.shelves.iter().find(|(kept, _)| kept == key)?;
        Some(&found.1)
    }

    fn shelf_mut(&mut self, key: &PoolKey) -> Option<&mut Shelf> {
        let found = self.shelves.iter_mut().find(|(kept, _)| kept == key)?;
        Some(&mut found.1)
    }

    /// Puts a shelf last; answers with what it displaces: the machines of others make room for
    /// those that are asked for now.
    fn touch(&mut self, key: &PoolKey) -> Vec<Shelf> {
        let mut evicted = Vec::new();
        let shelf = match self.shelves.iter().position(|(kept, _)| kept == key) {
            Some(index) => self.shelves.remove(index).1,
            None => Shelf::default(),
        };
        for (_, other) in &mut self.shelves {
            evicted.push(Shelf {
                ready: std::mem::take(&mut other.ready),
                template: None,
            });
        }
        while self.shelves.len() >= MAX_SHELVES {
            evicted.push(self.shelves.remove(0).1);
        }
        self.shelves.push((key.clone(), shelf));
        evicted
    }
}
