//! A backend for testing the contract: it runs ordinary processes without any isolation, and can
//! be made to break the contract in one way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    descriptor::{BackendDescriptor, Feature},
    ports::{
        CellBackend, CellHandle, TeardownReport,
        workload::{
            ExitReport, Posture, ReleaseError, Released, Residue, StopSignal, Streams, Usage,
            WorkingFolder, WorkloadControl, WorkloadEnd,
        },
    },
};
use cellos_testkit::contract::BackendUnderTest;
use tempfile::TempDir;
use tokio::sync::watch;

/// Long enough for a race to be lost.
const RACE: Duration = Duration::from_millis(50);
/// Names, in every process of a cell, the cell's folder, by which they are found again.
const MARK: &str = "CELLOS_DOUBLE_CELL";

/// Whether the double has workload control.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Offered,
    Absent,
}

/// The one way in which it breaks the contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    AcceptsDuplicates,
    DuplicateHarms,
    CreateRaces,
    NeverFreesIds,
    AcceptsHostileIds,
    CallsHostileIdsAHostError,
    RefusesLongIds,
    CutsIds,
    IgnoresFaults,
    FaultLeavesFolder,
    FaultLeavesDescriptor,
    FaultKeepsId,
    AlwaysDestroyed,
    DestroyRaces,
    UnknownDestroyTakesAnother,
    ErrorWithoutTheId,
    CountsGhosts,
    CodeForUnknown,
    LeaksFolder,
    LeaksDescriptor,
    LeaksThread,
    LeaksTask,
    LeaksProcess,
    RunsAtCreate,
    LosesCodes,
    SignalIsMinusOne,
    WaitConsumes,
    SwapsOutputs,
    TerminateKills,
    ReleasesTwice,
    AbsentIsAnyError,
    DestroyDetaches,
    DaemonsSurvive,
    InventsExitReports,
    ForgetsTheEndOnStop,
    PromisesProcesses,
    LooksForNothing,
}

pub(crate) struct Double {
    engine: Arc<Engine>,
    _root: TempDir,
}

struct Engine {
    flaw: Flaw,
    control: Control,
    root: PathBuf,
    cells: Mutex<HashMap<String, Arc<Cell>>>,
    used: Mutex<HashSet<String>>,
    fault: Mutex<Option<String>>,
    hoard: Mutex<Vec<File>>,
    folders: AtomicUsize,
}

struct Cell {
    argv: Vec<String>,
    folder: PathBuf,
    stage: Mutex<Stage>,
    end: watch::Sender<Option<WorkloadEnd>>,
}

enum Stage {
    /// Without workload control there is no process.
    Idle,
    Parked(Child),
    Running(u32),
    Failed,
}

impl Double {
    pub(crate) fn new(flaw: Flaw, control: Control) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            engine: Arc::new(Engine {
                flaw,
                control,
                root: root.path().into(),
                cells: Mutex::default(),
                used: Mutex::default(),
                fault: Mutex::default(),
                hoard: Mutex::default(),
                folders: AtomicUsize::new(0),
            }),
            _root: root,
        }
    }
}

impl BackendUnderTest for Double {
    fn backend(&self) -> Arc<dyn CellBackend> {
        self.engine.clone()
    }

    fn leftovers(&self) -> Vec<String> {
        fs::read_dir(&self.engine.root)
            .unwrap()
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect()
    }

    fn fault_points(&self) -> Vec<String> {
        vec!["before the folder".into(), "after the folder".into()]
    }

    fn inject(&self, point: &str) {
        *self.engine.fault.lock().unwrap() = Some(point.into());
    }

    fn cycles(&self) -> usize {
        match self.engine.flaw {
            Flaw::None => cellos_testkit::contract::CYCLES,
            _ => 10,
        }
    }
}

fn host(text: impl Into<String>) -> CellosError {
    CellosError::Host(text.into())
}

fn well_formed(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.len() <= 128
        && !id.contains("..")
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

impl Engine {
    fn cell(&self, id: &str) -> Result<Arc<Cell>, CellosError> {
        let cells = self.cells.lock().unwrap();
        cells
            .get(id)
            .cloned()
            .ok_or_else(|| host(format!("no cell {id:?}")))
    }

    fn fails_at(&self, point: &str) -> Result<(), CellosError> {
        let mut fault = self.fault.lock().unwrap();
        if fault.as_deref() == Some(point) && self.flaw != Flaw::IgnoresFaults {
            *fault = None;
            return Err(host(format!("a fault {point}")));
        }
        Ok(())
    }

    fn build(&self, document: &ExecutionCellDocument) -> Result<Cell, CellosError> {
        self.fails_at("before the folder")?;
        let number = self.folders.fetch_add(1, Ordering::SeqCst);
        let folder = self.root.join(number.to_string());
        fs::create_dir(&folder).unwrap();
        if let Err(error) = self.fails_at("after the folder") {
            if self.flaw == Flaw::FaultLeavesDescriptor {
                self.hoard
                    .lock()
                    .unwrap()
                    .push(File::open(&folder).unwrap());
            }
            if self.flaw != Flaw::FaultLeavesFolder {
                fs::remove_dir(&folder).unwrap();
            }
            return Err(error);
        }
        let argv = document.spec.run.as_ref().unwrap().argv.clone();
        if self.flaw == Flaw::RunsAtCreate {
            let mut early = Command::new(&argv[0]);
            early
                .args(&argv[1..])
                .current_dir(&folder)
                .status()
                .unwrap();
        }
        let stage = match self.control {
            Control::Absent => Stage::Idle,
            Control::Offered => Stage::Parked(
                Command::new("sleep")
                    .arg("600")
                    .env(MARK, &folder)
                    .spawn()
                    .unwrap(),
            ),
        };
        Ok(Cell {
            argv,
            folder,
            stage: Mutex::new(stage),
            end: watch::channel(None).0,
        })
    }

    fn leak(&self, cell: &Cell) {
        match self.flaw {
            Flaw::LeaksFolder => fs::create_dir(cell.folder.with_extension("left")).unwrap(),
            Flaw::LeaksDescriptor => {
                let file = File::open("/dev/null").unwrap();
                self.hoard.lock().unwrap().push(file);
            }
            Flaw::LeaksThread => {
                std::thread::spawn(|| std::thread::sleep(Duration::from_secs(20)));
            }
            Flaw::LeaksTask => {
                tokio::spawn(std::future::pending::<()>());
            }
            Flaw::LeaksProcess => {
                #[allow(clippy::zombie_processes, reason = "a zombie is the leak")]
                let _never_waited_for = Command::new("true").spawn().unwrap();
            }
            _ => {}
        }
    }
}

#[async_trait]
impl CellBackend for Engine {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        let mut id = spec.spec.id.clone();
        if !well_formed(&id) && self.flaw != Flaw::AcceptsHostileIds {
            return Err(match self.flaw {
                Flaw::CallsHostileIdsAHostError => host("bad id"),
                _ => CellosError::InvalidSpec("spec.id".into()),
            });
        }
        match self.flaw {
            Flaw::RefusesLongIds if id.len() > 64 => {
                return Err(CellosError::InvalidSpec("spec.id".into()));
            }
            Flaw::CutsIds => id.truncate(64),
            Flaw::NeverFreesIds if !self.used.lock().unwrap().insert(id.clone()) => {
                return Err(host("used"));
            }
            _ => {}
        }
        if self.cells.lock().unwrap().contains_key(&id) && self.flaw != Flaw::AcceptsDuplicates {
            if self.flaw == Flaw::DuplicateHarms {
                let harmed = self.cells.lock().unwrap().remove(&id);
                fs::remove_dir_all(&harmed.unwrap().folder).unwrap();
            }
            return Err(host(format!("{id} lives")));
        }
        if self.flaw == Flaw::CreateRaces {
            tokio::time::sleep(RACE).await;
        } else {
            // One at a time from the check to the entry.
            let mut cells = self.cells.lock().unwrap();
            if cells.contains_key(&id) && self.flaw != Flaw::AcceptsDuplicates {
                return Err(host(format!("{id} lives")));
            }
            match self.build(spec) {
                Ok(cell) => cells.insert(id.clone(), Arc::new(cell)),
                Err(error) => {
                    if self.flaw == Flaw::FaultKeepsId {
                        let cell = self.build(spec)?;
                        fs::remove_dir(&cell.folder).unwrap();
                        cells.insert(id, Arc::new(cell));
                    }
                    return Err(error);
                }
            };
            drop(cells);
            return Ok(handle(id));
        }
        let cell = Arc::new(self.build(spec)?);
        self.cells.lock().unwrap().insert(id.clone(), cell);
        Ok(handle(id))
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        let id = &handle.cell_id;
        if self.flaw == Flaw::DestroyRaces && self.cells.lock().unwrap().contains_key(id) {
            tokio::time::sleep(RACE).await;
            let cell = self.cells.lock().unwrap().remove(id);
            if let Some(cell) = cell {
                fs::remove_dir_all(&cell.folder).unwrap();
            }
            return Ok(TeardownReport {
                cell_id: id.clone(),
                destroyed: true,
                peers_tracked_after: 0,
            });
        }
        let (cell, left) = {
            let mut cells = self.cells.lock().unwrap();
            (cells.remove(id), cells.len())
        };
        let Some(cell) = cell else {
            return match self.flaw {
                Flaw::ErrorWithoutTheId => Err(host("no such cell")),
                Flaw::UnknownDestroyTakesAnother => {
                    for (_, other) in self.cells.lock().unwrap().drain() {
                        fs::remove_dir_all(&other.folder).unwrap();
                    }
                    Ok(TeardownReport::default())
                }
                flaw => Ok(TeardownReport {
                    cell_id: id.clone(),
                    destroyed: flaw == Flaw::AlwaysDestroyed,
                    peers_tracked_after: left,
                }),
            };
        };
        match &mut *cell.stage.lock().unwrap() {
            Stage::Parked(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Stage::Running(pid) if self.flaw == Flaw::DaemonsSurvive => signal("-KILL", *pid),
            Stage::Running(pid) if self.flaw != Flaw::DestroyDetaches => {
                kill_cell(*pid, &cell.folder);
            }
            _ => {}
        }
        if matches!(*cell.stage.lock().unwrap(), Stage::Running(_))
            && self.flaw != Flaw::DestroyDetaches
        {
            let mut end = cell.end.subscribe();
            end.wait_for(Option::is_some).await.unwrap();
        }
        fs::remove_dir_all(&cell.folder).unwrap();
        self.leak(&cell);
        Ok(TeardownReport {
            cell_id: id.clone(),
            destroyed: true,
            peers_tracked_after: left + usize::from(self.flaw == Flaw::CountsGhosts),
        })
    }

    async fn wait_for_in_vm_exit(&self, cell_id: &str) -> Option<Result<i32, CellosError>> {
        let Ok(cell) = self.cell(cell_id) else {
            return (self.flaw == Flaw::CodeForUnknown).then_some(Ok(0));
        };
        if self.control == Control::Absent {
            return None;
        }
        let mut receiver = cell.end.subscribe();
        drop(cell);
        let end = match receiver.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(WorkloadEnd::Backstop),
            Err(_) => return Some(Err(host(format!("{cell_id} was destroyed")))),
        };
        if self.flaw == Flaw::WaitConsumes {
            tokio::time::sleep(RACE).await;
            self.cell(cell_id).ok()?.end.send_replace(None)?;
        }
        Some(Ok(match (self.flaw, end) {
            (Flaw::LosesCodes, _) => 0,
            (Flaw::SignalIsMinusOne, WorkloadEnd::Signalled { .. }) => -1,
            _ => end.shell_code(),
        }))
    }

    fn descriptor(&self) -> BackendDescriptor {
        let descriptor = BackendDescriptor::nothing("double", "a backend for testing the contract");
        match self.flaw {
            Flaw::PromisesProcesses => descriptor.enforces(Feature::Processes, "nothing"),
            _ => descriptor,
        }
    }

    fn workload(&self) -> Option<&dyn WorkloadControl> {
        match self.control {
            Control::Offered => Some(self),
            Control::Absent => None,
        }
    }
}

#[async_trait]
impl WorkloadControl for Engine {
    async fn posture(&self, cell_id: &str) -> Result<Posture, CellosError> {
        let cell = self.cell(cell_id)?;
        let pid = match &*cell.stage.lock().unwrap() {
            Stage::Parked(child) => child.id(),
            Stage::Running(pid) => *pid,
            Stage::Idle | Stage::Failed => return Err(host("no process")),
        };
        Ok(Posture {
            machine: None,
            pid,
            namespaces: namespaces(&pid.to_string()),
            host_namespaces: namespaces("self"),
            ..Posture::default()
        })
    }

    async fn release(&self, cell_id: &str, streams: Streams) -> Result<Released, ReleaseError> {
        let cell = self.cell(cell_id)?;
        let mut stage = cell.stage.lock().unwrap();
        match &mut *stage {
            Stage::Parked(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            _ if self.flaw == Flaw::ReleasesTwice => {}
            _ => return Err(host(format!("{cell_id} is not parked")).into()),
        }
        let (out, err) = match self.flaw {
            Flaw::SwapsOutputs => (streams.stderr, streams.stdout),
            _ => (streams.stdout, streams.stderr),
        };
        let program = cell.argv[0].clone();
        let spawned = Command::new(&program)
            .args(&cell.argv[1..])
            .current_dir(&cell.folder)
            .env(MARK, &cell.folder)
            // A folder that may not be searched turns an absent program into a refused one.
            .env("PATH", "/usr/bin:/bin")
            .stdin(streams.stdin)
            .stdout(out)
            .stderr(err)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                *stage = Stage::Failed;
                let reason = error.to_string();
                return Err(match error.kind() {
                    _ if self.flaw == Flaw::AbsentIsAnyError => host(reason).into(),
                    std::io::ErrorKind::NotFound => ReleaseError::CommandNotFound { program },
                    _ => ReleaseError::NotExecutable { program, reason },
                });
            }
        };
        let pid = child.id();
        *stage = Stage::Running(pid);
        let waited = Arc::clone(&cell);
        std::thread::spawn(move || {
            let end = end_of(child.wait().unwrap());
            waited.end.send_replace(Some(end));
        });
        Ok(Released { pid })
    }

    async fn stop(&self, cell_id: &str, how: StopSignal) -> Result<(), CellosError> {
        let Ok(cell) = self.cell(cell_id) else {
            return Ok(());
        };
        let ended = cell.end.borrow().is_some();
        if ended {
            if self.flaw == Flaw::ForgetsTheEndOnStop {
                cell.end
                    .send_replace(Some(WorkloadEnd::Signalled { signal: 9 }));
            }
            return Ok(());
        }
        match (&*cell.stage.lock().unwrap(), how) {
            (Stage::Running(pid), StopSignal::Terminate) => match self.flaw {
                Flaw::TerminateKills => signal("-KILL", *pid),
                _ => signal("-TERM", *pid),
            },
            (Stage::Running(pid), StopSignal::Kill) => kill_cell(*pid, &cell.folder),
            _ => {}
        }
        Ok(())
    }

    async fn exit_report(&self, cell_id: &str) -> Result<ExitReport, CellosError> {
        let end = *self.cell(cell_id)?.end.borrow();
        let end = match (end, self.flaw) {
            (Some(end), _) => end,
            (None, Flaw::InventsExitReports) => WorkloadEnd::Exited { code: 0 },
            (None, _) => return Err(host(format!("{cell_id} has not ended"))),
        };
        Ok(ExitReport {
            end,
            usage: Usage::default(),
            limits_hit: Vec::new(),
        })
    }

    async fn working_folder(&self, cell_id: &str) -> Result<WorkingFolder, CellosError> {
        let path = self.cell(cell_id)?.folder.clone();
        Ok(WorkingFolder {
            directory: File::open(&path).unwrap().into(),
            path,
        })
    }

    async fn destroy_and_measure(
        &self,
        handle: &CellHandle,
    ) -> Result<(TeardownReport, Residue), CellosError> {
        let folder = self.cell(&handle.cell_id)?.folder.clone();
        let report = self.destroy(handle).await?;
        let residue = match self.flaw {
            Flaw::LooksForNothing => Residue::default(),
            _ => Residue {
                looked_for: vec!["files".into()],
                found: folder
                    .exists()
                    .then(|| folder.display().to_string())
                    .into_iter()
                    .collect(),
            },
        };
        Ok((report, residue))
    }
}

fn handle(cell_id: String) -> CellHandle {
    CellHandle {
        cell_id,
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: None,
        rootfs_digest_sha256: None,
        firecracker_digest_sha256: None,
    }
}

fn end_of(status: ExitStatus) -> WorkloadEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => WorkloadEnd::Exited { code },
        (None, Some(signal)) => WorkloadEnd::Signalled { signal },
        (None, None) => WorkloadEnd::Backstop,
    }
}

fn namespaces(process: &str) -> BTreeMap<String, u64> {
    ["mnt", "net", "pid", "user"]
        .into_iter()
        .filter_map(|kind| {
            let inode = fs::metadata(format!("/proc/{process}/ns/{kind}"))
                .ok()?
                .ino();
            Some((kind.to_owned(), inode))
        })
        .collect()
}

fn signal(name: &str, pid: u32) {
    // It may have ended meanwhile.
    let _ = Command::new("kill").args([name, &pid.to_string()]).output();
}

/// Kills every process of the cell, until none is left to fork another. The first one goes by its
/// number, because a process has no readable environment in the moment of its `exec`.
fn kill_cell(pid: u32, folder: &Path) {
    signal("-KILL", pid);
    let mark = format!("{MARK}={}", folder.display());
    kill_all(|variable| variable == mark.as_bytes());
}

fn kill_all(is_mark: impl Fn(&[u8]) -> bool) {
    loop {
        let marked: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|all| all.split(|byte| *byte == 0).any(&is_mark))
            })
            .collect();
        if marked.is_empty() {
            return;
        }
        for pid in marked {
            signal("-KILL", pid);
        }
    }
}

/// Whatever a flaw or an early return left running.
impl Drop for Double {
    fn drop(&mut self) {
        for cell in self.engine.cells.lock().unwrap().values() {
            if let Stage::Running(pid) = &*cell.stage.lock().unwrap() {
                signal("-KILL", *pid);
            }
        }
        let mark = format!("{MARK}={}/", self.engine.root.display());
        kill_all(|variable| variable.starts_with(mark.as_bytes()));
    }
}
