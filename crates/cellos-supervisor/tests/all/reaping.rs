//! Records of runs, and finishing those of supervisors that are gone.

use std::{fs, path::Path, process::Command, sync::Mutex, time::Duration};

use cellos_core::CellosError;
use cellos_supervisor::{
    RunError, StopRequests, SystemClock,
    state::{
        FinalEvent, LeftoverCleaner, LogFormat, NoLeftovers, PlainLogs, RECORD_FORMAT_VERSION,
        RunRecord, StateError, StateFolder, reap,
    },
};
use serde_json::{Value, json};

use crate::{
    doubles::{Call, Fault, Pretended, Recorder, document, shared},
    run::{request, supervisor},
};

fn record(run_id: &str, events_file: Option<&Path>) -> RunRecord {
    RunRecord {
        format_version: RECORD_FORMAT_VERSION,
        run_id: run_id.into(),
        cell_id: "cell-1".into(),
        spec_id: "cell-1".into(),
        correlation: None,
        ttl_seconds: 30,
        backend: "test".into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        supervisor_pid: 1,
        session_id: "01M85MZESGNAVGKTCRB7XN4ZGS".into(),
        started_event_id: "started-id".into(),
        events_file: events_file.map(Into::into),
        events_format: LogFormat::Plain,
        document_digest: None,
        cgroup_path: None,
        reason: None,
    }
}

/// Leaves a record as a killed supervisor does.
fn abandon(state: &StateFolder, record: RunRecord) {
    drop(state.begin(record).unwrap());
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[test]
fn killed_supervisor_is_finished_by_reap_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, events) = (dir.path().join("state"), dir.path().join("events.jsonl"));
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_host-runner-fixture"))
        .arg("supervise")
        .args([&state_dir, &events])
        .args(["sleep", "300"])
        .spawn()
        .unwrap();
    while !fs::read_to_string(&events).is_ok_and(|text| text.contains("process_spawned")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let state = StateFolder::open(&state_dir).unwrap();
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.alive, ["run-1"]);
    assert!(report.reaped.is_empty());

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    // The last line was torn in the middle.
    let whole = fs::read_to_string(&events).unwrap();
    fs::write(&events, format!("{whole}{{\"specversion\":\"1.")).unwrap();
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.reaped[0].final_event, FinalEvent::Written);
    let written = lines(&events);
    let started = written
        .iter()
        .find(|event| event["type"].as_str().unwrap().ends_with("started"))
        .unwrap();
    let last = written.last().unwrap();
    assert_eq!(
        last["type"],
        "dev.cellos.events.cell.lifecycle.v1.destroyed"
    );
    assert_eq!(last["data"]["reason"], "supervisor_lost");
    assert_eq!(last["data"]["endedBy"], "supervisor-lost");
    assert_eq!(last["data"]["outcome"], "failed");
    assert_eq!(last["data"]["ttlSeconds"], 30);
    assert_eq!(last["cexparenttrace"], started["id"]);
    assert_eq!(last["cexsessionid"], started["cexsessionid"]);

    let before = fs::read(&events).unwrap();
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report, cellos_supervisor::state::ReapReport::default());
    assert_eq!(fs::read(&events).unwrap(), before);
    assert!(!state_dir.join("runs/run-1.json").exists());
}

#[test]
fn event_that_was_written_before_the_kill_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path().join("state")).unwrap();
    let events = dir.path().join("events.jsonl");
    abandon(&state, record("run-1", Some(&events)));
    reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    abandon(&state, record("run-1", Some(&events)));
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.reaped[0].final_event, FinalEvent::AlreadyThere);
    assert_eq!(lines(&events).len(), 1);
    assert_eq!(lines(&events)[0].get("cexparenttrace"), None);
}

#[test]
fn last_event_of_an_earlier_run_with_the_same_ids_is_not_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path().join("state")).unwrap();
    let events = dir.path().join("events.jsonl");
    abandon(&state, record("run-1", Some(&events)));
    reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    let later = RunRecord {
        session_id: "01M86AQYHCETW1563GFMJFCG69".into(),
        ..record("run-1", Some(&events))
    };
    abandon(&state, later);
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.reaped[0].final_event, FinalEvent::Written);
    assert_eq!(lines(&events).len(), 2);
}

#[test]
fn many_reaps_at_once_write_one_event_per_run() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path().join("state")).unwrap();
    let events = dir.path().join("events.jsonl");
    for index in 0..20 {
        abandon(&state, record(&format!("run-{index}"), Some(&events)));
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
                assert_eq!(report.problems, []);
            });
        }
    });
    let mut runs: Vec<String> = lines(&events)
        .iter()
        .map(|event| event["data"]["runId"].to_string())
        .collect();
    assert_eq!(runs.len(), 20);
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), 20);
}

struct Cleaner(Mutex<Result<Vec<String>, CellosError>>);

impl LeftoverCleaner for Cleaner {
    fn clean(&self, _record: &RunRecord) -> Result<Vec<String>, CellosError> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn run_stays_until_its_leftovers_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    let events = dir.path().join("events.jsonl");
    abandon(&state, record("run-1", Some(&events)));
    let cleaner = Cleaner(Mutex::new(Err(CellosError::Host("busy".into()))));
    let report = reap(&state, &cleaner, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.problems[0].message, "host backend: busy");
    assert!(!events.exists());

    *cleaner.0.lock().unwrap() = Ok(vec!["cgroup /x".into()]);
    let report = reap(&state, &cleaner, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.reaped[0].removed, ["cgroup /x"]);
    let detail = lines(&events)[0]["data"]["reasonDetail"].to_string();
    assert!(detail.contains("removed: cgroup /x"), "{detail}");
}

#[test]
fn broken_and_newer_records_are_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    abandon(&state, record("newer", None));
    let path = state.record_file("newer").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace("\"formatVersion\":2", "\"formatVersion\":3"),
    )
    .unwrap();
    abandon(&state, record("torn", None));
    let torn = state.record_file("torn").unwrap();
    fs::write(&torn, "{").unwrap();
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.problems.len(), 2);
    assert!(report.problems[0].message.contains("newer than 2"));
    assert!(path.exists() && torn.exists());
}

#[test]
fn live_and_abandoned_run_ids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    let lease = state.begin(record("run-1", None)).unwrap();
    assert!(matches!(
        state.begin(record("run-1", None)),
        Err(StateError::InUse { .. })
    ));
    drop(lease);
    assert!(matches!(
        state.begin(record("run-1", None)),
        Err(StateError::LeftOver { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn record_lives_as_long_as_the_run_and_is_removed_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let held = state.begin(record("run-1", None)).unwrap();
    let outcome = supervisor(&backend, &events)
        .state(state.clone())
        .run(
            request(document(json!({"argv": ["x"]}))),
            StopRequests::none(),
        )
        .await;
    assert!(matches!(
        outcome.first_error,
        Some(RunError::State(StateError::InUse { .. }))
    ));
    assert!(backend.calls().is_empty());
    held.finish().unwrap();

    let outcome = supervisor(&backend, &events)
        .state(state.clone())
        .run(
            request(document(json!({"argv": ["x"]}))),
            StopRequests::none(),
        )
        .await;
    assert!(outcome.succeeded());
    assert!(!state.record_file("run-1").unwrap().exists());
}

#[tokio::test(start_paused = true)]
async fn failed_teardown_leaves_the_record_for_the_reaper() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    let backend = shared(Pretended::with_fault(Call::Destroy, Fault::Fails));
    let events = shared(Recorder::default());
    supervisor(&backend, &events)
        .state(state.clone())
        .run(
            request(document(json!({"argv": ["x"]}))),
            StopRequests::none(),
        )
        .await;
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert_eq!(report.reaped[0].run_id, "run-1");
}

#[test]
fn partial_records_are_removed_when_nobody_can_be_about_to_finish_them() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFolder::open(dir.path()).unwrap();
    let make = |name: &str, age: Duration| {
        let partial = dir.path().join("runs").join(name);
        fs::write(&partial, "{").unwrap();
        let then = std::time::SystemTime::now() - age;
        fs::File::options()
            .write(true)
            .open(&partial)
            .unwrap()
            .set_modified(then)
            .unwrap();
        partial
    };
    let begins = make(".begins.1.partial", Duration::ZERO);
    let unused = make(".unused.1.partial", Duration::from_secs(120));
    let written = make(".written.1.partial", Duration::from_secs(120));
    let writer = fs::File::open(&written).unwrap();
    writer.try_lock().unwrap();
    let report = reap(&state, &NoLeftovers, &PlainLogs, &SystemClock).unwrap();
    assert!(report.reaped.is_empty() && report.problems.is_empty());
    assert!(begins.exists() && written.exists());
    assert!(!unused.exists());
}
