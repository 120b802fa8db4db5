//! A hard end, whatever the command does.

use std::time::{Duration, Instant};

use cellos_testkit::require;

use crate::trial::{Ends, Trial, assert_one_error};

#[test]
fn a_cell_ends_with_its_time_to_live() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    let ends = Ends::with(
        124,
        "cell killed by TTL watchdog",
        "deadline-ttl",
        "ttl_exceeded",
    );
    trial.run(&["--ttl", "1s", "--grace", "0s"], r#"sleep "$0""#, &ends);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(trial.log().data("command.v1.completed")["exitCode"], -1);
}

#[test]
fn a_command_ends_with_its_timeout() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    trial.run(&["--timeout", "300ms"], r#"sleep "$0""#, &Ends::timed_out());
    // SIGTERM was enough: the grace of five seconds is not waited for.
    assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
}

#[test]
fn a_command_that_ignores_the_request_is_killed_after_its_grace() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    let script = r#"trap "" TERM; while :; do sleep "$0"; done"#;
    let flags = ["--timeout", "300ms", "--grace", "1s"];
    trial.run(&flags, script, &Ends::timed_out());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1300), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_command_may_use_its_grace_to_clean_up() {
    require!("userns");
    let trial = Trial::new();
    let script = r#"trap 'echo cleaned; exit 0' TERM; sleep "$0" & wait"#;
    let output = trial.run(&["--timeout", "300ms"], script, &Ends::timed_out());
    assert_eq!(output.stdout, b"cleaned\n");
}

#[test]
fn a_timeout_beyond_the_time_to_live_is_refused() {
    let trial = Trial::new();
    let output = trial
        .shell(&["--ttl", "2s", "--timeout", "3s"], "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    assert_one_error(
        &output,
        Some("spec.run.timeoutMs: timeoutMs 3000 is longer than spec.lifetime.ttlSeconds, 2 s"),
    );
    let log = trial.log();
    assert_eq!(log.types(), ["cell.admission.v1.rejected"]);
    let problem = log.data("rejected")["problems"][0].as_str().unwrap();
    assert!(problem.contains("timeoutMs 3000 is longer"), "{problem}");
    trial.assert_nothing_left();
}
