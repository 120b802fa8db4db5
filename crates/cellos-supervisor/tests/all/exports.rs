//! Artifacts that leave a cell.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    ports::{ExportArtifactMetadata, ExportReceipt, ExportSink, workload::WorkloadEnd},
};
use cellos_exports::LocalFolder;
use cellos_supervisor::{Phase, RunError, RunOutcome, StopRequests, SupervisorSignal, bounds};
use serde_json::{Value, json};

use crate::{
    doubles::{Pretended, Recorder, Script, document_with, shared},
    run::{request, supervisor},
};

async fn export(
    work: &Path,
    root: &Path,
    script: Script,
    artifacts: Value,
) -> (RunOutcome, Arc<Recorder>) {
    let backend = shared(Pretended {
        working_folder: Some(work.to_owned()),
        ..Pretended::scripted(script)
    });
    let events = shared(Recorder::default());
    let sink = LocalFolder::new(root, "cell-1").unwrap();
    let document = document_with(json!({
        "run": {"argv": ["x"]}, "export": {"artifacts": artifacts}
    }));
    let outcome = supervisor(&backend, &events)
        .exports(Arc::new(sink))
        .run(request(document), StopRequests::none())
        .await;
    (outcome, events)
}

#[tokio::test]
async fn artifacts_are_touched_stored_and_receipted_in_order() {
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(work.path().join("a"), "aa").unwrap();
    std::fs::write(work.path().join("b"), "bbb").unwrap();
    let artifacts = json!([{"name": "first", "path": "a"}, {"name": "second", "path": "/work/b"}]);
    let (outcome, events) = export(work.path(), out.path(), Script::default(), artifacts).await;
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);
    assert_eq!(
        std::fs::read_to_string(out.path().join("cell-1/second")).unwrap(),
        "bbb"
    );
    assert_eq!(
        events.kinds()[4..9],
        [
            "command.v1.completed",
            "observability.v1.fs_touch",
            "export.v2.completed",
            "observability.v1.fs_touch",
            "export.v2.completed"
        ]
    );
    assert_eq!(events.data("fs_touch")["sourcePath"], "/work/a");
    let completed = events.data("export.v2.completed");
    assert_eq!(
        completed["receipt"],
        json!({"targetKind": "local", "targetName": null, "destination": "cell-1/first",
            "bytesWritten": 2})
    );
    assert_eq!(
        completed["provenance"]["parentType"],
        "dev.cellos.events.cell.lifecycle.v1.started"
    );
}

#[tokio::test]
async fn first_artifact_that_fails_stops_the_rest() {
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink("/etc/passwd", work.path().join("link")).unwrap();
    std::fs::write(work.path().join("b"), "bbb").unwrap();
    let artifacts = json!([{"name": "first", "path": "link"}, {"name": "second", "path": "b"}]);
    let (outcome, events) = export(work.path(), out.path(), Script::default(), artifacts).await;
    assert!(matches!(outcome.first_error, Some(RunError::Export { .. })));
    assert_eq!(outcome.shell_exit_code(), 125);
    assert!(!out.path().join("cell-1").exists());
    let failed = events.data("export.v2.failed");
    assert_eq!(failed["artifactName"], "first");
    assert_eq!(failed["targetKind"], "local");
    assert!(failed["reason"].as_str().unwrap().contains("symbolic link"));
    assert!(!events.kinds().iter().any(|kind| kind.contains("fs_touch")));
}

#[tokio::test]
async fn failing_command_exports_nothing() {
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(work.path().join("a"), "aa").unwrap();
    let script = Script {
        end: WorkloadEnd::Exited { code: 1 },
        ..Script::default()
    };
    let (_, events) = export(
        work.path(),
        out.path(),
        script,
        json!([{"name": "first", "path": "a"}]),
    )
    .await;
    assert!(!events.kinds().iter().any(|kind| kind.contains("export")));
    assert!(!out.path().join("cell-1").exists());
}

/// Never has an artifact stored.
struct Stuck;

#[async_trait]
impl ExportSink for Stuck {
    async fn push(
        &self,
        _name: &str,
        _path: &str,
        _metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError> {
        std::future::pending().await
    }
}

async fn export_to_stuck(ask: bool) -> (RunOutcome, Arc<Recorder>) {
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("a"), "aa").unwrap();
    let backend = shared(Pretended {
        working_folder: Some(work.path().to_owned()),
        ..Pretended::default()
    });
    let events = shared(Recorder::default());
    let document = document_with(json!({
        "run": {"argv": ["x"]}, "export": {"artifacts": [{"name": "first", "path": "a"}]}
    }));
    let (handle, stop) = StopRequests::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        if ask {
            handle.request(SupervisorSignal::Terminate);
        }
    });
    let outcome = supervisor(&backend, &events)
        .exports(Arc::new(Stuck))
        .run(request(document), stop)
        .await;
    assert_eq!(backend.calls().last().unwrap(), "Destroy");
    (outcome, events)
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_an_export_that_hangs() {
    let (outcome, events) = export_to_stuck(true).await;
    assert_eq!(
        outcome.first_error,
        Some(RunError::Stopped {
            signal: SupervisorSignal::Terminate,
            phase: Phase::Export
        })
    );
    assert_eq!(outcome.shell_exit_code(), 143);
    assert_eq!(
        events.data("export.v2.failed")["reason"],
        "stopped by SIGTERM"
    );
}

#[tokio::test(start_paused = true)]
async fn export_that_hangs_is_given_up_at_its_bound() {
    let began = tokio::time::Instant::now();
    let (outcome, _) = export_to_stuck(false).await;
    assert!(matches!(outcome.first_error, Some(RunError::Export { .. })));
    assert!(began.elapsed() < bounds::EXPORT + Duration::from_secs(1));
}
