//! The composition root: the one place that knows which implementation stands behind each port.
//!
//! A new backend is one line in [`BACKENDS`] and one constructor.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{
    CellosError,
    descriptor::BackendDescriptor,
    ports::{CellBackend, EventSink, ExportSink, NoopExportSink},
};
use cellos_exports::LocalFolder;
use cellos_host_stub::StubCellBackend;
use cellos_sinks::{JsonlConfig, JsonlSink, Redaction, Transformed};
use cellos_supervisor::{
    HostRunner, Supervisor,
    state::{LeftoverCleaner, NoLeftovers, StateFolder},
};

use crate::{failure::Failure, signing::EventSigning};

/// The backend that runs a cell whose caller names none.
pub(crate) const DEFAULT_BACKEND: &str = "linux";
/// The backend that isolates nothing.
pub(crate) const UNISOLATED_BACKEND: &str = "stub";

/// What a backend is told about this host by its operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BackendOptions {
    /// The control group that cells are made in; the backend finds one when absent.
    pub(crate) cgroup_parent: Option<PathBuf>,
}

impl BackendOptions {
    /// What the environment says.
    pub(crate) fn from_environment() -> Self {
        Self {
            cgroup_parent: std::env::var_os("CELLOS_CGROUP_PARENT")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        }
    }
}

/// One backend.
struct Backend {
    name: &'static str,
    construct: fn(&BackendOptions) -> Result<Arc<dyn CellBackend>, CellosError>,
    cleaner: fn(&BackendOptions) -> Box<dyn LeftoverCleaner>,
}

/// All of them, the default first.
const BACKENDS: &[Backend] = &[
    Backend { name: DEFAULT_BACKEND, construct: linux, cleaner: |_| Box::new(NoLeftovers) },
    Backend { name: UNISOLATED_BACKEND, construct: stub, cleaner: |_| Box::new(NoLeftovers) },
];

fn linux(_options: &BackendOptions) -> Result<Arc<dyn CellBackend>, CellosError> {
    Err(CellosError::Host("the linux backend is not part of this build".into()))
}

fn stub(_options: &BackendOptions) -> Result<Arc<dyn CellBackend>, CellosError> {
    Ok(Arc::new(StubCellBackend::new()))
}

/// The ports of one run.
pub(crate) struct RunPorts {
    pub(crate) backend: Arc<dyn CellBackend>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) exports: Arc<dyn ExportSink>,
    pub(crate) state: StateFolder,
}

impl RunPorts {
    /// The supervisor over them.
    pub(crate) fn supervisor(self) -> Supervisor {
        Supervisor::new(self.backend)
            .events(self.events)
            .exports(self.exports)
            .state(self.state)
            .host_runner(HostRunner::this_program())
    }
}

/// An events file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("events cannot be written")]
struct EventsUnwritable(#[source] cellos_sinks::OpenError);

/// Where events go: a JSON Lines file, behind redaction and then signing.
pub(crate) fn event_sink(
    file: &Path,
    redact: Option<&str>,
    signing: Option<EventSigning>,
) -> Result<Arc<dyn EventSink>, Failure> {
    let sink = JsonlSink::open(JsonlConfig::new(file))
        .map_err(|error| Failure::call(EventsUnwritable(error)))?;
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
#[error("there is no backend {name:?}; there are {}", backend_names().collect::<Vec<_>>().join(" and "))]
pub(crate) struct UnknownBackend {
    name: String,
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
        .ok_or_else(|| Failure::call(UnknownBackend { name: name.to_owned() }))
}

/// Checks that there is a backend of this name, without starting it.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    find(name).map(drop)
}

/// Starts a backend. While this process has one thread: a backend may fork a launcher.
pub(crate) fn backend(
    name: &str,
    options: &BackendOptions,
) -> Result<Arc<dyn CellBackend>, Failure> {
    (find(name)?.construct)(options).map_err(|source| {
        Failure::call(BackendUnavailable { name: name.to_owned(), source })
            .hint("cellos doctor says what this host lacks and how to mend it")
    })
}

/// What a backend enforces on this host.
pub(crate) fn descriptor(name: &str) -> Result<BackendDescriptor, Failure> {
    Ok(backend(name, &BackendOptions::default())?.descriptor())
}

/// What the other backends enforce, for naming one that could. Those that cannot be started here
/// could not help.
pub(crate) fn other_descriptors(chosen: &str) -> Vec<BackendDescriptor> {
    BACKENDS
        .iter()
        .filter(|backend| backend.name != chosen)
        .filter_map(|backend| (backend.construct)(&BackendOptions::default()).ok())
        .map(|backend| backend.descriptor())
        .collect()
}

/// Removes what any backend may have left of a run.
pub(crate) struct EveryCleaner {
    options: BackendOptions,
}

impl EveryCleaner {
    /// One for all backends.
    pub(crate) fn new(options: BackendOptions) -> Self {
        Self { options }
    }
}

impl LeftoverCleaner for EveryCleaner {
    fn clean(
        &self,
        record: &cellos_supervisor::state::RunRecord,
    ) -> Result<Vec<String>, CellosError> {
        match BACKENDS.iter().find(|backend| backend.name == record.backend) {
            Some(backend) => (backend.cleaner)(&self.options).clean(record),
            None => Err(CellosError::Host(format!(
                "the run used the backend {:?}, which this build lacks",
                record.backend
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_backend_names_the_known_ones() {
        let failure = backend("firecracker", &BackendOptions::default()).err().unwrap();
        assert_eq!(
            failure.message(),
            "there is no backend \"firecracker\"; there are linux and stub"
        );
    }

    #[test]
    fn the_unisolated_backend_enforces_nothing() {
        assert!(descriptor(UNISOLATED_BACKEND).unwrap().features.is_empty());
    }
}
