//! Signals to cellos: the cell is ended in order, and its evidence is whole.

use std::time::{Duration, Instant};

use cellos_testkit::require;
use rustix::process::Signal;

use crate::trial::{Ends, Trial, signal, wait};

const SIGNALS: [(Signal, &str, i32); 3] = [
    (Signal::HUP, "SIGHUP", 129),
    (Signal::INT, "SIGINT", 130),
    (Signal::TERM, "SIGTERM", 143),
];

#[test]
fn each_signal_stops_a_running_cell() {
    require!("userns");
    for (number, name, code) in SIGNALS {
        let trial = Trial::new();
        let child = trial.start(&[], r#"(setsid sleep "$0" &); echo up; exec sleep "$0""#);
        signal(&child, number);
        let error = format!("stopped by {name} in phase run");
        let ends = Ends::with(code, &error, "supervisor-signal", "supervisor_signal");
        trial.check(&wait(child), &ends);
    }
}

/// Wherever in its life a run is hit, it either was over already or leaves whole evidence. Before
/// it has begun there is none, and nothing to show.
#[test]
fn a_signal_at_any_moment_leaves_whole_evidence_or_none() {
    require!("userns");
    let mut stopped = 0;
    for (step, (number, _, code)) in SIGNALS.into_iter().cycle().take(24).enumerate() {
        let trial = Trial::new();
        let mut child = trial.shell(&[], r#"exec sleep "$0""#).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4 * u64::try_from(step).unwrap()));
        if child.try_wait().unwrap().is_none() {
            signal(&child, number);
        }
        let output = wait(child);
        let log = std::fs::read_to_string(trial.place.events()).unwrap_or_default();
        if !log.is_empty() {
            assert_eq!(output.status.code(), Some(code), "step {step}: {output:?}");
            let log = trial.log();
            assert_eq!(log.types().last(), Some(&"cell.lifecycle.v1.destroyed"));
            let destroyed = log.data("destroyed");
            assert_eq!(destroyed["endedBy"], "supervisor-signal", "{destroyed}");
            stopped += 1;
        }
        trial.assert_nothing_left();
    }
    assert!(stopped > 0, "no signal came while a cell was there");
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(
        &["--grace", "60s"],
        r#"trap "echo asked" TERM; echo up; while :; do sleep 0.05; done"#,
    );
    let begun = Instant::now();
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::INT);
    let error = "stopped by SIGTERM in phase run";
    let ends = Ends::with(143, error, "supervisor-signal", "supervisor_signal");
    let output = wait(child);
    assert!(output.stdout.ends_with(b"asked\n"), "{output:?}");
    trial.check(&output, &ends);
    assert!(begun.elapsed() < Duration::from_secs(10), "{begun:?}");
}

#[test]
fn a_run_behind_nohup_outlives_the_terminal() {
    require!("userns");
    let trial = Trial::new();
    let run = trial.shell(&[], r#"echo up; sleep 0.6; exit 3"#);
    let mut child = crate::trial::behind(&["sh", "-c", r#"trap "" HUP; exec "$@""#, "sh"], &run)
        .spawn()
        .unwrap();
    let mut word = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
    signal(&child, Signal::HUP);
    trial.check(&wait(child), &Ends::exited(3));
}
