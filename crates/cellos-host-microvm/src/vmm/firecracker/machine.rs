//! A machine of Firecracker's, from the first thing it has on the host to the last.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustix::{fs::Mode, process::Pid};
use tokio::{
    net::UnixStream,
    task,
    time::{self, Instant},
};

use super::{
    NAME,
    api::Api,
    bridge::Bridge,
    ids::IdLease,
    jail::{self, MEMORY, PROGRAM, Place, STATE},
    process,
    requests::{Action, ActionType, Call, InstanceState, SnapshotCreate, SnapshotType, VmState},
    running::Running,
    stage::{self, Reader, Use},
    version::{RESTORES, Version},
};
use crate::{
    limits::MonitorGroup,
    plan::MachineShape,
    vmm::{Machine, MonitorEnd, Snapshot, VmmError},
};

/// How long a monitor may take from its start until it answers. Firecracker needs 6 to 60 ms; a
/// jailer on a host with many mounts and machines ten times that.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two looks for the socket: a small part of what a monitor takes to make it.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// How long a killed monitor may take to be gone, before the second blow and after it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How much later than a broken connection an end may be seen and still be its reason.
const END_AFTER_BREAK: Duration = Duration::from_millis(200);

/// Longest file that a jailer writes a process id to, in bytes.
const PID_FILE_BYTES: u64 = 32;

/// What a machine has on the host. It is filled step by step; [`FirecrackerMachine::remove`] undoes
/// whatever is there.
#[derive(Debug)]
pub(crate) struct FirecrackerMachine {
    pub(super) shape: MachineShape,
    pub(super) version: Version,
    /// The machine's own folder, which whoever boots it made and removes.
    pub(super) folder: PathBuf,
    pub(super) place: Place,
    pub(super) lease: Mutex<Option<IdLease>>,
    pub(super) groups: Arc<MonitorGroup>,
    pub(super) bridge: Option<Bridge>,
    pub(super) process: Option<Running>,
    pub(super) api: Option<Api>,
    pub(super) monitor: Option<(Pid, OwnedFd)>,
    pub(super) removing: tokio::sync::Mutex<()>,
}

impl FirecrackerMachine {
    /// Makes a call of the management interface, unless the monitor ends meanwhile.
    pub(super) async fn call<C: Call>(&self, call: &C) -> Result<(), VmmError> {
        let during = format!("{} {}", C::METHOD, call.path());
        let (Some(api), Some(process)) = (&self.api, &self.process) else {
            return Err(gone(&during));
        };
        let failed = tokio::select! {
            biased;
            answered = api.call(call) => match answered {
                Err(error) => error,
                Ok(()) => return Ok(()),
            },
            end = process.ended() => return Err(self.ended_during(end, &during).await),
        };
        if matches!(failed, VmmError::Unreadable { .. })
            && let Ok(end) = time::timeout(END_AFTER_BREAK, process.ended()).await
        {
            return Err(self.ended_during(end, &during).await);
        }
        Err(failed)
    }

    /// Waits until the monitor's socket answers, and no longer than the monitor lives.
    pub(super) async fn connect(&mut self) -> Result<(), VmmError> {
        let socket = self.place.on_host(jail::API_SOCKET);
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.api.is_none() {
            match Api::connect(&socket).await {
                Ok(api) => self.api = Some(api),
                Err(error) => self.wait_a_little(deadline, "its socket", error).await?,
            }
        }
        Ok(())
    }

    /// Finds the monitor's own process: not the jailer, and not what took its place.
    pub(super) async fn find_monitor(&mut self) -> Result<(), VmmError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.monitor.is_none() {
            match self.look_for_monitor() {
                Ok(Some(found)) => self.monitor = Some(found),
                Ok(None) => {
                    let error = io::Error::from(io::ErrorKind::NotFound);
                    self.wait_a_little(deadline, "its process", error).await?;
                }
                Err(error) => self.wait_a_little(deadline, "its process", error).await?,
            }
        }
        Ok(())
    }

    /// The handle is taken before the process is looked at, and asked again afterwards, so that
    /// all that was seen is of one process.
    fn look_for_monitor(&self) -> io::Result<Option<(Pid, OwnedFd)>> {
        let Some(process) = &self.process else {
            return Ok(None);
        };
        for candidate in process.candidates()? {
            let handle = process::handle(candidate)?;
            let is_it = match self.place.owner() {
                None => true,
                Some(_) => self.is_jailed(candidate)?,
            };
            if is_it && !process::is_gone(&handle) {
                return Ok(Some((candidate, handle)));
            }
        }
        Ok(None)
    }

    /// Whether a process is the one that the jailer wrote down: first of a namespace of its own,
    /// with the number that the file has one namespace further out, and rooted in this jail.
    fn is_jailed(&self, candidate: Pid) -> io::Result<bool> {
        let file = format!("{PROGRAM}.pid");
        let written = stage::read_from_monitor(self.place.open(), &file, PID_FILE_BYTES)?;
        let written: u32 = written.trim().parse().map_err(io::Error::other)?;
        let ids = process::namespaced_ids(candidate)?;
        Ok(ids.ends_with(&[written, 1]) && process::has_root(candidate, self.place.open())?)
    }

    async fn wait_a_little(
        &self,
        deadline: Instant,
        what: &str,
        last: io::Error,
    ) -> Result<(), VmmError> {
        let Some(process) = &self.process else {
            return Err(gone(what));
        };
        if Instant::now() >= deadline {
            return Err(VmmError::Timeout {
                monitor: NAME,
                request: format!("the wait for {what} ({last})"),
                bound: READY_TIMEOUT,
            });
        }
        tokio::select! {
            biased;
            end = process.ended() => Err(self.ended_during(end, &format!("the wait for {what}")).await),
            () = time::sleep(LOOK_PAUSE) => Ok(()),
        }
    }

    async fn ended_during(&self, end: MonitorEnd, during: &str) -> VmmError {
        if let Some(process) = &self.process {
            process.drained().await;
        }
        let said = self.process.as_ref().map(|process| {
            let errors = process.errors();
            // Firecracker logs to its output; a jailer complains to its errors.
            if errors.trim().is_empty() {
                process.output()
            } else {
                errors
            }
        });
        VmmError::Ended {
            monitor: NAME,
            end: process::describe(end),
            during: during.to_owned(),
            said: said.unwrap_or_default().trim().to_owned(),
        }
    }

    /// Ends the monitor. Says whether everything of it is gone.
    async fn end(&self) -> bool {
        let Some(process) = &self.process else {
            return true;
        };
        if process.has_ended().is_some() {
            return true;
        }
        process.kill();
        if time::timeout(KILL_TIMEOUT, process.ended()).await.is_ok() {
            return true;
        }
        process.kill_again();
        let _ = time::timeout(KILL_TIMEOUT, process.ended()).await;
        self.monitor
            .as_ref()
            .is_none_or(|(_, handle)| process::is_gone(handle))
    }

    /// Makes the files that the monitor wrote ours, puts them into the machine's folder and
    /// measures them. The monitor has ended, so nobody writes to them any more.
    fn keep_snapshot(
        folder: &File,
        place: &File,
        shape: MachineShape,
        path: &std::path::Path,
    ) -> io::Result<Snapshot> {
        let mut sha256 = [String::new(), String::new()];
        for (name, sha256) in [STATE, MEMORY].into_iter().zip(&mut sha256) {
            let file = stage::open_from_monitor(place, name)?;
            rustix::fs::fchown(
                &file,
                Some(rustix::process::geteuid()),
                Some(rustix::process::getegid()),
            )?;
            // Readable for the monitors that are restored from it, each of another user; the
            // folder keeps everybody else out.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
            *sha256 = stage::digest(&file)?;
            if !same_folder(folder, place)? {
                let target = folder.as_fd();
                stage::stage(&file, sha256, target, name, Reader::Anybody, Use::Read)?;
            }
        }
        Ok(Snapshot {
            state: path.join(STATE),
            memory: path.join(MEMORY),
            sha256,
            shape,
        })
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn pid(&self) -> u32 {
        let monitor = self.monitor.as_ref();
        monitor.map_or(0, |(pid, _)| pid.as_raw_nonzero().get().cast_unsigned())
    }

    fn cgroup(&self) -> Option<PathBuf> {
        self.groups.primary()
    }

    async fn bridge(&self) -> Result<UnixStream, VmmError> {
        let during = "the wait for its guest to connect";
        let (Some(bridge), Some(process)) = (&self.bridge, &self.process) else {
            return Err(gone(during));
        };
        tokio::select! {
            // A connection of a machine that has ended since may still hold its last words.
            biased;
            Some(stream) = bridge.next() => Ok(stream),
            end = process.ended() => Err(self.ended_during(end, during).await),
        }
    }

    async fn ended(&self) -> MonitorEnd {
        match &self.process {
            Some(process) => process.ended().await,
            None => MonitorEnd(None),
        }
    }

    fn console_tail(&self) -> String {
        let process = self.process.as_ref();
        process.map_or_else(String::new, Running::output)
    }

    async fn ask_to_end(&self) -> Result<(), VmmError> {
        self.call(&Action {
            action_type: ActionType::SendCtrlAltDel,
        })
        .await
    }

    async fn snapshot(&self) -> Result<Snapshot, VmmError> {
        if self.version < RESTORES {
            return Err(VmmError::Unsupported {
                monitor: NAME,
                what: "restore a guest with vsock before its version 1.16.1",
            });
        }
        self.call(&VmState {
            state: InstanceState::Paused,
        })
        .await?;
        self.call(&SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            snapshot_path: &self.place.seen(STATE),
            mem_file_path: &self.place.seen(MEMORY),
        })
        .await?;
        let failed = |source| VmmError::Host {
            step: "keep the snapshot's files".into(),
            source,
        };
        if !self.end().await {
            return Err(failed(io::Error::from(io::ErrorKind::TimedOut)));
        }
        let place = self.place.open().try_clone().map_err(failed)?;
        let path = self.folder.clone();
        let shape = self.shape;
        let kept = task::spawn_blocking(move || {
            let folder = jail::open_folder(&path)?;
            Self::keep_snapshot(&folder, &place, shape, &path)
        });
        let kept = kept
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)?;
        // Its id and its jail are of no use any more. What cannot be removed is said when the
        // machine is, which looks again.
        let _ = self.remove().await;
        Ok(kept)
    }

    async fn remove(&self) -> Vec<String> {
        let _one_at_a_time = self.removing.lock().await;
        let mut residue = Vec::new();
        if let Some(bridge) = &self.bridge {
            bridge.close();
        }
        let gone = self.end().await;
        if !gone {
            residue.push(format!("the monitor {} does not end", self.pid()));
        }
        let groups = Arc::clone(&self.groups);
        // It may wait until the kernel counts nobody in them any more.
        let groups = task::spawn_blocking(move || groups.remove()).await;
        residue.extend(groups.unwrap_or_else(|error| vec![format!("control groups: {error}")]));
        if let Err(error) = self.place.remove() {
            residue.push(format!("{}: {error}", self.place.path().display()));
        }
        residue.extend(remove_program(&self.folder));
        // Its own eyes, not the answers of what was just asked to go.
        for line in self.place.residue() {
            if !residue.contains(&line) {
                residue.push(line);
            }
        }
        if gone {
            // Only now: another machine may get it.
            let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            *lease = None;
        }
        residue
    }
}

/// The program that was staged for the jailer.
fn remove_program(folder: &std::path::Path) -> Option<String> {
    match std::fs::remove_file(folder.join(PROGRAM)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Some(format!("{}: {error}", folder.join(PROGRAM).display()))
        }
        _ => None,
    }
}

fn same_folder(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let [one, other] = [one.metadata()?, other.metadata()?];
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn gone(during: &str) -> VmmError {
    VmmError::Ended {
        monitor: NAME,
        end: "it was never there".into(),
        during: during.to_owned(),
        said: String::new(),
    }
}
