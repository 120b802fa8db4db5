//! Limits that are hit: said on standard error, in the events and in the record, with the limit.

use std::time::{Duration, Instant};

use cellos_testkit::require;
use serde_json::json;

use crate::trial::{Ends, Trial, record};

/// Fills memory until it is refused.
const HOG: &str = "exec tail /dev/zero";
/// Starts itself twice, and those likewise.
const BOMB: &str = r#"b() { b | b & }; b 2>/dev/null; sleep "$0""#;

#[test]
fn a_command_that_takes_too_much_memory_is_killed_and_told_so() {
    require!("userns");
    require!("cgroups");
    let trial = Trial::new();
    let error = "command was ended by the kernel: run.limits.memoryMaxBytes 33554432 was reached";
    let ends = Ends::with(137, error, "limit", "oom");
    let output = trial.run(&["--memory", "32M", "--json"], HOG, &ends);
    let hits = json!([{ "kind": "memory", "limitBytes": 33_554_432, "kills": 1 }]);
    assert_eq!(record(&output)["limitsHit"], hits);
    assert_eq!(record(&output)["endedBy"], "limit");
    let log = trial.log();
    assert_eq!(log.data("destroyed")["limitsHit"], hits);
    assert_eq!(log.data("command.v1.completed")["limitsHit"], hits);
}

#[test]
fn a_command_that_hides_its_killed_child_does_not_hide_the_limit() {
    require!("userns");
    require!("cgroups");
    let trial = Trial::new();
    let script = "tail /dev/zero 2>/dev/null; exit 0";
    let output = trial.run(&["--memory", "32M", "--json"], script, &Ends::exited(0));
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        stderr.contains("warning: limit: run.limits.memoryMaxBytes 33554432 was reached"),
        "{stderr}"
    );
    assert_eq!(record(&output)["limitsHit"][0]["kind"], "memory");
    assert_eq!(
        trial.log().data("destroyed")["limitsHit"][0]["kind"],
        "memory"
    );
}

#[test]
fn swap_is_no_way_around_the_memory_limit() {
    require!("userns");
    require!("cgroups");
    let trial = Trial::new();
    // The scratch folder is memory too.
    let script = "dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>/dev/null; exit 9";
    let output = trial.shell(&["--memory", "32M"], script).output().unwrap();
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let log = trial.log();
    let peak = &log.data("destroyed")["usage"]["memoryPeakBytes"];
    assert!(peak.as_u64().unwrap() <= 33_554_432, "{peak}");
    trial.assert_nothing_left();
}

#[test]
fn refused_processes_are_counted_and_told() {
    require!("userns");
    require!("cgroups");
    let trial = Trial::new();
    let script = r#"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep "$0" & done; wait"#;
    let output = trial.run(&["--pids", "6", "--json"], script, &Ends::exited(2));
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        stderr.contains("warning: limit: run.limits.pidsMax 6 was reached"),
        "{stderr}"
    );
    let log = trial.log();
    for hit in [
        &record(&output)["limitsHit"][0],
        &log.data("destroyed")["limitsHit"][0],
    ] {
        assert_eq!(hit["kind"], "pids", "{hit}");
        assert_eq!(hit["limit"], 6, "{hit}");
        assert!(hit["refusals"].as_u64().unwrap() > 0, "{hit}");
    }
}

#[test]
fn a_fork_bomb_under_a_limit_ends_with_its_deadline() {
    require!("userns");
    require!("cgroups");
    let trial = Trial::new();
    let begun = Instant::now();
    let flags = ["--pids", "32", "--timeout", "500ms", "--grace", "0s"];
    trial.run(&flags, BOMB, &Ends::timed_out());
    assert!(begun.elapsed() < Duration::from_secs(10));
    let log = trial.log();
    let hit = &log.data("destroyed")["limitsHit"][0];
    assert_eq!(hit["kind"], "pids", "{hit}");
}

#[test]
fn a_fork_bomb_without_a_limit_is_bounded_and_ends_with_its_deadline() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    let flags = ["--timeout", "500ms", "--grace", "0s"];
    trial.run(&flags, BOMB, &Ends::timed_out());
    assert!(begun.elapsed() < Duration::from_secs(15));
}
