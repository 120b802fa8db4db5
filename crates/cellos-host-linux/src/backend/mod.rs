//! The backend as the supervisor sees it.

mod connection;

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Child,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    admission::is_portable_id,
    descriptor::BackendDescriptor,
    ports::{
        CellBackend, CellHandle, TeardownReport,
        network::{CellNetwork, NetworkNeeds},
        workload::{
            ExitReport, Posture, ReleaseError, Released, Residue, StopSignal, Streams,
            WorkingFolder, WorkloadControl,
        },
    },
};
use cellos_isolation::{
    Launcher, LauncherOptions,
    plan::CellPlan,
    protocol::{CellKey, Created, Ended, Failure, Reply, Request},
};
use tokio::{io::unix::AsyncFd, sync::watch, task::JoinHandle};

use self::connection::{Entry, Fate, Live, Shared, launcher_gone, read_answers};
use crate::descriptor;

/// The Linux backend.
///
/// It belongs to the tokio runtime it was made in. Dropping it ends every cell that is left.
pub struct LinuxBackend {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    process: Option<Child>,
    descriptor: BackendDescriptor,
}

impl LinuxBackend {
    /// A backend that has the given launcher do its work.
    ///
    /// # Errors
    /// [`CellosError::Host`] outside a tokio runtime, or when the socket cannot be watched.
    pub fn new(launcher: Launcher, options: &LauncherOptions) -> Result<Self, CellosError> {
        let host = |error: io::Error| CellosError::Host(format!("watch the launcher: {error}"));
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| CellosError::Host(error.to_string()))?;
        rustix::io::ioctl_fionbio(&launcher.socket, true).map_err(|error| host(error.into()))?;
        // SAFETY: the descriptor is owned by what registers it and closed only after it has been
        // deregistered, when that is dropped.
        let socket =
            unsafe { AsyncFd::register(launcher.socket) }.map_err(|error| host(error.into()))?;
        let shared = Arc::new(Shared {
            socket,
            state: Mutex::default(),
        });
        let reader = runtime.spawn(read_answers(Arc::clone(&shared)));
        Ok(Self {
            shared,
            reader,
            process: launcher.process,
            descriptor: descriptor::describe(options),
        })
    }

    /// What the backend enforces on this host, without a launcher.
    #[must_use]
    pub fn describe(options: &LauncherOptions) -> BackendDescriptor {
        descriptor::describe(options)
    }

    /// Cells that exist or are being built.
    #[must_use]
    pub fn tracked_cell_count(&self) -> usize {
        self.shared.state().cells.len()
    }

    fn live<T>(
        &self,
        cell_id: &str,
        look: impl FnOnce(&Live) -> Result<T, CellosError>,
    ) -> Result<T, CellosError> {
        match self.shared.state().cells.get(cell_id) {
            Some(Entry::Live(live)) => look(live),
            Some(Entry::Creating) => Err(being_built(cell_id)),
            None => Err(unknown(cell_id)),
        }
    }

    /// Ends a cell that was made, but not as it should be.
    async fn end_unwanted(&self, key: CellKey) -> Result<(), CellosError> {
        let answer = self.shared.call(Request::Destroy(key), &[]).await?;
        self.shared.state().by_key.remove(&key);
        match answer.reply {
            Reply::Destroyed => Ok(()),
            other => Err(failed(other)),
        }
    }
}

impl Drop for LinuxBackend {
    fn drop(&mut self) {
        // The reader holds the socket; with it the socket closes, and the launcher ends.
        self.reader.abort();
        let _ = rustix::net::shutdown(self.shared.socket.get_ref(), rustix::net::Shutdown::Both);
        if let Some(process) = &mut self.process {
            let _ = process.wait();
        }
    }
}

/// Gives a reserved id back unless the creation succeeded, also when its future is dropped.
struct Reservation<'a> {
    shared: &'a Shared,
    cell_id: &'a str,
    kept: bool,
}

impl<'a> Reservation<'a> {
    fn take(shared: &'a Shared, cell_id: &'a str) -> Result<Self, CellosError> {
        let mut state = shared.state();
        if state.cells.contains_key(cell_id) {
            return Err(CellosError::Host(format!(
                "cell {cell_id:?} is already active: no duplicate live cells"
            )));
        }
        state.cells.insert(cell_id.to_owned(), Entry::Creating);
        Ok(Self {
            shared,
            cell_id,
            kept: false,
        })
    }

    fn keep(
        mut self,
        created: Created,
        working_folder: Option<OwnedFd>,
        network: Option<CellNetwork>,
    ) {
        let mut state = self.shared.state();
        let fate = state
            .by_key
            .entry(created.cell)
            .or_insert_with(|| watch::Sender::new(None))
            .subscribe();
        let live = Live {
            created,
            fate,
            working_folder,
            network,
        };
        state
            .cells
            .insert(self.cell_id.to_owned(), Entry::Live(Box::new(live)));
        self.kept = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.state().cells.remove(self.cell_id);
        }
    }
}

#[async_trait]
impl CellBackend for LinuxBackend {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        let cell_id = spec.spec.id.as_str();
        // Names of control groups are made from it, so it is checked here again.
        if !is_portable_id(cell_id) {
            return Err(CellosError::InvalidSpec(format!(
                "spec.id: {cell_id:?} is not 1 to 128 letters, digits, `.`, `_` and `-`, starting \
                 with a letter or digit, without `..`"
            )));
        }
        let reservation = Reservation::take(&self.shared, cell_id)?;
        // Taken whatever comes of the creation: needs are those of one cell.
        let needs = self.shared.state().needs.remove(cell_id);
        let has_network = needs.is_some();
        let plan = CellPlan::from_document(spec)?;
        let plan = match needs {
            Some(needs) => plan.with_network(needs)?,
            None => plan,
        };
        let answer = self
            .shared
            .call(Request::Create(Box::new(plan)), &[])
            .await?;
        match answer.reply {
            Reply::Created(created) => {
                let network = answer.network;
                let arrived = socket_count(&network);
                if arrived != created.network_sockets {
                    let lost = CellosError::Host(format!(
                        "of {} sockets of the network of cell {cell_id:?} {arrived} arrived: \
                         raise the limit on open files (ulimit -n)",
                        created.network_sockets
                    ));
                    self.end_unwanted(created.cell).await?;
                    return Err(lost);
                }
                let network = has_network.then_some(network);
                let handle = CellHandle {
                    cell_id: cell_id.to_owned(),
                    cgroup_path: created.cgroup_path.clone(),
                    nft_rules_applied: None,
                    kernel_digest_sha256: None,
                    rootfs_digest_sha256: None,
                    firecracker_digest_sha256: None,
                };
                reservation.keep(*created, answer.descriptor, network);
                Ok(handle)
            }
            other => Err(failed(other)),
        }
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
        let mut fate = match self.live(cell_id, |live| Ok(live.fate.clone())) {
            Ok(fate) => fate,
            Err(error) => return Some(Err(error)),
        };
        let known = fate
            .wait_for(Option::is_some)
            .await
            .map(|fate| fate.clone());
        Some(match known {
            Ok(fate) => exit_report(cell_id, fate).map(|report| report.end.shell_code()),
            Err(_) => Err(CellosError::Host(format!(
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
impl WorkloadControl for LinuxBackend {
    async fn posture(&self, cell_id: &str) -> Result<Posture, CellosError> {
        self.live(cell_id, |live| Ok(live.created.posture.clone()))
    }

    async fn release(&self, cell_id: &str, streams: Streams) -> Result<Released, ReleaseError> {
        let key = self.live(cell_id, |live| Ok(live.created.cell))?;
        let streams = [streams.stdin, streams.stdout, streams.stderr];
        match self
            .shared
            .call(Request::Release(key), &streams)
            .await?
            .reply
        {
            Reply::Released { pid } => Ok(Released { pid }),
            Reply::Failed(Failure::CommandNotFound { program }) => {
                Err(ReleaseError::CommandNotFound { program })
            }
            Reply::Failed(Failure::NotExecutable { program, reason }) => {
                Err(ReleaseError::NotExecutable { program, reason })
            }
            other => Err(failed(other).into()),
        }
    }

    async fn stop(&self, cell_id: &str, how: StopSignal) -> Result<(), CellosError> {
        let Ok(key) = self.live(cell_id, |live| Ok(live.created.cell)) else {
            return Ok(());
        };
        match self
            .shared
            .call(Request::Stop(key, how.into()), &[])
            .await?
            .reply
        {
            Reply::Stopped => Ok(()),
            other => Err(failed(other)),
        }
    }

    async fn exit_report(&self, cell_id: &str) -> Result<ExitReport, CellosError> {
        let fate = self.live(cell_id, |live| Ok(live.fate.borrow().clone()))?;
        exit_report(cell_id, fate)
    }

    async fn working_folder(&self, cell_id: &str) -> Result<WorkingFolder, CellosError> {
        self.live(cell_id, |live| {
            let folder = live.working_folder.as_ref().map(OwnedFd::try_clone);
            match folder {
                Some(Ok(directory)) => Ok(WorkingFolder {
                    directory,
                    path: PathBuf::from(&live.created.working_folder),
                }),
                Some(Err(error)) => Err(CellosError::Host(format!(
                    "open the working folder: {error}"
                ))),
                None => Err(CellosError::Host(
                    "the launcher sent no working folder".to_owned(),
                )),
            }
        })
    }

    async fn prepare_network(&self, cell_id: &str, needs: NetworkNeeds) -> Result<(), CellosError> {
        let mut state = self.shared.state();
        if state.cells.contains_key(cell_id) {
            return Err(CellosError::Host(format!(
                "cell {cell_id:?} exists already: its network has to be prepared before"
            )));
        }
        state.needs.insert(cell_id.to_owned(), needs);
        Ok(())
    }

    async fn network(&self, cell_id: &str) -> Result<CellNetwork, CellosError> {
        match self.shared.state().cells.get_mut(cell_id) {
            Some(Entry::Live(live)) => live.network.take().ok_or_else(|| {
                CellosError::Host(format!(
                    "cell {cell_id:?} has no network, or it was handed over before"
                ))
            }),
            Some(Entry::Creating) => Err(being_built(cell_id)),
            None => Err(unknown(cell_id)),
        }
    }

    async fn destroy_and_measure(
        &self,
        handle: &CellHandle,
    ) -> Result<(TeardownReport, Residue), CellosError> {
        let cell_id = handle.cell_id.as_str();
        let taken = {
            let mut state = self.shared.state();
            state.needs.remove(cell_id);
            match state.cells.get(cell_id) {
                Some(Entry::Live(_)) => match state.cells.remove(cell_id) {
                    Some(Entry::Live(live)) => Some(live),
                    _ => None,
                },
                // Somebody else's creation of the same id, or nothing.
                _ => None,
            }
        };
        let Some(live) = taken else {
            let report = self.report(cell_id, Removed::No);
            return Ok((report, Residue::default()));
        };
        let key = live.created.cell;
        let fate = live.fate.clone();
        drop(live);
        let running = fate.borrow().is_none();
        if running {
            // The cell's end is told before this is answered.
            match self.shared.call(Request::Destroy(key), &[]).await?.reply {
                Reply::Destroyed => {}
                other => return Err(failed(other)),
            }
        }
        self.shared.state().by_key.remove(&key);
        let fate = fate.borrow().clone();
        match fate {
            Some(Fate::Ended(Ended { residue, .. })) => {
                Ok((self.report(cell_id, Removed::Yes), residue))
            }
            Some(Fate::Lost) => Err(launcher_gone()),
            None => Err(CellosError::Host(format!(
                "the launcher did not say what is left of cell {cell_id:?}"
            ))),
        }
    }
}

enum Removed {
    Yes,
    No,
}

impl LinuxBackend {
    fn report(&self, cell_id: &str, removed: Removed) -> TeardownReport {
        TeardownReport {
            cell_id: cell_id.to_owned(),
            destroyed: matches!(removed, Removed::Yes),
            peers_tracked_after: self.tracked_cell_count(),
        }
    }
}

fn failed(reply: Reply) -> CellosError {
    match reply {
        Reply::Failed(Failure::InvalidSpec(text)) => CellosError::InvalidSpec(text),
        Reply::Failed(Failure::Host(text)) => CellosError::Host(text),
        other => CellosError::Host(format!("the launcher gave an unexpected answer: {other:?}")),
    }
}

fn exit_report(cell_id: &str, fate: Option<Fate>) -> Result<ExitReport, CellosError> {
    match fate {
        Some(Fate::Ended(Ended {
            end: Ok(report), ..
        })) => Ok(report),
        Some(Fate::Ended(Ended { end: Err(why), .. })) => {
            Err(CellosError::Host(format!("cell {cell_id:?}: {why}")))
        }
        Some(Fate::Lost) => Err(CellosError::Host(format!(
            "cell {cell_id:?}: the launcher died, and with it every cell"
        ))),
        None => Err(CellosError::Host(format!("cell {cell_id:?} still runs"))),
    }
}

fn socket_count(network: &CellNetwork) -> usize {
    network.tcp.len()
        + network.udp.len()
        + network.inbound.len()
        + usize::from(network.refusals.is_some())
}

fn being_built(cell_id: &str) -> CellosError {
    CellosError::Host(format!("cell {cell_id:?} is being built"))
}

fn unknown(cell_id: &str) -> CellosError {
    CellosError::Host(format!("no cell {cell_id:?} is tracked"))
}
