//! Many cells at the same time.

use std::{fs, process::Child, time::Instant};

use cellos_testkit::{EventLog, require};

use crate::{
    program::Place,
    trial::{Ends, PATIENCE, Trial, records, signal, wait},
};

/// At once; enough to fill every table that has a small fixed size.
const CROWD: usize = 100;

#[test]
fn two_runs_of_one_document_are_two_runs() {
    require!("userns");
    let trial = Trial::new();
    let document = format!(
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: {}\n  authority: {{}}\n  \
         lifetime: {{ttlSeconds: 30}}\n  run:\n    argv: [/bin/sh, -c, 'echo up; sleep \"$0\"', \
         '{}']\n",
        trial.id, trial.marker
    );
    trial.place.file("cell.yaml", document);
    let start = |run: &str| -> Child {
        let mut child = trial
            .place
            .cellos(&["run", "--run-id", run, "cell.yaml"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        child
    };
    let both = [start("first"), start("second")];
    assert_eq!(records(&trial.place).len(), 2);
    for child in both {
        signal(&child, rustix::process::Signal::TERM);
        let output = wait(child);
        assert_eq!(output.status.code(), Some(143), "{output:?}");
    }
    let log = EventLog::read(trial.place.path().join("state/log/events.jsonl"));
    for run in ["first", "second"] {
        let log = log.of_run(run);
        assert_eq!(log.types(), crate::trial::WHOLE_RUN);
        assert_eq!(log.data("destroyed")["runId"], run);
        assert_eq!(log.data("destroyed")["residueClass"], "none");
    }
    trial.assert_nothing_left();
}

#[test]
fn a_run_id_that_is_in_use_is_refused() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(&[], r#"echo up; sleep "$0""#);
    let other = trial.shell(&[], "true").output().unwrap();
    assert_eq!(other.status.code(), Some(125), "{other:?}");
    crate::trial::assert_one_error(&other, Some("is running; choose another run id"));
    signal(&child, rustix::process::Signal::TERM);
    let ends = Ends::with(
        143,
        "stopped by SIGTERM",
        "supervisor-signal",
        "supervisor_signal",
    );
    trial.check(&wait(child), &ends);
}

#[test]
fn a_hundred_cells_at_once_all_succeed() {
    require!("userns");
    let place = Place::new();
    let trial = Trial::new();
    let begun = Instant::now();
    // They all wait for the same file, so that they really are there at the same time.
    let gates = place.path().join("gates");
    fs::create_dir(&gates).unwrap();
    let gate = gates.join("gate");
    let children: Vec<Child> = (0..CROWD)
        .map(|number| {
            let mount = format!("{}:/gate", gates.display());
            place
                .cellos(&[
                    "run",
                    "--id",
                    &trial.id,
                    "--mount",
                    &mount,
                    "--ttl",
                    "60s",
                    "--",
                    "/bin/sh",
                    "-c",
                    "until [ -e /gate/gate ]; do sleep 0.2; done; exit $(($1 % 3))",
                    &trial.marker,
                    &number.to_string(),
                ])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let file = place.path().join("state/log/events.jsonl");
    let started = || {
        let log = fs::read_to_string(&file).unwrap_or_default();
        log.matches("process_spawned").count()
    };
    while started() < CROWD {
        assert!(begun.elapsed() < 2 * PATIENCE, "{} started", started());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fs::write(gate, "").unwrap();
    for (number, child) in children.into_iter().enumerate() {
        let output = wait(child);
        let code = i32::try_from(number % 3).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "cell {number}: {output:?}"
        );
    }
    assert!(records(&place).is_empty(), "{:?}", records(&place));
    trial.assert_nothing_left();
}
