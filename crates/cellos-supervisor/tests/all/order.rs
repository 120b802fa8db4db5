//! Which events a run leaves, in which order, with what in them.

use cellos_core::{
    event::{AdmissionAllowed, AdmissionFacts, EndedBy, UniversalTokenAccepted},
    ports::workload::WorkloadEnd,
};
use cellos_supervisor::{DerivationFacts, Phase, RunError, StopRequests};
use serde_json::json;

use crate::{
    doubles::{Call, Fault, Pretended, Recorder, Script, document, document_with, shared},
    run::{request, run, supervisor},
};

/// As recorded from the published implementation, without what it announces and does not measure.
const PUBLISHED_ORDER: &[&str] = &[
    "observability.v1.network_scope",
    "lifecycle.v1.started",
    "observability.v1.container_security",
    "observability.v1.process_spawned",
    "command.v1.completed",
    "compliance.v1.summary",
    "authority.v1.homeostasis",
    "lifecycle.v1.destroyed",
];

#[tokio::test(start_paused = true)]
async fn plain_run_leaves_the_published_events_in_the_published_order() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let outcome = run(&backend, &events, document(json!({"argv": ["true"]}))).await;
    assert_eq!(events.kinds(), PUBLISHED_ORDER);
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);
    assert_eq!(outcome.shell_exit_code(), 0);
    assert_eq!(outcome.ended_by, EndedBy::Exited);
    let destroyed = events.data("destroyed");
    assert_eq!(destroyed["outcome"], "succeeded");
    assert_eq!(destroyed["residueClass"], "none");
    assert_eq!(destroyed["terminalState"], "clean");
    assert_eq!(destroyed["exitCode"], 0);
    assert_eq!(destroyed["usage"]["memoryPeakBytes"], 4096);
    assert_eq!(events.data("container_security")["noNewPrivs"], true);
    assert_eq!(events.data("process_spawned")["observed"], true);
}

#[tokio::test(start_paused = true)]
async fn destroyed_refers_to_started_and_shares_its_session() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    run(&backend, &events, document(json!({"argv": ["true"]}))).await;
    let events = events.events();
    let started = events.iter().find(|e| e.ty.ends_with("started")).unwrap();
    let destroyed = events.last().unwrap();
    assert_eq!(destroyed.cexparenttrace.as_deref(), Some(&*started.id));
    assert_eq!(destroyed.cexsessionid, started.cexsessionid);
    assert!(destroyed.cexsessionid.is_some());
    for event in &events {
        assert_eq!(uuid_version(&event.id), Some('4'), "{}", event.id);
        assert!(event.time.as_deref().unwrap().ends_with('Z'));
    }
}

fn uuid_version(id: &str) -> Option<char> {
    (id.len() == 36).then(|| id.chars().nth(14))?
}

#[tokio::test(start_paused = true)]
async fn cell_without_command_is_created_and_taken_apart() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let outcome = run(&backend, &events, document_with(json!({}))).await;
    assert!(outcome.succeeded());
    assert_eq!(outcome.ended_by, EndedBy::NoCommand);
    assert_eq!(backend.calls(), ["Create", "Posture", "Destroy"]);
    assert!(!events.kinds().iter().any(|kind| kind.contains("command")));
}

#[tokio::test(start_paused = true)]
async fn failing_command_gives_its_code_to_the_shell_and_the_event() {
    let backend = shared(Pretended::scripted(Script {
        end: WorkloadEnd::Exited { code: 3 },
        ..Script::default()
    }));
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["false"]}))).await;
    assert_eq!(outcome.shell_exit_code(), 3);
    assert_eq!(outcome.first_error, Some(RunError::Exited { code: 3 }));
    assert_eq!(events.data("completed")["exitCode"], 3);
    let destroyed = events.data("destroyed");
    assert_eq!(destroyed["reason"], "command exited with status 3");
    assert_eq!(destroyed["outcome"], "failed");
}

#[tokio::test(start_paused = true)]
async fn signal_is_kept_with_its_number() {
    let backend = shared(Pretended::scripted(Script {
        end: WorkloadEnd::Signalled { signal: 11 },
        ..Script::default()
    }));
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["crash"]}))).await;
    assert_eq!(outcome.shell_exit_code(), 139);
    let completed = events.data("completed");
    assert_eq!(
        (&completed["exitCode"], &completed["signal"]),
        (&json!(139), &json!(11))
    );
    assert_eq!(events.data("destroyed")["reason"], "signal_killed");
}

#[tokio::test(start_paused = true)]
async fn kill_for_memory_is_reported_as_such_with_the_limit() {
    let backend = shared(Pretended {
        limits_hit: vec![cellos_core::ports::workload::LimitHit::Memory {
            limit_bytes: 1024,
            kills: 1,
        }],
        ..Pretended::scripted(Script {
            end: WorkloadEnd::Signalled { signal: 9 },
            ..Script::default()
        })
    });
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["hog"]}))).await;
    assert_eq!(outcome.ended_by, EndedBy::Limit);
    assert_eq!(outcome.shell_exit_code(), 137);
    let destroyed = events.data("destroyed");
    assert_eq!(destroyed["reason"], "oom");
    assert_eq!(destroyed["endedBy"], "limit");
    assert_eq!(
        destroyed["limitsHit"],
        json!([{"kind": "memory", "limitBytes": 1024, "kills": 1}])
    );
}

#[tokio::test(start_paused = true)]
async fn result_record_has_a_version_every_phase_and_the_codes() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let outcome = run(&backend, &events, document(json!({"argv": ["true"]}))).await;
    let record = serde_json::to_value(outcome.record()).unwrap();
    assert_eq!(record["formatVersion"], 1);
    assert_eq!(record["exitCode"], 0);
    assert_eq!(record["endedBy"], "exited");
    let phases: Vec<Phase> = outcome.timings.iter().map(|timing| timing.phase).collect();
    assert_eq!(
        phases,
        [
            Phase::Record,
            Phase::Create,
            Phase::Start,
            Phase::Inspect,
            Phase::Release,
            Phase::Run,
            Phase::Destroy,
            Phase::Close
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn cell_that_cannot_be_created_leaves_a_failed_event_and_nothing_else() {
    let backend = shared(Pretended::with_fault(Call::Create, Fault::Fails));
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["true"]}))).await;
    assert_eq!(events.kinds(), ["lifecycle.v1.failed"]);
    assert_eq!(
        events.data("failed")["reason"],
        "host backend: Create was made to fail"
    );
    assert_eq!(backend.calls(), ["Create"]);
    assert_eq!(outcome.shell_exit_code(), 125);
    assert_eq!(outcome.ended_by, EndedBy::NotStarted);
}

#[tokio::test(start_paused = true)]
async fn started_carries_the_hash_and_the_derivation_that_were_verified() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let mut request = request(document(json!({"argv": ["true"]})));
    request.derivation = Some(DerivationFacts {
        verified: true,
        role_root: "role".into(),
        parent_run_id: None,
    });
    supervisor(&backend, &events)
        .run(request, StopRequests::none())
        .await;
    assert_eq!(
        events.data("started"),
        json!({"backend": "unnamed", "cellId": "cell-1", "derivationVerified": true,
            "declared": {"artifacts": [], "egressRules": [], "exportTargets": [], "mounts": [],
                "secretRefs": []},
            "documentDigest": "sha256:ab12", "roleRoot": "role", "runId": "run-1", "specHash": "ab12", "specId": "cell-1",
            "ttlSeconds": 30})
    );
}

#[tokio::test(start_paused = true)]
async fn what_belongs_together_is_written_together() {
    let backend = shared(Pretended::default());
    let sink = shared(cellos_testkit::MemorySink::new());
    let mut request = request(document(json!({"argv": ["true"]})));
    request.admission = Some(AdmissionAllowed(AdmissionFacts::by_backend(
        "linux",
        Vec::new(),
        "ab12",
    )));
    request.universal_token = Some(UniversalTokenAccepted {
        spec_hash: Some("ab12".into()),
        role_root: Some("role".into()),
        reason: "names no run".into(),
        remediation: "name one".into(),
    });
    let outcome = cellos_supervisor::Supervisor::new(backend)
        .events(sink.clone())
        .run(request, StopRequests::none())
        .await;
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);
    // Admission, scope, started; token, security; spawned; completed; the sums and the end.
    assert_eq!(sink.groups(), [3, 2, 1, 1, 3]);
    let types = sink.types();
    assert!(types[0].ends_with("admission.v1.allowed"), "{types:?}");
    assert!(types[3].ends_with("permissive_mode"), "{types:?}");
    // Before the release, after the command, at the end.
    assert_eq!(sink.flushes(), 3);
    for event in sink.events() {
        let data = event.data.unwrap();
        assert_eq!(data["documentDigest"], "sha256:ab12", "{}", event.ty);
        assert_eq!(data["runId"], "run-1", "{}", event.ty);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_says_what_became_of_the_streams() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    run(&backend, &events, document(json!({"argv": ["true"]}))).await;
    let output = &events.data("destroyed")["output"];
    assert_eq!(
        output["stdout"],
        json!({"bytes": null, "counted": "device"})
    );
    let completed = events.data("completed");
    assert_eq!(completed["declared"], json!({"ttlSeconds": 30}));
}
