//! Machines by QEMU's `microvm`, with KVM or emulated.
//!
//! QEMU gets everything it needs as open descriptors and is confined before its first
//! instruction, so that a guest that takes it over finds an empty network, no other process, no
//! file but QEMU's own, and no privilege. `-sandbox` takes away most system calls besides.

mod command_line;
mod control;
mod machine;

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::ports::workload::GuestExecution;
use cellos_isolation::confined::{FIRST_DESCRIPTOR, Helper, Order, Output, Privileges};
use tokio::net::UnixStream;

pub(crate) use self::command_line::Accelerator;
use self::{
    command_line::{CommandLine, Descriptors},
    control::Control,
    machine::QemuMachine,
};
use super::{
    BootOrder, Driver, Machine, MonitorFacts, MonitorLimits, Parking, Snapshot, VmmError,
    process::{Monitor, Start},
};
use crate::{
    artifacts::{Artifact, Artifacts},
    config::{Accelerators, QemuConfig, RateLimits},
    kvm::{self, KvmVerdict},
    limits::{MonitorGroup, MonitorGroups},
    network,
    place::{Record, Resource},
    plan::MachineShape,
    process,
};

/// QEMU's name in messages and evidence.
pub(crate) const NAME: &str = "qemu";

/// Descriptors that QEMU may have open: its own, those of its machine, and threads' event
/// descriptors.
const OPEN_FILES: u64 = 256;

/// How long `--version` may take.
const VERSION_BOUND: Duration = Duration::from_secs(10);

/// Longest version that is kept, in characters.
const VERSION_CHARS: usize = 100;

/// Permission of everybody to read a file, `S_IROTH`.
const READABLE_BY_ALL: u32 = 0o004;

/// Where programs find their libraries and QEMU its firmware.
const READABLE: [&str; 8] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/libexec",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/etc/ld.so.cache",
];

/// The QEMU driver.
#[derive(Debug)]
pub(crate) struct QemuDriver {
    version: String,
    accelerator: Accelerator,
    rates: RateLimits,
    helper: Helper,
    groups: Arc<MonitorGroups>,
}

/// What a trial of KVM needs: a kernel, and places for one machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial<'a> {
    pub(crate) artifacts: &'a Artifacts,
    /// A name like that of any machine.
    pub(crate) name: &'a str,
    /// An empty folder, which stays empty.
    pub(crate) folder: &'a Path,
    pub(crate) record: &'a Record,
}

/// Machine of a trial: as small as distributions' kernels boot in.
const TRIAL_SHAPE: MachineShape = MachineShape {
    vcpus: 1,
    memory_mib: 256,
};

impl QemuDriver {
    /// A driver as the operator wants it. Where KVM may be used it is tried.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] where QEMU does not run, or KVM does not and is wanted.
    pub(crate) async fn open(
        config: &QemuConfig,
        rates: RateLimits,
        helper: Helper,
        groups: Arc<MonitorGroups>,
        trial: Trial<'_>,
    ) -> Result<Self, VmmError> {
        let emulation = Accelerator::Emulation {
            tsc_khz: cellos_isolation::tsc::frequency_khz(),
        };
        let with = |accelerator| {
            let (helper, groups) = (helper.clone(), Arc::clone(&groups));
            Self::new(&config.program, accelerator, rates, helper, groups)
        };
        if config.accelerators == Accelerators::Emulation {
            return with(emulation).await;
        }
        let driver = with(Accelerator::Kvm).await?;
        match (driver.kvm(trial).await, config.accelerators) {
            (KvmVerdict::Works, _) => Ok(driver),
            (_, Accelerators::Best | Accelerators::Emulation) => Ok(Self {
                accelerator: emulation,
                ..driver
            }),
            (verdict, Accelerators::KvmOnly) => Err(unusable(verdict.to_string())),
        }
    }

    /// Whether this driver's accelerator, KVM, runs a guest.
    async fn kvm(&self, trial: Trial<'_>) -> KvmVerdict {
        let artifacts = Artifacts {
            initrd: None,
            ..trial.artifacts.clone()
        };
        let order = BootOrder {
            name: trial.name,
            shape: TRIAL_SHAPE,
            artifacts: &artifacts,
            folder: trial.folder,
            record: trial.record,
            limits: MonitorLimits::default(),
            network: None,
            extra_boot_arguments: "",
        };
        kvm::probe(self, order).await
    }

    /// A driver for the QEMU at `program`, which it asks for its version.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] where it does not run, or on other processors than x86-64.
    pub(crate) async fn new(
        program: &Path,
        accelerator: Accelerator,
        rates: RateLimits,
        helper: Helper,
        groups: Arc<MonitorGroups>,
    ) -> Result<Self, VmmError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(unusable(
                "its microvm machine is x86-64's; use Firecracker on this processor".to_owned(),
            ));
        }
        Ok(Self {
            version: version(program).await?,
            accelerator,
            rates,
            helper,
            groups,
        })
    }

    async fn start(
        &self,
        order: BootOrder<'_>,
        group: &MonitorGroup,
    ) -> Result<QemuParts, VmmError> {
        // Noted once they are there: before that, their names tell whose they are.
        for path in group.paths() {
            note(order.record, Resource::ControlGroup { path })?;
        }
        let artifacts = order.artifacts;
        let (bridge, bridge_end) = pair()?;
        let (control, control_end) = pair()?;
        let (console, console_end) = pair()?;
        let mut handed = Handed::default();
        let descriptors = Descriptors {
            kernel: handed.reopened(&artifacts.kernel)?,
            initrd: artifacts
                .initrd
                .as_ref()
                .map(|initrd| handed.reopened(initrd))
                .transpose()?,
            base: handed.file(&artifacts.base)?,
            bridge: handed.give(bridge_end.into())?,
            control: handed.give(control_end.into())?,
            console: handed.give(console_end.into())?,
            // The helper makes it, and gives it after the others.
            tap: network::descriptor(order.network, handed.descriptors.len()),
        };
        let arguments = CommandLine {
            name: order.name,
            accelerator: self.accelerator,
            shape: order.shape,
            rates: self.rates,
            descriptors,
            extra_boot_arguments: order.extra_boot_arguments,
        }
        .arguments()?;
        let confinement = Order {
            arguments,
            // Nothing of ours; QEMU asks for a locale and where to put temporary files it may not.
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            // The machine's folder stays out of its reach: everything comes by descriptors.
            working_folder: PathBuf::from("/"),
            readable: readable(&artifacts.monitor.path),
            own: Vec::new(),
            reopened: handed.reopened,
            devices: match self.accelerator {
                Accelerator::Kvm => vec![PathBuf::from("/dev/kvm")],
                Accelerator::Emulation { .. } => Vec::new(),
            },
            control_groups: group.paths(),
            open_files: OPEN_FILES,
            file_bytes: 0,
            privileges: Privileges::None,
            network: network::order(order.network),
            output: Output::Discarded,
        };
        let monitor = Monitor::start(Start {
            name: NAME,
            helper: self.helper.clone(),
            order: confinement,
            program: Arc::clone(&artifacts.monitor.file),
            descriptors: handed.descriptors,
            console: Some(console.into()),
        })
        .await?;
        // Until here it would have died with this process.
        if let Some(start_time) = process::start_time(monitor.pid()) {
            note(
                order.record,
                Resource::Process {
                    pid: monitor.pid(),
                    start_time,
                },
            )?;
        }
        let control = tokio_stream(control)?;
        let control = tokio::select! {
            control = boot(control) => control,
            _ = monitor.ended() => Err(monitor.ended_during("boot").await),
        };
        let control = match control {
            Ok(control) => control,
            // The end of a connection is seen a little before the end of its process.
            Err(error @ VmmError::Unreadable { .. }) => {
                let end = tokio::time::timeout(END_GRACE, monitor.ended_during("boot")).await;
                return Err(end.unwrap_or(error));
            }
            Err(error) => return Err(error),
        };
        Ok(QemuParts {
            monitor,
            control,
            bridge: tokio_stream(bridge)?,
        })
    }
}

/// How long after a broken conversation QEMU's end is waited for, to be named as the cause.
const END_GRACE: Duration = Duration::from_secs(1);

struct QemuParts {
    monitor: Monitor,
    control: Control,
    bridge: UnixStream,
}

#[async_trait]
impl Driver for QemuDriver {
    fn facts(&self) -> MonitorFacts {
        MonitorFacts {
            name: NAME,
            version: self.version.clone(),
            execution: match self.accelerator {
                Accelerator::Kvm => GuestExecution::Kvm,
                Accelerator::Emulation { .. } => GuestExecution::Emulated,
            },
        }
    }

    async fn boot(&self, order: BootOrder<'_>) -> Result<Box<dyn Machine>, VmmError> {
        let group = self.groups.make(order.name, order.limits)?;
        match self.start(order, &group).await {
            Ok(parts) => Ok(Box::new(QemuMachine::new(
                parts.monitor,
                parts.control,
                parts.bridge,
                group,
            ))),
            Err(error) => {
                let left = machine::remove_group(Arc::new(group)).await;
                match left.is_empty() {
                    true => Err(error),
                    false => Err(VmmError::Host {
                        step: format!("{error}; then remove its control group"),
                        source: io::Error::other(left.join("; ")),
                    }),
                }
            }
        }
    }

    async fn restore(
        &self,
        _order: BootOrder<'_>,
        _snapshot: &Snapshot,
    ) -> Result<Box<dyn Machine>, VmmError> {
        Err(VmmError::Unsupported {
            monitor: NAME,
            what: "restore a microvm from a snapshot",
        })
    }

    fn parking(&self) -> Parking {
        Parking::Live
    }
}

fn note(record: &Record, resource: Resource) -> Result<(), VmmError> {
    let noted = record.note(resource);
    noted.map_err(|error| host("note what the machine has", error))
}

/// Waits until QEMU speaks and its machine runs.
async fn boot(control: UnixStream) -> Result<Control, VmmError> {
    let control = Control::negotiate(control).await?;
    if control.is_running().await? {
        Ok(control)
    } else {
        Err(VmmError::Unreadable {
            monitor: NAME,
            request: "query-status".to_owned(),
            why: "the machine does not run".to_owned(),
        })
    }
}

/// Descriptors on their way to QEMU.
#[derive(Debug, Default)]
struct Handed {
    descriptors: Vec<OwnedFd>,
    reopened: Vec<usize>,
}

impl Handed {
    fn give(&mut self, descriptor: OwnedFd) -> Result<i32, VmmError> {
        let number = i32::try_from(self.descriptors.len())
            .map_err(|error| host("number QEMU's descriptors", io::Error::other(error)))?;
        self.descriptors.push(descriptor);
        Ok(FIRST_DESCRIPTOR + number)
    }

    fn file(&mut self, artifact: &Artifact) -> Result<i32, VmmError> {
        let copy = artifact
            .file
            .try_clone()
            .map_err(|error| host(&format!("hand over {}", artifact.path.display()), error))?;
        self.give(copy.into())
    }

    /// A file that QEMU opens anew, as it does with kernels: by then it is another user, where root
    /// starts it.
    fn reopened(&mut self, artifact: &Artifact) -> Result<i32, VmmError> {
        let path = artifact.path.display();
        let status = artifact
            .file
            .metadata()
            .map_err(|error| host(&format!("look at {path}"), error))?;
        if rustix::process::geteuid().is_root() && status.mode() & READABLE_BY_ALL == 0 {
            return Err(unusable(format!(
                "{path} can be read only by its owner, which the monitor's user is not \
                 (chmod a+r {path})"
            )));
        }
        self.reopened.push(self.descriptors.len());
        self.file(artifact)
    }
}

/// What a monitor at `program` has to read: the system's libraries, and what was installed beside
/// it where that is elsewhere. QEMU looks for its modules by way of its own folder, which has to
/// be there.
fn readable(program: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    paths.push(program.to_owned());
    let prefix = program.parent().and_then(Path::parent);
    if let Some(prefix) = prefix.filter(|prefix| prefix.parent().is_some()) {
        paths.extend(["lib", "share/qemu"].map(|folder| prefix.join(folder)));
    }
    paths
}

/// What QEMU says it is: `QEMU emulator version 7.2.22 (Debian …)`.
async fn version(program: &Path) -> Result<String, VmmError> {
    let path = program.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        std::process::Command::new(&path)
            .arg("--version")
            .env_clear()
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .output()
    });
    let mend = "install qemu-system-x86 or name another program";
    let unusable = |why: String| unusable(format!("{}: {why} ({mend})", program.display()));
    let output = tokio::time::timeout(VERSION_BOUND, asked)
        .await
        .map_err(|_| unusable(format!("--version took longer than {VERSION_BOUND:?}")))?
        .map_err(|error| unusable(error.to_string()))?
        .map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let version = line
        .strip_prefix("QEMU emulator version ")
        .filter(|_| output.status.success())
        .ok_or_else(|| unusable("--version does not say that it is QEMU".to_owned()))?;
    Ok(version
        .chars()
        .filter(|c| (' '..='~').contains(c))
        .take(VERSION_CHARS)
        .collect())
}

fn pair() -> Result<(StdStream, StdStream), VmmError> {
    StdStream::pair().map_err(|error| host("make a pair of sockets", error))
}

fn tokio_stream(stream: StdStream) -> Result<UnixStream, VmmError> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|error| host("listen to a socket of QEMU's", error))
}

fn unusable(why: String) -> VmmError {
    VmmError::Unusable { monitor: NAME, why }
}

fn host(step: &str, source: io::Error) -> VmmError {
    VmmError::Host {
        step: step.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
