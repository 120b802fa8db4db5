//! Making a cell: from the plan to a parked workload.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cellos_bridge::{Config, Entropy, MAX_CREDIT_BYTES, Nonce, Ready, SessionKey};
use cellos_core::{
    CellosError, ExecutionCellDocument,
    ports::{
        CellHandle,
        workload::{ExitAuthentication, Machine, MachineOrigin, Notice, PoolOutcome, Posture},
    },
};
use cellos_isolation::plan::DEFAULT_GRACE_SECONDS;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{
    cell::{Cell, Parts},
    shared::{Closing, Engine, Reservation, Shared},
};
use crate::{
    artifacts::{self, Artifacts},
    config::BootFiles,
    error::{CreateError, SessionError},
    parked::{self, From, Order, Parked},
    place::Place,
    plan::VmPlan,
    pool::PoolKey,
    session::{HEARTBEAT_INTERVAL, published::Staged},
    vmm::MonitorFacts,
};

/// Bytes of each output stream that may be under way: several pipes full, so that a busy reader and
/// a busy workload do not wait for each other.
const OUTPUT_CREDIT_BYTES: u32 = 256 * 1024;
const _: () = assert!(OUTPUT_CREDIT_BYTES <= MAX_CREDIT_BYTES);

/// Entropy for a guest's generator, in bytes: twice a full seed.
const ENTROPY_BYTES: usize = 64;

/// Name of the monitor whose digest has a field of its own in the handle.
const FIRECRACKER: &str = "firecracker";

/// How much longer than lifetime and grace the host waits before it kills the machine itself: later
/// than the guest's own backstop, which can still report what happened.
const BACKSTOP_MARGIN: Duration = Duration::from_secs(5);

/// A cell on its way to whoever asked for it. Dropped without being kept, it is taken apart.
pub(super) struct Delivered {
    shared: Arc<Shared>,
    handle: Option<CellHandle>,
}

impl Delivered {
    pub(super) fn keep(mut self) -> CellHandle {
        self.handle.take().unwrap_or_else(|| CellHandle {
            cell_id: String::new(),
            cgroup_path: None,
            nft_rules_applied: None,
            kernel_digest_sha256: None,
            rootfs_digest_sha256: None,
            firecracker_digest_sha256: None,
        })
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            super::remove(&shared, &handle.cell_id).await;
        });
    }
}

/// Makes a cell, and undoes what it had begun when that fails or nobody waits for it any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    plan: VmPlan,
    reservation: Reservation,
    mut result: oneshot::Sender<Result<Delivered, CellosError>>,
) {
    let cell_id = plan.document.spec.id.clone();
    let mut begun = Begun::default();
    let mut closing = shared.closing.subscribe();
    let built = tokio::select! {
        built = build(&shared, &plan, &mut begun) => built,
        () = result.closed() => Err(CreateError::GivenUp),
        _ = closing.wait_for(|closing| *closing == Closing::Yes) => Err(CreateError::GivenUp),
    };
    match built {
        Ok(cell) => {
            let handle = cell.handle().clone();
            reservation.keep(Arc::new(cell));
            let delivered = Delivered {
                shared,
                handle: Some(handle),
            };
            // Comes back, and is dropped, when nobody waits.
            let _ = result.send(Ok(delivered));
        }
        Err(error) => {
            if let CreateError::Artifacts(artifacts) = &error
                && let Some(notice) = artifacts.notice()
            {
                shared.notices.add(&cell_id, notice);
            }
            let left = begun.undo().await;
            let error = with_left(error.into(), &left);
            drop(reservation);
            let _ = result.send(Err(error));
        }
    }
}

/// What exists of a cell that is being made.
#[derive(Default)]
struct Begun {
    parked: Option<Parked>,
}

impl Begun {
    async fn undo(&mut self) -> Vec<String> {
        match self.parked.take() {
            Some(parked) => parked.remove().await,
            None => Vec::new(),
        }
    }
}

async fn build(
    shared: &Arc<Shared>,
    plan: &VmPlan,
    begun: &mut Begun,
) -> Result<Cell, CreateError> {
    Place::prepare(&shared.config.run_folder)?;
    let artifacts = measured(shared).await?;
    let engine = shared.engine(&artifacts).await?;
    let facts = &engine.facts;
    if let BootFiles::Published { .. } = shared.config.boot {
        return stage(shared, plan, artifacts);
    }
    let (ready, ready_after) = ready_machine(shared, engine, plan, &artifacts, begun).await?;
    let parked = begun.parked.take().ok_or(CreateError::GivenUp)?;
    let posture = Posture {
        pid: parked.pid(),
        machine: Some(machine_facts(
            facts,
            plan,
            &artifacts,
            Some(&parked),
            ready_after,
        )),
        ..ready.posture
    };
    let handle = CellHandle {
        cgroup_path: parked.cgroup(),
        ..handle_of(plan, &artifacts, facts)
    };
    Cell::new(Parts {
        handle,
        posture,
        parked,
        document: &plan.document,
        working_folder: ready.working_folder,
    })
    .ok_or(CreateError::GivenUp)
}

/// A cell of a published guest, which has no parked state: everything is ready for its boot, which
/// comes with its release.
fn stage(shared: &Arc<Shared>, plan: &VmPlan, artifacts: Artifacts) -> Result<Cell, CreateError> {
    let engine = shared.ready_engine().ok_or(CreateError::GivenUp)?;
    let handle = handle_of(plan, &artifacts, &engine.facts);
    let promise = shared
        .capacity
        .promise(plan.shape, engine.facts.execution)?;
    let place = Place::make(&shared.config.run_folder, Some(&plan.document.spec.id))?;
    let posture = Posture {
        machine: Some(Machine {
            exit_authentication: ExitAuthentication::PublishedFrame,
            ..machine_facts(&engine.facts, plan, &artifacts, None, Duration::ZERO)
        }),
        ..Posture::default()
    };
    let staged = Staged {
        place,
        plan: plan.clone(),
        artifacts,
        promise,
        driver: Arc::clone(&engine.driver),
        backstop: backstop_of(&plan.document),
    };
    Ok(Cell::staged(handle, posture, staged))
}

fn handle_of(plan: &VmPlan, artifacts: &Artifacts, facts: &MonitorFacts) -> CellHandle {
    CellHandle {
        cell_id: plan.document.spec.id.clone(),
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: Some(artifacts.kernel.sha256.clone()),
        rootfs_digest_sha256: Some(artifacts.base.sha256.clone()),
        firecracker_digest_sha256: (facts.name == FIRECRACKER)
            .then(|| artifacts.monitor.sha256.clone()),
    }
}

/// A machine with a parked workload, from the pool where that has one, and how long it took until
/// its PID 1 had spoken. It is what has begun.
async fn ready_machine(
    shared: &Shared,
    engine: &Engine,
    plan: &VmPlan,
    artifacts: &Artifacts,
    begun: &mut Begun,
) -> Result<(Ready, Duration), CreateError> {
    let asked = Instant::now();
    let order = Order {
        shape: plan.shape,
        cpu_max: plan.cpu_max,
        cell_id: Some(&plan.document.spec.id),
        from: From::Boot,
        network: plan.network.as_ref(),
    };
    let available = check_out(engine, plan, artifacts, order, begun).await;
    let note = |outcome, took| {
        if let Some(available) = available {
            let notice = Notice::PoolCheckout {
                outcome,
                available,
                took,
            };
            shared.notices.add(&plan.document.spec.id, notice);
        }
    };
    if let Some(parked) = &begun.parked {
        let took = asked.elapsed();
        match configure(plan, parked).await {
            Ok(ready) => {
                note(PoolOutcome::Hit, took);
                return Ok((ready, took));
            }
            // It died while it was parked, and that was not noticed yet.
            Err(CreateError::Guest {
                source: SessionError::Lost(_),
                ..
            }) => {
                begun.undo().await;
            }
            Err(other) => return Err(other),
        }
    }
    // Memory is promised until the machine has its own.
    let _promise = shared
        .capacity
        .promise(plan.shape, engine.facts.execution)?;
    let yard = shared.yard(engine, artifacts);
    parked::boot(yard, order, &mut begun.parked).await?;
    note(PoolOutcome::Miss, asked.elapsed());
    let parked = begun.parked.as_ref().ok_or(CreateError::GivenUp)?;
    Ok((configure(plan, parked).await?, parked.ready_after))
}

/// Gives a parked machine its document, and waits for the parked workload.
async fn configure(plan: &VmPlan, parked: &Parked) -> Result<Ready, CreateError> {
    let session = parked.session.as_ref().ok_or(CreateError::GivenUp)?;
    parked
        .place
        .record()
        .give_to(&plan.document.spec.id)
        .map_err(CreateError::Record)?;
    let config = config_for(plan, parked.place.name())?;
    session
        .configure(config, backstop_of(&plan.document))
        .await
        .map_err(|source| parked.failed("wait until the workload is parked", source))
}

/// Asks the pool, where there is one, and has it filled again. How many machines there were before.
async fn check_out(
    engine: &Engine,
    plan: &VmPlan,
    artifacts: &Artifacts,
    order: Order<'_>,
    begun: &mut Begun,
) -> Option<u32> {
    let pool = engine.pool.as_ref()?;
    let key = PoolKey::new(plan.shape, artifacts, &engine.facts);
    let available = pool.available(&key);
    // A bound on the monitor is set when it starts, and a parked one has started without, as it
    // has without a network.
    if plan.cpu_max.is_none() && plan.network.is_none() {
        let restored = pool
            .checkout(&key, artifacts, order, &mut begun.parked)
            .await;
        if restored.is_err() {
            begun.undo().await;
        }
        pool.refill(&key, artifacts);
    }
    Some(available)
}

/// What a machine boots from, measured in a thread that nobody waits for.
async fn measured(shared: &Arc<Shared>) -> Result<Artifacts, CreateError> {
    let task = Arc::clone(shared);
    let opened =
        tokio::task::spawn_blocking(move || artifacts::open(&task.config, &task.digests)).await;
    match opened {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(CreateError::GivenUp),
    }
}

/// Everything that makes this run of the machine unlike any other.
fn config_for(plan: &VmPlan, run_id: &str) -> Result<Config, CreateError> {
    let mut key = Zeroizing::new([0; 32]);
    let mut nonce = [0; 32];
    let mut entropy = Zeroizing::new(vec![0; ENTROPY_BYTES]);
    for buffer in [key.as_mut_slice(), &mut nonce, &mut entropy] {
        crate::random::fill(buffer).map_err(CreateError::Random)?;
    }
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Config {
        run_id: run_id.to_owned(),
        cell_id: plan.document.spec.id.clone(),
        document: plan.document.clone(),
        memory_limit_bytes: plan.cell_memory_bytes,
        host_nonce: Nonce(nonce),
        session_key: SessionKey::new(*key),
        entropy: Entropy::new(entropy)
            .ok_or_else(|| CreateError::Config("entropy is out of its bounds".to_owned()))?,
        wall_clock_unix_ns: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
        heartbeat_interval: HEARTBEAT_INTERVAL,
        stdout_credit_bytes: OUTPUT_CREDIT_BYTES,
        stderr_credit_bytes: OUTPUT_CREDIT_BYTES,
    })
}

/// When the host ends a machine that nobody else has ended; never for lifetimes beyond the clock.
fn backstop_of(document: &ExecutionCellDocument) -> Option<Instant> {
    let run = document.spec.run.as_ref();
    let grace = run
        .and_then(|run| run.limits.as_ref())
        .and_then(|limits| limits.graceful_shutdown_seconds)
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    let after = Duration::from_secs(document.spec.lifetime.ttl_seconds)
        .checked_add(Duration::from_secs(grace))?
        .checked_add(BACKSTOP_MARGIN)?;
    Instant::now().checked_add(after)
}

fn machine_facts(
    facts: &MonitorFacts,
    plan: &VmPlan,
    artifacts: &Artifacts,
    parked: Option<&Parked>,
    ready_after: Duration,
) -> Machine {
    let hello = parked.and_then(|parked| parked.hello.as_ref());
    Machine {
        monitor: facts.name.to_owned(),
        monitor_version: facts.version.clone(),
        monitor_digest_sha256: Some(artifacts.monitor.sha256.clone()),
        execution: facts.execution,
        initrd_digest_sha256: artifacts.initrd.as_ref().map(|file| file.sha256.clone()),
        guest_kernel: hello.map_or_else(String::new, |hello| hello.kernel_release.clone()),
        guest_version: hello.map_or_else(String::new, |hello| hello.guest_version.clone()),
        vcpus: plan.shape.vcpus,
        memory_bytes: plan.shape.memory_bytes(),
        origin: parked.map_or(MachineOrigin::Booted, |parked| parked.origin),
        ready_after,
        exit_authentication: ExitAuthentication::Session,
    }
}

fn with_left(error: CellosError, left: &[String]) -> CellosError {
    match error {
        CellosError::Host(text) if !left.is_empty() => {
            CellosError::Host(format!("{text}; left on the host: {}", left.join("; ")))
        }
        other => other,
    }
}
