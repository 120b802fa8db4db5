//! Running one cell in a test.

use std::sync::Arc;

use cellos_core::{ExecutionCellDocument, ports::CellBackend};
use cellos_supervisor::{RunOutcome, RunRequest, StopRequests, Supervisor};

use crate::doubles::{Recorder, null_streams};

pub(crate) fn request(document: ExecutionCellDocument) -> RunRequest {
    RunRequest {
        document,
        raw_spec_sha256: "ab12".into(),
        run_id: "run-1".into(),
        streams: null_streams(),
        operator_timeout: None,
        derivation: None,
        admission: None,
        universal_token: None,
        events_log: None,
    }
}

pub(crate) fn supervisor(
    backend: &Arc<impl CellBackend + 'static>,
    events: &Arc<Recorder>,
) -> Supervisor {
    Supervisor::new(backend.clone()).events(events.clone())
}

pub(crate) async fn run(
    backend: &Arc<impl CellBackend + 'static>,
    events: &Arc<Recorder>,
    document: ExecutionCellDocument,
) -> RunOutcome {
    supervisor(backend, events)
        .run(request(document), StopRequests::none())
        .await
}
