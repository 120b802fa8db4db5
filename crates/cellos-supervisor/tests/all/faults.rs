//! Ports that fail, hang and lie.

use std::time::Duration;

use cellos_core::{CellosError, event::EndedBy};
use cellos_supervisor::{RunError, bounds};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    doubles::{Bridged, Call, Fault, Pretended, Recorder, Script, document, document_with, shared},
    run::run,
};

const CALLS_AFTER_CREATE: &[Call] = &[
    Call::Posture,
    Call::Release,
    Call::Wait,
    Call::ExitReport,
    Call::Destroy,
];

#[tokio::test(start_paused = true)]
async fn failure_of_any_call_still_destroys_and_says_so_last() {
    for fault in [Fault::Fails, Fault::Hangs] {
        for call in CALLS_AFTER_CREATE {
            let backend = shared(Pretended::with_fault(*call, fault));
            let events = shared(Recorder::default());
            let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
            let label = format!("{call:?} {fault:?}");
            assert_eq!(backend.calls().last().unwrap(), "Destroy", "{label}");
            assert_eq!(
                events.kinds().last().unwrap(),
                "lifecycle.v1.destroyed",
                "{label}"
            );
            assert_eq!(events.data("destroyed")["outcome"], "failed", "{label}");
            assert!(!outcome.succeeded(), "{label}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn workload_never_runs_where_its_isolation_cannot_be_seen() {
    let backend = shared(Pretended::with_fault(Call::Posture, Fault::Fails));
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(backend.calls(), ["Create", "Posture", "Destroy"]);
    assert_eq!(outcome.ended_by, EndedBy::NotStarted);
    assert_eq!(outcome.shell_exit_code(), 125);
}

#[tokio::test(start_paused = true)]
async fn hung_backend_holds_teardown_up_no_longer_than_its_bounds() {
    for call in [Call::Create, Call::Posture, Call::Release, Call::Destroy] {
        let backend = shared(Pretended::with_fault(call, Fault::Hangs));
        let events = shared(Recorder::default());
        let began = Instant::now();
        run(&backend, &events, document(json!({"argv": ["x"]}))).await;
        let longest = bounds::CREATE + bounds::DESTROY + Duration::from_secs(1);
        assert!(began.elapsed() < longest, "{call:?} {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn create_that_does_not_answer_is_destroyed() {
    let backend = shared(Pretended::with_fault(Call::Create, Fault::Hangs));
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(backend.calls(), ["Create", "Destroy"]);
    assert!(matches!(outcome.first_error, Some(RunError::Create(_))));
    assert_eq!(events.kinds(), ["lifecycle.v1.failed"]);
}

#[tokio::test(start_paused = true)]
async fn workload_that_survives_kill_is_given_up_and_destroyed() {
    let backend = shared(Pretended::scripted(Script {
        ends_after: None,
        follows_terminate_after: None,
        dies_when_killed: false,
        ..Script::default()
    }));
    let events = shared(Recorder::default());
    let document = document(json!({"argv": ["x"], "timeoutMs": 100}));
    let outcome = run(&backend, &events, document).await;
    assert_eq!(outcome.ended_by, EndedBy::DeadlineTimeout);
    assert!(matches!(outcome.later_errors[..], [RunError::Lost { .. }]));
    assert_eq!(backend.calls().last().unwrap(), "Destroy");
}

#[tokio::test(start_paused = true)]
async fn stop_that_fails_is_followed_by_kill() {
    let backend = shared(Pretended {
        faults: [(Call::Stop, Fault::Fails)].into(),
        ..Pretended::scripted(Script {
            ends_after: Some(Duration::from_secs(3)),
            ..Script::default()
        })
    });
    let events = shared(Recorder::default());
    let document = document(json!({"argv": ["x"], "timeoutMs": 100}));
    let outcome = run(&backend, &events, document).await;
    let calls = backend.calls();
    assert!(
        calls.contains(&"Stop Terminate".to_owned()) && calls.contains(&"Stop Kill".to_owned())
    );
    assert_eq!(
        outcome
            .later_errors
            .iter()
            .filter(|e| matches!(e, RunError::Stop(_)))
            .count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn first_error_decides_and_later_ones_are_attached() {
    let backend = shared(Pretended {
        faults: [(Call::Destroy, Fault::Fails)].into(),
        ..Pretended::scripted(Script {
            end: cellos_core::ports::workload::WorkloadEnd::Exited { code: 7 },
            ..Script::default()
        })
    });
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(outcome.first_error, Some(RunError::Exited { code: 7 }));
    assert!(matches!(outcome.later_errors[..], [RunError::Destroy(_)]));
    assert_eq!(outcome.shell_exit_code(), 7);
    assert_eq!(
        events.data("destroyed")["laterErrors"],
        json!(["cell destroy: host backend: Destroy was made to fail"])
    );
}

#[tokio::test(start_paused = true)]
async fn contradictory_exit_code_fails_a_run_that_seemed_to_succeed() {
    let backend = shared(Pretended {
        lies_about_code: Some(0),
        ..Pretended::scripted(Script {
            end: cellos_core::ports::workload::WorkloadEnd::Signalled { signal: 9 },
            ..Script::default()
        })
    });
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(outcome.first_error, Some(RunError::Signalled { signal: 9 }));
    assert!(matches!(
        outcome.later_errors[..],
        [RunError::ExitReport(_)]
    ));
}

#[tokio::test(start_paused = true)]
async fn residue_fails_the_run_and_is_listed() {
    let backend = shared(Pretended {
        residue: vec!["process 4711".into()],
        ..Pretended::default()
    });
    let events = shared(Recorder::default());
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(outcome.shell_exit_code(), 125);
    let destroyed = events.data("destroyed");
    assert_eq!(destroyed["residue"]["found"], json!(["process 4711"]));
    assert_eq!(destroyed.get("residueClass"), None);
}

#[tokio::test(start_paused = true)]
async fn event_that_cannot_be_written_stops_the_run_and_teardown_still_happens() {
    // Every index of the published order, and one after it: nothing fails then.
    for index in 0..=8 {
        let backend = shared(Pretended::scripted(Script {
            ends_after: Some(Duration::from_secs(20)),
            ..Script::default()
        }));
        let events = shared(Recorder {
            fails_from: Some(index),
            ..Recorder::default()
        });
        let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
        let calls = backend.calls();
        assert_eq!(calls.last().unwrap(), "Destroy", "event {index}");
        assert_eq!(outcome.succeeded(), index == 8, "event {index}");
        let released = calls.contains(&"Release".to_owned());
        assert_eq!(released, index >= 3, "event {index}: {calls:?}");
        let killed = calls.contains(&"Stop Kill".to_owned());
        assert_eq!(killed, index == 3, "event {index}: {calls:?}");
        if index == 3 {
            assert_eq!(outcome.ended_by, EndedBy::EvidenceUnwritable);
        }
        if index < 8 {
            assert!(
                matches!(outcome.first_error, Some(RunError::Event { .. })),
                "event {index}"
            );
            assert_eq!(outcome.shell_exit_code(), 125, "event {index}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn single_lost_event_leaves_the_rest_of_the_evidence() {
    for index in 0..8 {
        let backend = shared(Pretended::default());
        let events = shared(Recorder {
            fails_only_at: Some(index),
            ..Recorder::default()
        });
        let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
        assert!(!outcome.succeeded());
        if index < 7 {
            assert_eq!(
                events.data("destroyed")["outcome"],
                "failed",
                "event {index}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sink_that_hangs_stops_the_run_within_its_bound() {
    let backend = shared(Pretended::default());
    let events = shared(Recorder {
        hangs_at: Some(1),
        ..Recorder::default()
    });
    let began = Instant::now();
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert!(began.elapsed() < bounds::EVENT + Duration::from_secs(5));
    assert_eq!(backend.calls(), ["Create", "Destroy"]);
    assert!(matches!(outcome.first_error, Some(RunError::Event { .. })));
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_made_durable_let_nothing_run() {
    let backend = shared(Pretended::default());
    let events = shared(Recorder {
        flush_fails: true,
        ..Recorder::default()
    });
    let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
    assert_eq!(backend.calls(), ["Create", "Posture", "Destroy"]);
    assert!(matches!(outcome.first_error, Some(RunError::Flush(_))));
}

#[tokio::test(start_paused = true)]
async fn backend_with_the_published_methods_only_is_waited_for() {
    for (exit, code, ended_by) in [
        (Ok(0), 0, EndedBy::Exited),
        (Ok(4), 4, EndedBy::Exited),
        (Err(CellosError::Host("bridge".into())), 125, EndedBy::Lost),
    ] {
        let backend = shared(Bridged {
            exit: Some(exit),
            takes: Duration::from_secs(3),
        });
        let events = shared(Recorder::default());
        let outcome = run(&backend, &events, document(json!({"argv": ["x"]}))).await;
        assert_eq!(outcome.shell_exit_code(), code);
        assert_eq!(outcome.ended_by, ended_by);
        assert_eq!(events.data("process_spawned")["observed"], false);
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_holds_for_a_backend_that_cannot_be_told_to_stop() {
    let backend = shared(Bridged {
        exit: Some(Ok(0)),
        takes: Duration::from_secs(3600),
    });
    let events = shared(Recorder::default());
    let began = Instant::now();
    let document = document_with(json!({
        "run": {"argv": ["x"]}, "lifetime": {"ttlSeconds": 2}
    }));
    let outcome = run(&backend, &events, document).await;
    assert_eq!(outcome.ended_by, EndedBy::DeadlineTtl);
    assert_eq!(outcome.shell_exit_code(), 124);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(outcome.teardown.is_some());
}

#[tokio::test(start_paused = true)]
async fn lifetime_that_is_over_before_the_start_lets_nothing_run() {
    let backend = shared(Pretended {
        create_takes: Duration::from_secs(3),
        ..Pretended::default()
    });
    let events = shared(Recorder::default());
    let document = document_with(json!({
        "run": {"argv": ["x"]}, "lifetime": {"ttlSeconds": 2}
    }));
    let outcome = run(&backend, &events, document).await;
    assert_eq!(backend.calls(), ["Create", "Posture", "Destroy"]);
    assert_eq!(outcome.shell_exit_code(), 124);
    assert_eq!(events.data("destroyed")["endedBy"], "deadline-ttl");
}

#[tokio::test(start_paused = true)]
async fn lifetime_ends_a_start_that_hangs() {
    let backend = shared(Pretended::with_fault(Call::Release, Fault::Hangs));
    let events = shared(Recorder::default());
    let began = Instant::now();
    let document = document_with(json!({
        "run": {"argv": ["x"]}, "lifetime": {"ttlSeconds": 2}
    }));
    let outcome = run(&backend, &events, document).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(outcome.ended_by, EndedBy::DeadlineTtl);
    assert_eq!(
        events.data("completed")["spawnError"],
        "cell killed by TTL watchdog after 2000 ms (ttl_seconds=2)"
    );
}
