//! The supervisor and what it needs for one run.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cellos_core::{
    ExecutionCellDocument,
    event::{AdmissionAllowed, UniversalTokenAccepted},
    ports::{
        CellBackend, EventSink, ExportSink, NoopEventSink, NoopExportSink, network::NetworkGateway,
        workload::Streams,
    },
};

use crate::{
    Clock, HostRunner, RunOutcome, StopRequests, SystemClock, lifecycle,
    state::{LogFormat, StateFolder},
};

/// Runs cells of one backend.
pub struct Supervisor {
    pub(crate) backend: Arc<dyn CellBackend>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) exports: Arc<dyn ExportSink>,
    pub(crate) gateway: Option<Arc<dyn NetworkGateway>>,
    pub(crate) host_runner: Option<HostRunner>,
    pub(crate) state: Option<StateFolder>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Supervisor {
    /// A supervisor that drops its events, refuses artifacts and egress rules, launches nothing on the host and
    /// keeps no records, until it is told otherwise.
    #[must_use]
    pub fn new(backend: Arc<dyn CellBackend>) -> Self {
        Self {
            backend,
            events: Arc::new(NoopEventSink),
            exports: Arc::new(NoopExportSink),
            gateway: None,
            host_runner: None,
            state: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Where events go.
    #[must_use]
    pub fn events(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.events = sink;
        self
    }

    /// Where artifacts go.
    #[must_use]
    pub fn exports(mut self, sink: Arc<dyn ExportSink>) -> Self {
        self.exports = sink;
        self
    }

    /// What gives cells the destinations that their documents declare. Without it, a document with
    /// egress rules runs on no backend but one that enforces them itself.
    #[must_use]
    pub fn gateway(mut self, gateway: Arc<dyn NetworkGateway>) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// How commands are launched on the host for backends that run nothing. Without it such a
    /// backend's commands are refused.
    #[must_use]
    pub fn host_runner(mut self, runner: HostRunner) -> Self {
        self.host_runner = Some(runner);
        self
    }

    /// Where records of runs are kept while they live.
    #[must_use]
    pub fn state(mut self, folder: StateFolder) -> Self {
        self.state = Some(folder);
        self
    }

    /// Where the times of events come from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Runs one cell from creation to teardown. Whatever happens is in the outcome.
    ///
    /// Poll it to its end: dropped earlier, it leaves the cell to the backend's backstop and its
    /// record to [`reap`](crate::state::reap). Needs a tokio runtime with time and I/O.
    pub async fn run(&self, request: RunRequest, stop: StopRequests) -> RunOutcome {
        lifecycle::run(self, request, stop).await
    }
}

/// What is known about a verified derivation token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivationFacts {
    /// Whether its signature and scope hold.
    pub verified: bool,
    /// The role it was derived from.
    pub role_root: String,
    /// The run it was derived for.
    pub parent_run_id: Option<String>,
}

/// One run. The document has been admitted.
#[derive(Debug)]
pub struct RunRequest {
    /// The document.
    pub document: ExecutionCellDocument,
    /// SHA-256 of the bytes it was read from, bare hexadecimal.
    pub raw_spec_sha256: String,
    /// The run's id, unique among live runs.
    pub run_id: String,
    /// The command's streams.
    pub streams: Streams,
    /// The operator's own cap on the command's run time.
    pub operator_timeout: Option<Duration>,
    /// What is known about the document's derivation token.
    pub derivation: Option<DerivationFacts>,
    /// That the document was admitted, for the record.
    pub admission: Option<AdmissionAllowed>,
    /// That a derivation token which is good for any run was accepted.
    pub universal_token: Option<UniversalTokenAccepted>,
    /// Where the events go, so that a later process can complete it.
    pub events_log: Option<EventsLog>,
}

/// Where the events of a run are kept on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsLog {
    /// The file that they are appended to.
    pub file: PathBuf,
    /// Its format.
    pub format: LogFormat,
}
