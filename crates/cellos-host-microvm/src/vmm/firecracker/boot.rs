//! How a machine comes to run, step by step.

use std::{
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use cellos_isolation::{
    confined::{self, Output, Privileges},
    tether::{Network, Tether},
};
use tokio::task;

use super::{
    Firecracker, NAME,
    boot_args::{self, GuestContract},
    bridge::Bridge,
    ids::IdLease,
    jail::{
        self, API_SOCKET, BASE, INITRD, JailBase, KERNEL, MEMORY, PROGRAM, Place, STATE, VSOCK,
    },
    machine::FirecrackerMachine,
    process::Process,
    requests::{
        Action, ActionType, BackendType, BootSource, Drive, GUEST_CID, MachineConfig,
        MemoryBackend, SnapshotLoad, Vsock,
    },
    running::Running,
    stage::{self, Reader, Use},
    unusable, version,
};
use crate::{
    artifacts::Artifact,
    place::Resource,
    plan::MAX_VCPUS,
    vmm::{
        BRIDGE_PORT, BootOrder, Machine, Snapshot, VmmError,
        process::{Monitor, Start},
    },
};

/// Port of the published exit frame.
pub(crate) const PUBLISHED_EXIT_PORT: u32 = 9000;

/// Descriptors that a monitor may have: 1,023 connections of its vsock device, and as many again
/// for everything else. The jailer's own default.
const MAX_DESCRIPTORS: u32 = 2048;

/// What a monitor may write to one file beyond the guest's memory, which a snapshot is as large as.
const FILE_MARGIN_BYTES: u64 = 64 << 20;

/// Where a program that is not linked statically finds its libraries. Firecracker's own releases need
/// none.
const LIBRARIES: [&str; 5] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
];

/// What runs guests.
const KVM: &str = "/dev/kvm";

/// How a machine comes to run.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Boot,
    Snapshot(&'a Snapshot),
}

impl Firecracker {
    /// Makes a machine run, or leaves nothing of it.
    pub(super) async fn make(
        &self,
        order: &BootOrder<'_>,
        origin: Origin<'_>,
    ) -> Result<Box<dyn Machine>, VmmError> {
        if !jail::is_name(order.name.as_ref()) || order.shape.vcpus > MAX_VCPUS {
            return Err(unusable(format!(
                "no machine is called {:?} and has {} processors",
                order.name, order.shape.vcpus
            )));
        }
        let boot_args = boot_args::command_line(self.guest, order.extra_boot_arguments)?;
        let mut machine = self.prepare(order)?;
        let made = async {
            self.stage(&machine, order, origin).await?;
            self.start(&mut machine, order).await?;
            machine.connect().await?;
            machine.find_monitor().await?;
            match origin {
                Origin::Boot => self.configure(&machine, order, &boot_args).await,
                Origin::Snapshot(_) => load(&machine).await,
            }
        };
        match made.await {
            Ok(()) => Ok(Box::new(machine)),
            Err(error) => {
                let residue = machine.remove().await;
                Err(if residue.is_empty() {
                    error
                } else {
                    VmmError::LeftBehind {
                        residue: residue.join("; "),
                        source: Box::new(error),
                    }
                })
            }
        }
    }

    /// What a machine has before its monitor: an id, a place, control groups.
    fn prepare(&self, order: &BootOrder<'_>) -> Result<FirecrackerMachine, VmmError> {
        let lease = match &self.jails {
            Some(jails) => Some(jails.ids.lease()?),
            None => None,
        };
        let groups = self.groups.make(order.name, order.limits)?;
        // Noted once they are there: before that, their names tell whose they are.
        for path in groups.paths() {
            note(order, Resource::ControlGroup { path })?;
        }
        if let Some(jails) = &self.jails {
            note(
                order,
                Resource::Folder {
                    path: jails.base.jail(order.name),
                },
            )?;
        }
        let place = match (&self.jails, &lease) {
            (Some(jails), Some(lease)) => jails.base.make(order.name, lease.id),
            _ => Place::folder(order.folder),
        };
        let place = place.inspect_err(|_| {
            // Nobody was in them yet.
            let _ = groups.remove();
        })?;
        Ok(FirecrackerMachine {
            shape: order.shape,
            version: self.version,
            folder: order.folder.to_owned(),
            place,
            lease: Mutex::new(lease),
            groups: Arc::new(groups),
            bridge: None,
            process: None,
            api: None,
            monitor: None,
            removing: tokio::sync::Mutex::new(()),
        })
    }

    /// Puts what the monitor opens into its place.
    async fn stage(
        &self,
        machine: &FirecrackerMachine,
        order: &BootOrder<'_>,
        origin: Origin<'_>,
    ) -> Result<(), VmmError> {
        let mut files = vec![(BASE.to_owned(), order.artifacts.base.clone())];
        match origin {
            Origin::Boot => {
                files.push((KERNEL.to_owned(), order.artifacts.kernel.clone()));
                if let Some(initrd) = self.initrd(order) {
                    files.push((INITRD.to_owned(), initrd.clone()));
                }
            }
            Origin::Snapshot(snapshot) => {
                let [state, memory] = &snapshot.sha256;
                let verified = Arc::clone(&self.verified);
                let parts = [
                    (STATE, snapshot.state.clone(), state.clone()),
                    (MEMORY, snapshot.memory.clone(), memory.clone()),
                ];
                let opened = blocking("verify the snapshot", move || {
                    parts
                        .into_iter()
                        .map(|(name, path, sha256)| {
                            Ok((name.to_owned(), verified.open(&path, &sha256)?))
                        })
                        .collect::<io::Result<Vec<_>>>()
                });
                files.extend(opened.await?);
            }
        }
        #[cfg(test)]
        let extra_files = self.extra_files.clone();
        let program = self
            .jails
            .is_some()
            .then(|| order.artifacts.monitor.clone());
        let folder = order.folder.to_owned();
        let reader = machine.place.reader();
        let place = machine.place.open().try_clone();
        blocking("stage the machine's files", move || {
            let place = place?;
            for (name, file) in &files {
                put(file, place.as_fd(), name, reader, Use::Read)?;
            }
            #[cfg(test)]
            for (name, file, purpose) in &extra_files {
                put(file, place.as_fd(), name, reader, *purpose)?;
            }
            if let Some(program) = &program {
                // The jailer wants the file name to be the program's, and copies it.
                let folder = jail::open_folder(&folder)?;
                let name = PROGRAM;
                put(program, folder.as_fd(), name, Reader::Anybody, Use::Execute)?;
            }
            Ok(())
        })
        .await
    }

    /// Binds the listener and starts jailer or monitor.
    async fn start(
        &self,
        machine: &mut FirecrackerMachine,
        order: &BootOrder<'_>,
    ) -> Result<(), VmmError> {
        let listener = machine
            .place
            .on_host(&format!("{VSOCK}_{}", self.guest_port()));
        let dialler = machine.place.reader();
        let bridge = Bridge::bind(&listener, dialler).map_err(|source| VmmError::Host {
            step: format!("listen at {}", listener.display()),
            source,
        })?;
        machine.bridge = Some(bridge);
        let process = match (&self.jails, &order.artifacts.jailer, machine.place.owner()) {
            (Some(jails), Some(jailer), Some(owner)) => {
                let command = jailer_command(jailer, &jails.base, order, owner);
                Running::Jailed(start_jailed(machine, command, order.name).await?)
            }
            _ => Running::Confined(self.start_confined(machine, order).await?),
        };
        let process = machine.process.insert(process);
        // Until here it would have died with this process.
        let pid = process.id();
        if let Some(start_time) = crate::process::start_time(pid) {
            note(order, Resource::Process { pid, start_time })?;
        }
        Ok(())
    }

    /// Starts the monitor without a jailer: with nothing but its own folder.
    async fn start_confined(
        &self,
        machine: &FirecrackerMachine,
        order: &BootOrder<'_>,
    ) -> Result<Monitor, VmmError> {
        let place = &machine.place;
        let mut arguments = [NAME, "--id", order.name].map(str::to_owned).to_vec();
        arguments.extend(monitor_arguments(place));
        let confinement = confined::Order {
            arguments,
            environment: Vec::new(),
            working_folder: place.path().to_owned(),
            readable: LIBRARIES.iter().map(PathBuf::from).collect(),
            own: vec![place.path().to_owned()],
            reopened: Vec::new(),
            // Without it the monitor itself says what is missing.
            devices: Some(PathBuf::from(KVM))
                .filter(|device| device.exists())
                .into_iter()
                .collect(),
            control_groups: machine.groups.paths(),
            open_files: u64::from(MAX_DESCRIPTORS),
            file_bytes: file_bytes(order),
            privileges: Privileges::None,
            network: confined::Network::Empty,
            output: Output::Pipe,
        };
        Monitor::start(Start {
            name: NAME,
            helper: self.helper.clone(),
            order: confinement,
            program: Arc::clone(&order.artifacts.monitor.file),
            descriptors: Vec::new(),
            console: None,
        })
        .await
    }

    fn initrd<'a>(&self, order: &BootOrder<'a>) -> Option<&'a Artifact> {
        match self.guest {
            GuestContract::Bridge => order.artifacts.initrd.as_ref(),
            GuestContract::Published => None,
        }
    }

    /// The vsock port that the guest's PID 1 dials.
    pub(super) fn guest_port(&self) -> u32 {
        match self.guest {
            GuestContract::Bridge => BRIDGE_PORT,
            GuestContract::Published => PUBLISHED_EXIT_PORT,
        }
    }

    /// The calls, in the contract's order.
    async fn configure(
        &self,
        machine: &FirecrackerMachine,
        order: &BootOrder<'_>,
        boot_args: &str,
    ) -> Result<(), VmmError> {
        let place = &machine.place;
        machine
            .call(&MachineConfig {
                vcpu_count: order.shape.vcpus,
                mem_size_mib: order.shape.memory_mib,
                track_dirty_pages: false,
            })
            .await?;
        let initrd = self.initrd(order).map(|_| place.seen(INITRD));
        machine
            .call(&BootSource {
                kernel_image_path: &place.seen(KERNEL),
                initrd_path: initrd.as_deref(),
                boot_args,
            })
            .await?;
        machine
            .call(&Drive {
                drive_id: "rootfs",
                path_on_host: &place.seen(BASE),
                is_root_device: true,
                is_read_only: true,
                rate_limiter: self.disk_rate,
            })
            .await?;
        machine
            .call(&Vsock {
                guest_cid: GUEST_CID,
                uds_path: &place.seen(VSOCK),
            })
            .await?;
        machine
            .call(&Action {
                action_type: ActionType::InstanceStart,
            })
            .await
    }
}

/// Everything after `--` is the monitor's.
fn jailer_command(
    jailer: &Artifact,
    base: &JailBase,
    order: &BootOrder<'_>,
    owner: u32,
) -> Command {
    let file_bytes = file_bytes(order);
    let owner = owner.to_string();
    let mut command = Command::new(version::executable(jailer));
    command
        .current_dir("/")
        .args(["--id", order.name, "--uid", &owner, "--gid", &owner])
        .arg("--exec-file")
        .arg(order.folder.join(PROGRAM))
        .arg("--chroot-base-dir")
        .arg(&base.path)
        .arg("--new-pid-ns")
        .args(["--resource-limit", &format!("no-file={MAX_DESCRIPTORS}")])
        .args(["--resource-limit", &format!("fsize={file_bytes}")])
        .arg("--");
    command
}

/// Starts a jailer tethered, in the machine's control groups and with its lease.
async fn start_jailed(
    machine: &mut FirecrackerMachine,
    mut command: Command,
    name: &str,
) -> Result<Process, VmmError> {
    command.args(monitor_arguments(&machine.place));
    let lease = machine.lease.get_mut();
    let lease = lease.unwrap_or_else(PoisonError::into_inner);
    let held = lease.as_ref().map(IdLease::duplicate);
    let tether = Tether {
        groups: machine.groups.group(),
        network: Network::Empty,
        held: held.transpose().map_err(|source| VmmError::Host {
            step: "share the lease of a user id".into(),
            source,
        })?,
    };
    // A network namespace may have to wait for the kernel's clean-up of earlier ones.
    let step = format!("start {NAME} for the machine {name}");
    blocking(&step, move || Process::start(command, tether)).await
}

/// What a monitor is told whoever starts it. Its seccomp filters are on unless it is told otherwise,
/// which nobody can.
fn monitor_arguments(place: &Place) -> Vec<String> {
    vec![
        "--api-sock".to_owned(),
        place.seen(API_SOCKET),
        "--level".to_owned(),
        "Error".to_owned(),
    ]
}

/// Size of the largest file that a monitor may write, in bytes.
fn file_bytes(order: &BootOrder<'_>) -> u64 {
    order.shape.memory_bytes().saturating_add(FILE_MARGIN_BYTES)
}

async fn load(machine: &FirecrackerMachine) -> Result<(), VmmError> {
    let place = &machine.place;
    machine
        .call(&SnapshotLoad {
            snapshot_path: &place.seen(STATE),
            mem_backend: MemoryBackend {
                backend_type: BackendType::File,
                backend_path: &place.seen(MEMORY),
            },
            network_overrides: &[],
            resume_vm: true,
        })
        .await
}

fn note(order: &BootOrder<'_>, resource: Resource) -> Result<(), VmmError> {
    order
        .record
        .note(resource)
        .map_err(|source| VmmError::Host {
            step: format!("note what the machine {} has", order.name),
            source,
        })
}

fn put(
    file: &Artifact,
    folder: std::os::fd::BorrowedFd<'_>,
    name: &str,
    reader: Reader,
    purpose: Use,
) -> io::Result<()> {
    stage::stage(&file.file, &file.sha256, folder, name, reader, purpose)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.path.display())))
}

async fn blocking<T: Send + 'static>(
    step: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, VmmError> {
    let failed = |source| VmmError::Host {
        step: step.to_owned(),
        source,
    };
    task::spawn_blocking(work)
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(failed)
}
