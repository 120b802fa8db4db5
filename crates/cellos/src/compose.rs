//! The composition root: the one place that knows which implementation stands behind each port.
//!
//! A new backend is one line in [`BACKENDS`] and one constructor.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{
    CellosError,
    descriptor::{BackendDescriptor, Feature, Support},
    ports::{
        CellBackend, EventSink, ExportSink, NoopExportSink, network::NetworkGateway,
        workload::Residue,
    },
};
use cellos_egress::{EgressGateway, GatewayConfig};
use cellos_evidence::log::{EventLog, LogConfig, LogError};
use cellos_exports::LocalFolder;
use cellos_host_linux::LinuxBackend;
use cellos_host_microvm::{MicrovmBackend, MicrovmConfig};
use cellos_host_stub::StubCellBackend;
use cellos_isolation::{Launcher, LauncherOptions, Warm};
use cellos_sinks::{Durability, JsonlConfig, JsonlSink, Redaction, Transformed};
use cellos_supervisor::{
    HostRunner, Supervisor,
    state::{LeftoverCleaner, LogFormat, NoLeftovers, RunRecord, StateFolder},
};

use crate::{
    failure::Failure,
    keys::{self, Signing},
    leftovers::{LinuxLeftovers, MachineLeftovers},
    machines::{self, Monitor, Places},
    signing::EventSigning,
};

/// The backend that runs a cell whose caller names none.
pub(crate) const DEFAULT_BACKEND: &str = "linux";
/// The backend that boots a virtual machine for each cell.
pub(crate) const MACHINES_BACKEND: &str = "microvm";
/// The backend that isolates nothing.
pub(crate) const UNISOLATED_BACKEND: &str = "stub";

/// What a backend is told about this host by its operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BackendOptions {
    /// The control group that cells are made in; the backend finds one when absent.
    pub(crate) cgroup_parent: Option<PathBuf>,
    /// The virtual machine monitor that was asked for by name; the settings say otherwise.
    pub(crate) monitor: Option<Monitor>,
}

impl BackendOptions {
    /// What the environment says.
    pub(crate) fn from_environment() -> Self {
        Self {
            cgroup_parent: std::env::var_os("CELLOS_CGROUP_PARENT")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            monitor: None,
        }
    }
}

/// A backend that is half started: what needs a process with one thread is done.
type Prepared = Box<dyn FnOnce() -> Result<Arc<dyn CellBackend>, CellosError>>;

/// One backend.
struct Backend {
    name: &'static str,
    describe: fn(&BackendOptions) -> BackendDescriptor,
    prepare: fn(&BackendOptions) -> Result<Prepared, CellosError>,
    cleaner: fn() -> Box<dyn LeftoverCleaner>,
}

/// All of them, the default first.
const BACKENDS: &[Backend] = &[
    Backend {
        name: DEFAULT_BACKEND,
        describe: describe_linux,
        prepare: linux,
        cleaner: linux_cleaner,
    },
    Backend {
        name: MACHINES_BACKEND,
        describe: describe_machines,
        prepare: machines,
        cleaner: machines_cleaner,
    },
    Backend {
        name: UNISOLATED_BACKEND,
        describe: describe_stub,
        prepare: stub,
        cleaner: no_cleaner,
    },
];

fn launcher_options(options: &BackendOptions) -> LauncherOptions {
    LauncherOptions {
        cgroup_parent: options.cgroup_parent.clone(),
        ..LauncherOptions::default()
    }
}

fn describe_linux(options: &BackendOptions) -> BackendDescriptor {
    LinuxBackend::describe(&launcher_options(options))
}

fn linux(options: &BackendOptions) -> Result<Prepared, CellosError> {
    // This process runs one cell: it is begun at once, while the document is still being read.
    let options = LauncherOptions {
        warm: Warm::Once,
        ..launcher_options(options)
    };
    let launcher =
        Launcher::fork(options.clone()).map_err(|error| CellosError::Host(error.to_string()))?;
    Ok(Box::new(move || {
        Ok(Arc::new(LinuxBackend::new(launcher, &options)?))
    }))
}

fn linux_cleaner() -> Box<dyn LeftoverCleaner> {
    Box::new(LinuxLeftovers)
}

pub(crate) fn machines_config(options: &BackendOptions) -> Result<MicrovmConfig, CellosError> {
    let host = |error: &dyn std::error::Error| CellosError::Host(error.to_string());
    let places = Places::of_this_process().map_err(|error| host(&error))?;
    machines::config(
        &|name| std::env::var_os(name),
        &places,
        options.cgroup_parent.clone(),
        options.monitor,
    )
    .map_err(|error| host(&error))
}

fn describe_machines(options: &BackendOptions) -> BackendDescriptor {
    match machines_config(options) {
        Ok(config) => MicrovmBackend::describe(&config),
        Err(error) => MicrovmBackend::describe_unusable(&error.to_string()),
    }
}

fn machines(options: &BackendOptions) -> Result<Prepared, CellosError> {
    let config = machines_config(options)?;
    Ok(Box::new(move || Ok(Arc::new(MicrovmBackend::new(config)?))))
}

fn machines_cleaner() -> Box<dyn LeftoverCleaner> {
    Box::new(MachineLeftovers)
}

fn describe_stub(_options: &BackendOptions) -> BackendDescriptor {
    StubCellBackend::new().descriptor()
}

fn stub(_options: &BackendOptions) -> Result<Prepared, CellosError> {
    Ok(Box::new(|| Ok(Arc::new(StubCellBackend::new()))))
}

fn no_cleaner() -> Box<dyn LeftoverCleaner> {
    Box::new(NoLeftovers)
}

/// The ports of one run.
pub(crate) struct RunPorts {
    pub(crate) backend: Arc<dyn CellBackend>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) exports: Arc<dyn ExportSink>,
    pub(crate) gateway: Arc<dyn NetworkGateway>,
    pub(crate) state: StateFolder,
}

impl RunPorts {
    /// The supervisor over them.
    pub(crate) fn supervisor(self) -> Supervisor {
        Supervisor::new(self.backend)
            .events(self.events)
            .exports(self.exports)
            .gateway(self.gateway)
            .state(self.state)
            .host_runner(HostRunner::this_program())
    }
}

/// An events file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("events cannot be written")]
struct EventsUnwritable(#[source] cellos_sinks::OpenError);

/// An event log that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("events cannot be written")]
struct LogUnwritable(#[source] LogError);

/// Where the events of `cellos run` go: the chained log, behind redaction; and from which line on
/// they can stand there.
pub(crate) fn event_log(
    file: &Path,
    durability: cellos_evidence::log::Durability,
    redact: Option<&str>,
    signing: Option<Signing>,
) -> Result<(Arc<dyn EventSink>, LogFormat), Failure> {
    let redaction = redact
        .map_or(Ok(None), Redaction::of_evidence)
        .map_err(Failure::call)?;
    let config = LogConfig {
        durability,
        ..keys::signed(file, signing)
    };
    let log = EventLog::open(config).map_err(|error| Failure::call(LogUnwritable(error)))?;
    let format = LogFormat::Chained {
        from_seq: log
            .append(&[])
            .map_err(|error| Failure::call(LogUnwritable(error)))?
            .first_seq,
    };
    let mut sink: Arc<dyn EventSink> = Arc::new(log);
    if let Some(redaction) = redaction {
        sink = Arc::new(Transformed::new(redaction, sink));
    }
    Ok((sink, format))
}

/// Where the events of the drop-in go: a JSON Lines file, behind redaction and then signing.
pub(crate) fn event_sink(
    file: &Path,
    durability: Durability,
    redact: Option<&str>,
    signing: Option<EventSigning>,
) -> Result<Arc<dyn EventSink>, Failure> {
    let config = JsonlConfig {
        durability,
        ..JsonlConfig::new(file)
    };
    let sink = JsonlSink::open(config).map_err(|error| Failure::call(EventsUnwritable(error)))?;
    let mut sink: Arc<dyn EventSink> = Arc::new(sink);
    // The outermost comes first: what is signed is what is written.
    if let Some(signing) = signing {
        sink = Arc::new(Transformed::new(signing, sink));
    }
    if let Some(redaction) = redact.and_then(Redaction::from_list) {
        sink = Arc::new(Transformed::new(redaction, sink));
    }
    Ok(sink)
}

/// A folder for artifacts that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("artifacts cannot be stored")]
struct ExportsUnusable(#[source] CellosError);

/// Where the artifacts of a cell go.
pub(crate) fn export_sink(
    folder: Option<&Path>,
    cell_id: &str,
) -> Result<Arc<dyn ExportSink>, Failure> {
    let Some(folder) = folder else {
        return Ok(Arc::new(NoopExportSink));
    };
    LocalFolder::new(folder, cell_id)
        .map(|sink| Arc::new(sink) as Arc<dyn ExportSink>)
        .map_err(|error| Failure::call(ExportsUnusable(error)))
}

/// What a backend enforces together with the export sink of a run.
pub(crate) fn with_exports(
    descriptor: BackendDescriptor,
    folder: Option<&Path>,
) -> BackendDescriptor {
    match folder {
        Some(_) => descriptor.enforces(Feature::Artifacts, "a local folder"),
        None => descriptor.lacks(
            Feature::Artifacts,
            "there is no folder for artifacts",
            "name one with --export-dir, or CELLOS_EXPORT_DIR for cellos-supervisor",
        ),
    }
}

/// What a backend enforces together with the egress gateway: it is the backend that says whether its
/// cells can have sockets for one.
pub(crate) fn with_gateway(mut descriptor: BackendDescriptor) -> BackendDescriptor {
    match descriptor.features.remove(&Feature::GatewaySockets) {
        Some(Support::Enforced { .. }) => descriptor.enforces(
            Feature::Egress,
            "egress gateway in the cell's network namespace",
        ),
        Some(Support::Unavailable { why, mend }) => descriptor.lacks(Feature::Egress, why, mend),
        None => descriptor,
    }
}

/// What gives cells the destinations that their documents declare.
pub(crate) fn gateway(config: GatewayConfig) -> Arc<dyn NetworkGateway> {
    Arc::new(EgressGateway::new(config))
}

/// A fresh id for a run: sortable by time, unique without coordination.
pub(crate) fn fresh_run_id() -> String {
    ulid::Ulid::generate().to_string()
}

/// A fresh id for an event.
pub(crate) fn fresh_event_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A fresh id for a cell that has no name.
pub(crate) fn fresh_cell_id(run_id: &str) -> String {
    format!("cell-{}", run_id.to_ascii_lowercase())
}

/// A name that no backend has.
#[derive(Debug, thiserror::Error)]
#[error("there is no backend {name:?}; there are {}", listed())]
pub(crate) struct UnknownBackend {
    name: String,
}

/// All names as a person lists them.
fn listed() -> String {
    let names: Vec<_> = backend_names().collect();
    match names.split_last() {
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// A backend that cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("the {name} backend cannot be started")]
pub(crate) struct BackendUnavailable {
    name: String,
    source: CellosError,
}

/// The names of all backends, the default first.
pub(crate) fn backend_names() -> impl Iterator<Item = &'static str> {
    BACKENDS.iter().map(|backend| backend.name)
}

fn find(name: &str) -> Result<&'static Backend, Failure> {
    BACKENDS
        .iter()
        .find(|backend| backend.name == name)
        .ok_or_else(|| {
            Failure::call(UnknownBackend {
                name: name.to_owned(),
            })
        })
}

/// Checks that there is a backend of this name, without starting it.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    find(name).map(drop)
}

/// A backend that is half started.
pub(crate) struct PreparedBackend {
    name: &'static str,
    prepared: Prepared,
}

/// Starts a backend as far as it has to be while this process has one thread: it may fork.
pub(crate) fn prepare(name: &str, options: &BackendOptions) -> Result<PreparedBackend, Failure> {
    let backend = find(name)?;
    match (backend.prepare)(options) {
        Ok(prepared) => Ok(PreparedBackend {
            name: backend.name,
            prepared,
        }),
        Err(error) => Err(unavailable(backend.name, error)),
    }
}

impl PreparedBackend {
    /// Which backend it is.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts the rest of it, inside the runtime that it will work in.
    pub(crate) fn start(self) -> Result<Arc<dyn CellBackend>, Failure> {
        (self.prepared)().map_err(|error| unavailable(self.name, error))
    }
}

fn unavailable(name: &str, source: CellosError) -> Failure {
    Failure::call(BackendUnavailable {
        name: name.to_owned(),
        source,
    })
    .hint("cellos doctor says what this host lacks and how to mend it")
}

/// What a backend enforces on this host, with the egress gateway.
pub(crate) fn descriptor(name: &str) -> Result<BackendDescriptor, Failure> {
    let descriptor = (find(name)?.describe)(&BackendOptions::from_environment());
    Ok(with_gateway(descriptor))
}

/// What the other backends enforce, for naming one that could.
pub(crate) fn other_descriptors(chosen: &str) -> Vec<BackendDescriptor> {
    BACKENDS
        .iter()
        .filter(|backend| backend.name != chosen)
        .map(|backend| with_gateway((backend.describe)(&BackendOptions::from_environment())))
        .collect()
}

/// Removes what the backend of a run may have left of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EveryCleaner;

impl LeftoverCleaner for EveryCleaner {
    fn clean(&self, record: &RunRecord) -> Result<Vec<String>, CellosError> {
        match BACKENDS
            .iter()
            .find(|backend| backend.name == record.backend)
        {
            Some(backend) => (backend.cleaner)().clean(record),
            None => Err(CellosError::Host(format!(
                "the run used the backend {:?}, which this build lacks",
                record.backend
            ))),
        }
    }

    fn look(&self, record: &RunRecord) -> Option<Residue> {
        let backend = BACKENDS
            .iter()
            .find(|backend| backend.name == record.backend)?;
        (backend.cleaner)().look(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_backend_names_the_known_ones() {
        let failure = prepare("gvisor", &BackendOptions::default()).err().unwrap();
        assert_eq!(
            failure.message(),
            "there is no backend \"gvisor\"; there are linux, microvm and stub"
        );
    }

    #[test]
    fn the_unisolated_backend_enforces_nothing() {
        assert!(descriptor(UNISOLATED_BACKEND).unwrap().features.is_empty());
    }
}
