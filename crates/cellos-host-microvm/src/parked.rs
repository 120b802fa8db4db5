//! A machine whose PID 1 has said hello and waits to be told what to run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cellos_bridge::Hello;
use cellos_core::ports::{
    network::NetworkNeeds,
    workload::{GuestExecution, MachineOrigin},
};
use cellos_isolation::cgroup::{CgroupHost, Controller};

use crate::{
    artifacts::Artifacts,
    capacity::machine_bytes,
    error::{CreateError, SessionError},
    place::Place,
    plan::MachineShape,
    process,
    session::{Bounds, Session},
    vmm::{self, BootOrder, Driver, MonitorLimits, Snapshot},
};

/// How long taking a machine apart may take; the driver has bounds of its own below this.
const REMOVE_BOUND: Duration = Duration::from_secs(30);

/// A machine and all that it has. What is still missing comes in the order of the fields from the
/// last to the first. Dropping it kills the machine and removes its place.
pub(crate) struct Parked {
    pub(crate) hello: Option<Hello>,
    pub(crate) session: Option<Session>,
    pub(crate) machine: Option<Arc<dyn vmm::Machine>>,
    /// The monitor's start, by which it is told from a later process of its number.
    started: Option<u64>,
    pub(crate) origin: MachineOrigin,
    /// From the start of the monitor to the hello.
    pub(crate) ready_after: Duration,
    pub(crate) place: Place,
}

/// What is to be booted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) shape: MachineShape,
    pub(crate) cpu_max: Option<(u64, u64)>,
    /// Whose it will be, where that is known.
    pub(crate) cell_id: Option<&'a str>,
    pub(crate) from: From<'a>,
    /// The sockets of its network, where it has one.
    pub(crate) network: Option<&'a NetworkNeeds>,
}

/// What a machine begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    /// Its kernel.
    Boot,
    /// The state of another one.
    Snapshot(&'a Snapshot),
}

/// Where and of what machines are made.
#[derive(Clone, Copy)]
pub(crate) struct Yard<'a> {
    pub(crate) driver: &'a dyn Driver,
    pub(crate) run_folder: &'a Path,
    pub(crate) artifacts: &'a Artifacts,
    /// The control group that monitors are put in; found by looking when absent.
    pub(crate) cgroup_parent: Option<&'a Path>,
    pub(crate) bounds: Bounds,
}

/// Boots a machine and waits for its hello. What exists of it is in `slot` from its first moment,
/// whether this succeeds, fails or is dropped.
///
/// # Errors
/// [`CreateError`] with the step that failed and the end of the console.
pub(crate) async fn boot(
    yard: Yard<'_>,
    order: Order<'_>,
    slot: &mut Option<Parked>,
) -> Result<(), CreateError> {
    let parked = slot.insert(Parked {
        hello: None,
        session: None,
        machine: None,
        started: None,
        origin: match order.from {
            From::Boot => MachineOrigin::Booted,
            From::Snapshot(_) => MachineOrigin::Restored,
        },
        ready_after: Duration::ZERO,
        place: Place::make(yard.run_folder, order.cell_id)?,
    });
    let begun = Instant::now();
    let boot_order = BootOrder {
        name: parked.place.name(),
        shape: order.shape,
        artifacts: yard.artifacts,
        folder: parked.place.folder(),
        record: parked.place.record(),
        limits: limits(&yard, &order),
        network: order.network,
        extra_boot_arguments: "",
    };
    let machine = match order.from {
        From::Boot => yard.driver.boot(boot_order).await?,
        From::Snapshot(snapshot) => yard.driver.restore(boot_order, snapshot).await?,
    };
    let machine: Arc<dyn vmm::Machine> = Arc::from(machine);
    parked.started = process::start_time(machine.pid());
    parked.machine = Some(Arc::clone(&machine));
    let session = parked.session.insert(Session::open(machine, yard.bounds));
    match session.hello().await {
        Ok(hello) => {
            parked.hello = Some(hello);
            parked.ready_after = begun.elapsed();
            Ok(())
        }
        Err(source) => Err(parked.failed("wait for the guest's hello", source)),
    }
}

/// Limits on the monitor as a process: what its machine needs at most, where the host can hold that.
fn limits(yard: &Yard<'_>, order: &Order<'_>) -> MonitorLimits {
    let execution = yard.driver.facts().execution;
    let bounded = execution != GuestExecution::Fake
        && CgroupHost::detect(yard.cgroup_parent)
            .support(Controller::Memory)
            .is_ok();
    MonitorLimits {
        memory_bytes: bounded.then(|| machine_bytes(order.shape, execution)),
        cpu_max: order.cpu_max,
    }
}

impl Parked {
    /// Process id of the monitor, 0 before there is one.
    pub(crate) fn pid(&self) -> u32 {
        self.machine.as_ref().map_or(0, |machine| machine.pid())
    }

    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        self.machine.as_ref().and_then(|machine| machine.cgroup())
    }

    /// The end of the console as a part of a message; empty where there is none.
    pub(crate) fn console(&self) -> String {
        let tail = self
            .machine
            .as_ref()
            .map(|machine| machine.console_tail())
            .unwrap_or_default();
        match tail.trim() {
            "" => String::new(),
            tail => format!("; the guest's console ends with: {tail}"),
        }
    }

    pub(crate) fn failed(&self, step: &'static str, source: SessionError) -> CreateError {
        CreateError::Guest {
            step,
            source,
            console: self.console(),
        }
    }

    /// Whether the dialogue goes on.
    pub(crate) fn is_alive(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.fate().borrow().is_none())
    }

    /// Kills the machine, removes everything it has, and looks for what is left. Doing it twice is
    /// harmless.
    pub(crate) async fn remove(&self) -> Vec<String> {
        // The dialogue must not take what follows for a crash.
        if let Some(session) = &self.session {
            session.close();
        }
        let mut left = Vec::new();
        if let Some(machine) = &self.machine {
            match tokio::time::timeout(REMOVE_BOUND, machine.remove()).await {
                Ok(found) => left.extend(found),
                Err(_) => left.push(format!(
                    "process {}: not removed within {REMOVE_BOUND:?}",
                    machine.pid()
                )),
            }
        }
        left.extend(self.place.remove());
        left.extend(self.look());
        left
    }

    /// What is there that should not be.
    fn look(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.started.is_some() && process::start_time(self.pid()) == self.started {
            found.push(format!("process {}", self.pid()));
        }
        if let Some(group) = self.cgroup().filter(|group| group.exists()) {
            found.push(format!("control group {}", group.display()));
        }
        if self.place.folder().exists() {
            found.push(format!("folder {}", self.place.folder().display()));
        }
        found
    }
}
