//! Who ends a command, and how.

use std::time::Duration;

use cellos_core::event::EndedBy;
use cellos_supervisor::{RunOutcome, StopRequests, SupervisorSignal};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    doubles::{Call, Fault, Pretended, Recorder, Script, document, document_with, shared},
    run::{request, supervisor},
};

/// A command that runs until it is told to end.
fn endless() -> Script {
    Script {
        ends_after: None,
        ..Script::default()
    }
}

struct Case {
    ttl_seconds: u64,
    timeout_ms: Option<u64>,
    operator: Option<Duration>,
    ended_by: EndedBy,
    text: &'static str,
    reason: &'static str,
}

#[tokio::test(start_paused = true)]
async fn deadline_is_attributed_to_the_nearest_bound() {
    let cases = [
        Case {
            ttl_seconds: 1,
            timeout_ms: None,
            operator: None,
            ended_by: EndedBy::DeadlineTtl,
            text: "cell killed by TTL watchdog after 1000 ms (ttl_seconds=1)",
            reason: "ttl_exceeded",
        },
        Case {
            ttl_seconds: 30,
            timeout_ms: Some(250),
            operator: None,
            ended_by: EndedBy::DeadlineTimeout,
            text: "command timed out after 250 ms (spec.run.timeoutMs)",
            reason: "timeout_exceeded",
        },
        Case {
            ttl_seconds: 30,
            timeout_ms: Some(250),
            operator: Some(Duration::from_millis(100)),
            ended_by: EndedBy::DeadlineOperator,
            text: "command timed out after 100 ms (CELLOS_RUN_TIMEOUT_MS)",
            reason: "timeout_exceeded",
        },
    ];
    for case in cases {
        let backend = shared(Pretended::scripted(endless()));
        let events = shared(Recorder::default());
        let mut request = request(document_with(json!({
            "run": {"argv": ["sleep", "99"], "timeoutMs": case.timeout_ms},
            "lifetime": {"ttlSeconds": case.ttl_seconds}
        })));
        request.operator_timeout = case.operator;
        let outcome = supervisor(&backend, &events)
            .run(request, StopRequests::none())
            .await;
        assert_eq!(outcome.ended_by, case.ended_by);
        assert_eq!(outcome.shell_exit_code(), 124);
        let completed = events.data("completed");
        assert_eq!(completed["spawnError"], case.text);
        assert_eq!(completed["exitCode"], -1);
        let destroyed = events.data("destroyed");
        assert_eq!(destroyed["reason"], case.reason);
        assert_eq!(
            destroyed["reasonDetail"],
            format!("command spawn: {}", case.text)
        );
        assert_eq!(destroyed["terminalState"], "forced");
    }
}

async fn run_stopped(
    script: Script,
    run: Value,
    requests: &[(u64, SupervisorSignal)],
) -> (RunOutcome, Vec<String>, Duration, Value) {
    let backend = shared(Pretended::scripted(script));
    let events = shared(Recorder::default());
    let (handle, stop) = StopRequests::channel();
    let requests = requests.to_vec();
    let asking = tokio::spawn(async move {
        for (after_ms, signal) in requests {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            handle.request(signal);
        }
    });
    let began = Instant::now();
    let outcome = supervisor(&backend, &events)
        .run(request(document(run)), stop)
        .await;
    let took = began.elapsed();
    asking.abort();
    let stops = backend
        .calls()
        .into_iter()
        .filter(|call| call.starts_with("Stop"))
        .collect();
    (outcome, stops, took, events.data("destroyed"))
}

#[tokio::test(start_paused = true)]
async fn command_that_ignores_terminate_is_killed_after_the_grace_period() {
    let script = Script {
        follows_terminate_after: None,
        ..endless()
    };
    let run = json!({"argv": ["x"], "timeoutMs": 1000, "limits": {"gracefulShutdownSeconds": 2}});
    let (outcome, stops, took, _) = run_stopped(script, run, &[]).await;
    assert_eq!(stops, ["Stop Terminate", "Stop Kill"]);
    assert_eq!(outcome.ended_by, EndedBy::DeadlineTimeout);
    assert!(
        took >= Duration::from_secs(3) && took < Duration::from_millis(3100),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_grace_period_means_kill_at_once() {
    let run = json!({"argv": ["x"], "timeoutMs": 1000, "limits": {"gracefulShutdownSeconds": 0}});
    let (_, stops, _, _) = run_stopped(endless(), run, &[]).await;
    assert_eq!(stops, ["Stop Kill"]);
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_the_command_politely_and_names_the_signal() {
    for (signal, code) in [
        (SupervisorSignal::Interrupt, 130),
        (SupervisorSignal::Terminate, 143),
        (SupervisorSignal::Hangup, 129),
    ] {
        let (outcome, stops, _, destroyed) =
            run_stopped(endless(), json!({"argv": ["x"]}), &[(500, signal)]).await;
        assert_eq!(stops, ["Stop Terminate"]);
        assert_eq!(outcome.shell_exit_code(), code);
        assert_eq!(outcome.stop_signal, Some(signal));
        assert_eq!(destroyed["endedBy"], "supervisor-signal");
        assert_eq!(
            destroyed["reasonDetail"],
            format!("stopped by {} in phase run", signal.name())
        );
        assert_eq!(destroyed["signal"], 15);
    }
}

#[tokio::test(start_paused = true)]
async fn second_stop_request_kills_at_once() {
    let script = Script {
        follows_terminate_after: None,
        ..endless()
    };
    let int = SupervisorSignal::Interrupt;
    let (_, stops, took, _) =
        run_stopped(script, json!({"argv": ["x"]}), &[(500, int), (100, int)]).await;
    assert_eq!(stops, ["Stop Terminate", "Stop Kill"]);
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn lifetime_ends_the_grace_period_of_a_stop_request() {
    let script = Script {
        follows_terminate_after: None,
        ..endless()
    };
    let run = json!({"argv": ["x"], "timeoutMs": 2000, "limits": {"gracefulShutdownSeconds": 60}});
    let (_, stops, took, _) = run_stopped(script, run, &[(500, SupervisorSignal::Terminate)]).await;
    assert_eq!(stops, ["Stop Terminate", "Stop Kill"]);
    assert!(took < Duration::from_millis(2100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_request_before_the_start_runs_nothing() {
    let backend = shared(Pretended::default());
    let events = shared(Recorder::default());
    let (handle, stop) = StopRequests::channel();
    handle.request(SupervisorSignal::Terminate);
    let outcome = supervisor(&backend, &events)
        .run(request(document(json!({"argv": ["x"]}))), stop)
        .await;
    assert_eq!(backend.calls(), ["Create", "Destroy"]);
    assert_eq!(outcome.shell_exit_code(), 143);
    assert_eq!(events.data("destroyed")["endedBy"], "supervisor-signal");
}

#[tokio::test(start_paused = true)]
async fn end_that_comes_with_the_deadline_is_the_commands_own() {
    let script = Script {
        ends_after: Some(Duration::from_secs(1)),
        ..Script::default()
    };
    // Often enough that chance cannot hide a wrong order.
    for _ in 0..20 {
        let run = json!({"argv": ["x"], "timeoutMs": 1000});
        let (outcome, stops, _, _) = run_stopped(script, run, &[]).await;
        assert!(outcome.succeeded(), "{:?}", outcome.first_error);
        assert!(stops.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_a_start_that_hangs() {
    let backend = shared(Pretended::with_fault(Call::Release, Fault::Hangs));
    let events = shared(Recorder::default());
    let (handle, stop) = StopRequests::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.request(SupervisorSignal::Hangup);
    });
    let began = Instant::now();
    let outcome = supervisor(&backend, &events)
        .run(request(document(json!({"argv": ["x"]}))), stop)
        .await;
    assert_eq!(outcome.ended_by, EndedBy::SupervisorSignal);
    assert_eq!(outcome.shell_exit_code(), 129);
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn stop_request_during_the_start_lets_the_command_end_politely() {
    let backend = shared(Pretended {
        release_takes: Duration::from_secs(2),
        ..Pretended::scripted(endless())
    });
    let events = shared(Recorder::default());
    let (handle, stop) = StopRequests::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.request(SupervisorSignal::Terminate);
    });
    let outcome = supervisor(&backend, &events)
        .run(request(document(json!({"argv": ["x"]}))), stop)
        .await;
    assert!(backend.calls().contains(&"Stop Terminate".to_owned()));
    assert!(!backend.calls().contains(&"Stop Kill".to_owned()));
    assert_eq!(outcome.shell_exit_code(), 143);
}
