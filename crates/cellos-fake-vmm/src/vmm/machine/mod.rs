//! The machine: what may be called when, and what each call does.

mod restore;

use std::{fs::File, io::Write, path::Path, sync::mpsc::Sender, thread, time::Duration};

use restore::Fault;
use rustix::process::Signal;
use serde_json::json;

use super::{
    Event, Exit,
    bodies::{ActionType, Serial, VmState},
    call::Call,
    configuration::{self as check, Configuration},
    end,
    http::Response,
    process::{Boot, Process},
    version_text,
    vsock::Vsock,
};
use crate::settings::{GuestFault, Placement, Settings, VsockFault};

/// What the interface says of a machine that the fake runs.
const APP_NAME: &str = "Firecracker (cellos fake)";

/// Where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Paused,
}

/// What a call leads to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) response: Response,
    /// The VMM ends once the answer is written.
    pub(crate) end: Option<Exit>,
}

/// The one machine of a VMM.
#[derive(Debug)]
pub(crate) struct Machine {
    id: String,
    settings: Settings,
    events: Sender<Event>,
    phase: Phase,
    /// Whether anything that a snapshot would bring was configured.
    configured: bool,
    configuration: Configuration,
    vsock: Option<Vsock>,
    /// As the real one, held open as long as the machine.
    drives: Vec<File>,
    log: Option<File>,
    metrics: Option<File>,
    serial: Option<File>,
    process: Option<Process>,
    /// A loaded machine that was not resumed yet: its guest has no process.
    parked: bool,
}

impl Machine {
    pub(crate) fn new(id: String, settings: Settings, events: Sender<Event>) -> Self {
        Self {
            id,
            settings,
            events,
            phase: Phase::NotStarted,
            configured: false,
            configuration: Configuration::default(),
            vsock: None,
            drives: Vec::new(),
            log: None,
            metrics: None,
            serial: None,
            process: None,
            parked: false,
        }
    }

    /// Carries out a call.
    pub(crate) fn handle(&mut self, call: Call) -> Outcome {
        let mut end = None;
        let result = match call {
            Call::SnapshotLoad(order) => self.load(order).inspect_err(|fault| {
                // As the real one: a process whose restore failed half way is of no use.
                end = fault.fatal.then_some(Exit::BadConfiguration);
            }),
            other => self.handle_plain(other).map_err(Fault::plain),
        };
        let response = result.unwrap_or_else(|fault| Response::fault(400, fault.message));
        Outcome { response, end }
    }

    /// Applies a configuration file and starts the machine.
    pub(crate) fn boot_from(&mut self, file: Configuration) -> Result<(), String> {
        let mut calls = vec![Call::MachineConfig(file.machine)];
        calls.extend(file.logger.map(Call::Logger));
        calls.extend(file.metrics.map(Call::Metrics));
        calls.extend(file.serial.map(Call::Serial));
        calls.extend(file.boot_source.map(Call::BootSource));
        calls.extend(file.drives.into_iter().map(Call::Drive));
        calls.extend(
            file.network_interfaces
                .into_iter()
                .map(Call::NetworkInterface),
        );
        calls.extend(file.vsock.map(Call::Vsock));
        calls.extend(file.entropy.map(Call::Entropy));
        calls.push(Call::Action(ActionType::InstanceStart));
        for call in calls {
            self.handle_plain(call)?;
        }
        Ok(())
    }

    /// Starts logging to a file.
    pub(crate) fn log_to(&mut self, path: &Path) -> Result<(), String> {
        let mut log = check::open_output(path)?;
        let line = format!(
            "Running {} (cellos fake)\n",
            version_text(self.settings.version)
        );
        log.write_all(line.as_bytes())
            .map_err(|error| error.to_string())?;
        self.log = Some(log);
        Ok(())
    }

    fn handle_plain(&mut self, call: Call) -> Result<Response, String> {
        match call {
            Call::DescribeInstance => return Ok(Response::found(self.describe())),
            Call::GetVersion => {
                let version = self.settings.version.to_string();
                return Ok(Response::found(json!({ "firecracker_version": version })));
            }
            Call::GetMachineConfig => {
                return Ok(Response::found(json!(self.configuration.machine)));
            }
            Call::GetVmConfig => return Ok(Response::found(json!(self.configuration))),
            Call::Action(ActionType::InstanceStart) => {
                self.only_before_start()?;
                self.start_cold()?;
            }
            Call::Action(ActionType::SendCtrlAltDel) => {
                self.only_after_start()?;
                if cfg!(target_arch = "aarch64") {
                    return Err("SendCtrlAltDel does not supported on aarch64.".into());
                }
                if let Some(process) = &self.process {
                    process.signal(Signal::INT);
                }
            }
            Call::Action(ActionType::FlushMetrics) => {
                self.only_after_start()?;
                self.flush_metrics()?;
            }
            Call::Vm(state) => {
                self.only_after_start()?;
                self.set_state(state)?;
            }
            Call::SnapshotCreate(order) => {
                self.only_after_start()?;
                self.create_snapshot(&order)?;
            }
            other => {
                self.only_before_start()?;
                self.configure(other)?;
            }
        }
        Ok(Response::done())
    }

    fn configure(&mut self, call: Call) -> Result<(), String> {
        match call {
            Call::MachineConfig(machine) => {
                check::check_machine(&machine)?;
                self.configuration.machine = machine;
            }
            Call::BootSource(source) => {
                check::check_boot_source(&source)?;
                self.configuration.boot_source = Some(source);
            }
            Call::Drive(drive) => {
                let file = check::open_drive(&drive)?;
                self.configuration.put_drive(drive)?;
                self.drives.push(file);
            }
            Call::NetworkInterface(interface) => {
                check::check_interface(&interface, self.settings.taps)?;
                self.configuration.put_interface(interface)?;
            }
            Call::Vsock(vsock) => {
                check::check_vsock(&vsock)?;
                if let Some(before) = self.vsock.take() {
                    before.remove();
                    self.configuration.vsock = None;
                }
                self.bind_vsock(&vsock.uds_path)?;
                self.configuration.vsock = Some(vsock);
            }
            Call::Entropy(entropy) => self.configuration.entropy = Some(entropy),
            Call::Logger(logger) => {
                if let Some(level) = logger.level.as_ref().filter(|l| !super::is_level(l)) {
                    return Err(format!("invalid log level {level:?}"));
                }
                if let Some(path) = &logger.log_path {
                    self.log_to(path)?;
                }
                self.configuration.logger = Some(logger);
                return Ok(());
            }
            Call::Metrics(metrics) => {
                if self.metrics.is_some() {
                    return Err("Reinitialization of metrics not allowed.".into());
                }
                self.metrics = Some(check::open_output(&metrics.metrics_path)?);
                self.configuration.metrics = Some(metrics);
                return Ok(());
            }
            Call::Serial(serial) => {
                self.open_serial(&serial)?;
                self.configuration.serial = Some(serial);
                return Ok(());
            }
            _ => return Err("not a call that configures".into()),
        }
        self.configured = true;
        Ok(())
    }

    fn start_cold(&mut self) -> Result<(), String> {
        if self.configuration.boot_source.is_none() {
            return Err("Cannot start microvm without kernel configuration.".into());
        }
        self.start("cold")
    }

    fn set_state(&mut self, state: VmState) -> Result<(), String> {
        match (state, self.phase) {
            (VmState::Paused, Phase::Running) => {
                if let Some(process) = &self.process {
                    process.signal(Signal::STOP);
                }
                self.phase = Phase::Paused;
            }
            (VmState::Resumed, Phase::Paused) if self.parked => {
                self.start("restored")?;
                self.parked = false;
            }
            (VmState::Resumed, Phase::Paused) => {
                if let Some(process) = &self.process {
                    process.signal(Signal::CONT);
                }
                self.phase = Phase::Running;
            }
            _ => {}
        }
        Ok(())
    }

    /// Starts the guest's process, or does what a fault asks for in its place.
    fn start(&mut self, kind: &'static str) -> Result<(), String> {
        let fault = self.settings.start.clone();
        let command_line = self.configuration.command_line()?;
        let runs = fault.guest == GuestFault::Runs;
        if runs {
            let device = match (&self.vsock, fault.vsock) {
                (Some(vsock), VsockFault::Present) => {
                    Some(vsock.start().map_err(|error| error.to_string())?)
                }
                _ => None,
            };
            let serial = self.serial.as_ref().map(File::try_clone).transpose();
            let boot = Boot {
                kind,
                command_line,
                drives: json!(self.configuration.drives_in_order()).to_string(),
                device,
                serial: serial.map_err(|error| error.to_string())?,
            };
            let process = self.start_guest(boot)?;
            self.process = Some(process);
        }
        self.phase = Phase::Running;
        if let Some(late) = fault.end {
            thread::Builder::new()
                .name("late-end".into())
                .spawn(move || {
                    thread::sleep(Duration::from_millis(late.after_ms));
                    eprintln!("fake-firecracker: internal error, asked for by the settings");
                    end::end(late.how);
                })
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn start_guest(&self, boot: Boot) -> Result<Process, String> {
        let events = self.events.clone();
        match (self.settings.placement, &self.settings.guest) {
            (Placement::Outside, _) => Process::await_outside(boot, events)
                .map_err(|error| format!("cellos fake: no guest outside: {error}")),
            (Placement::Inside, None) => {
                Err("cellos fake: no guest program is named in the settings".into())
            }
            (Placement::Inside, Some(guest)) => {
                Process::start(guest, boot, events).map_err(|error| {
                    format!(
                        "cellos fake: cannot start the guest {}: {error}",
                        guest.program.display()
                    )
                })
            }
        }
    }

    fn bind_vsock(&mut self, path: &Path) -> Result<(), String> {
        let vsock = Vsock::bind(path).map_err(|error| {
            format!(
                "Cannot create backend for vsock device: Error binding to the host-side Unix socket {}: {error}",
                path.display()
            )
        })?;
        self.vsock = Some(vsock);
        Ok(())
    }

    fn open_serial(&mut self, serial: &Serial) -> Result<(), String> {
        self.serial = match &serial.serial_out_path {
            Some(path) => Some(check::open_output(path)?),
            None => None,
        };
        Ok(())
    }

    fn flush_metrics(&mut self) -> Result<(), String> {
        let metrics = self.metrics.as_mut();
        let metrics = metrics.ok_or("Metrics are not configured.")?;
        metrics
            .write_all(b"{\"cellos_fake\":true}\n")
            .map_err(|error| error.to_string())
    }

    fn describe(&self) -> serde_json::Value {
        let state = match self.phase {
            Phase::NotStarted => "Not started",
            Phase::Running => "Running",
            Phase::Paused => "Paused",
        };
        json!({
            "app_name": APP_NAME,
            "id": self.id,
            "state": state,
            "vmm_version": self.settings.version.to_string(),
        })
    }

    fn only_before_start(&self) -> Result<(), String> {
        match self.phase {
            Phase::NotStarted => Ok(()),
            _ => Err("The requested operation is not supported after starting the microVM.".into()),
        }
    }

    fn only_after_start(&self) -> Result<(), String> {
        match self.phase {
            Phase::NotStarted => {
                Err("The requested operation is not supported before starting the microVM.".into())
            }
            _ => Ok(()),
        }
    }
}
