//! Events of real runs in a real NATS server, through the program.

use std::{
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cellos_evidence::log::{EventLog, LogConfig};
use cellos_testkit::{
    nats::{Kept, Reader, Server},
    require,
};
use serde_json::{Value, json};

use crate::{
    program::Place,
    trial::{signal, wait},
};

const STREAM: &str = "CELLOS_EVENTS";
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs of one trial.
const RUNS: usize = 20;

/// A place with a log, and a file that names a server.
struct Trial {
    place: Place,
    server: Server,
}

impl Trial {
    fn new() -> Self {
        let trial = Self {
            place: Place::new(),
            server: Server::start(""),
        };
        let text = format!(
            "apiVersion: cellos.io/v1\nkind: EventSinks\ndeliverWithinMs: 20000\nsinks:\n- name: \
             bus\n  kind: nats\n  servers: {}\n",
            trial.server.url()
        );
        trial.place.file("sinks.yaml", text);
        trial
    }

    fn run(&self, number: usize) -> Command {
        let run = format!("run-{number}");
        let mut command = self.place.cellos(&[
            "run",
            "--sinks",
            "sinks.yaml",
            "--backend",
            "stub",
            "--events",
            "events.jsonl",
            "--run-id",
            &run,
            "--workdir",
            "/",
            "--",
            "true",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn forward(&self, more: &[&str]) -> Child {
        let head = ["forward", "--sinks", "sinks.yaml", "--log", "events.jsonl"];
        let mut command = self.place.cellos(&[&head, more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Ids of the events in the log, in their order.
    fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.place.events()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["entry"]["event"]["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn kept(&self) -> Vec<Kept> {
        Reader::new(&self.server, json!({})).kept(STREAM)
    }

    /// Ids of the events in the stream, in their order.
    fn received(&self) -> Vec<String> {
        Reader::new(&self.server, json!({})).ids(STREAM)
    }

    /// How many events the stream has.
    fn count(&self) -> u64 {
        let info = Reader::new(&self.server, json!({})).info(STREAM);
        info["state"]["messages"].as_u64().unwrap_or(0)
    }

    /// Writes so many events without a run.
    fn append(&self, events: u64) {
        let log = EventLog::open(LogConfig::new(self.place.events())).unwrap();
        let first = log.append(&[]).unwrap().first_seq;
        let all: Vec<_> = (first..first + events)
            .map(|number| {
                serde_json::from_value(json!({
                    "specversion": "1.0", "id": format!("e{number:05}"), "source": "t",
                    "type": "dev.cellos.events.cell.lifecycle.v1.started", "data": {"n": number},
                }))
                .unwrap()
            })
            .collect();
        for together in all.chunks(200) {
            log.append(together).unwrap();
        }
    }
}

fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["sinks"][0].clone()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_run_leaves_its_end_in_the_stream() {
    require!("nats");
    let trial = Trial::new();
    // Several at once: they share the log, and one of them at a time has the cursor.
    let numbers: Vec<usize> = (0..RUNS).collect();
    for together in numbers.chunks(4) {
        let runs: Vec<Child> = together
            .iter()
            .map(|number| trial.run(*number).spawn().unwrap())
            .collect();
        for run in runs {
            let output = wait(run);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert!(!stderr(&output).contains("left for sink"), "{output:?}");
        }
    }
    let kept = trial.kept();
    let mut ended: Vec<&str> = kept
        .iter()
        .filter(|kept| kept.event["type"].as_str().unwrap().ends_with(".destroyed"))
        .map(|kept| kept.event["data"]["runId"].as_str().unwrap())
        .collect();
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), RUNS, "{ended:?}");
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn what_runs_told_while_the_server_was_down_arrives_once_and_in_order() {
    require!("nats");
    let mut trial = Trial::new();
    let text = std::fs::read_to_string(trial.place.path().join("sinks.yaml")).unwrap();
    trial.place.file("sinks.yaml", text.replace("20000", "300"));
    assert!(trial.run(0).output().unwrap().status.success());
    trial.server.kill();
    for number in 1..6 {
        let output = trial.run(number).output().unwrap();
        assert!(output.status.success(), "the cell runs: {output:?}");
        assert!(stderr(&output).contains("left for sink bus"), "{output:?}");
    }
    let away = wait(trial.forward(&["--json"]));
    assert_eq!(away.status.code(), Some(125), "{away:?}");
    let said = report(&away);
    assert_eq!(said["end"], "away", "{said}");
    assert!(said["left"].as_u64().unwrap() > 5, "{said}");
    trial.server.up();
    let output = wait(trial.forward(&["--json"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(report(&output)["left"], 0);
    assert_eq!(trial.received(), trial.logged());
    let again = wait(trial.forward(&["--json"]));
    assert_eq!(report(&again)["delivered"], 0);
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn a_server_killed_in_the_middle_of_thousands_of_events_loses_and_doubles_none() {
    require!("nats");
    let mut trial = Trial::new();
    trial.append(12_000);
    let forward = trial.forward(&["--json"]);
    // Each time when some more have arrived.
    let mut kills = 0;
    for more in [500, 1500, 2500] {
        let begun = Instant::now();
        let before = trial.count();
        while trial.count() < before + more {
            assert!(begun.elapsed() < PATIENCE, "nothing arrives");
            thread::sleep(Duration::from_millis(2));
        }
        trial.server.kill();
        thread::sleep(Duration::from_millis(100));
        trial.server.up();
        kills += 1;
    }
    let output = wait(forward);
    assert_eq!(kills, 3);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = report(&output);
    assert_eq!(said["left"], 0, "{said}");
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn a_follower_ends_within_a_second_of_a_signal_and_knows_where_it_was() {
    require!("nats");
    let mut trial = Trial::new();
    trial.append(2_000);
    let follower = trial.forward(&["--follow", "--json"]);
    let begun = Instant::now();
    while trial.count() < 2_000 {
        assert!(begun.elapsed() < PATIENCE, "{}", trial.count());
        thread::sleep(Duration::from_millis(20));
    }
    // Away, so that it is in the middle of trying.
    trial.server.kill();
    trial.append(3);
    thread::sleep(Duration::from_millis(500));
    let told = Instant::now();
    signal(&follower, rustix::process::Signal::TERM);
    let output = wait(follower);
    let took = told.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let said = report(&output);
    assert_eq!(output.status.code(), Some(125), "something is left: {said}");
    assert_eq!(said["delivered"], 2_000, "{said}");
    trial.server.up();
    let output = wait(trial.forward(&["--json"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn a_second_forwarder_says_that_there_is_another_one() {
    require!("nats");
    let mut trial = Trial::new();
    trial.append(100);
    let first = trial.forward(&["--follow", "--json"]);
    let begun = Instant::now();
    while trial.count() < 100 {
        assert!(begun.elapsed() < PATIENCE, "{}", trial.count());
        thread::sleep(Duration::from_millis(20));
    }
    let second = wait(trial.forward(&["--json"]));
    assert_eq!(second.status.code(), Some(0), "nothing is left: {second:?}");
    let note = "sink bus: another process is delivering to it, this one waits";
    assert!(stderr(&second).contains(note), "{second:?}");
    // It does not wait for ever for one that gets no further.
    trial.server.kill();
    trial.append(1);
    let begun = Instant::now();
    let second = wait(trial.forward(&["--json"]));
    assert!(begun.elapsed() < Duration::from_secs(18));
    assert_eq!(second.status.code(), Some(125), "{second:?}");
    let said = report(&second);
    let reason = said["reason"].as_str().unwrap();
    assert!(reason.contains("another process is delivering"), "{said}");
    assert_eq!(said["left"], 1, "{said}");
    // Another follower takes over where the first one ends.
    let third = trial.forward(&["--follow", "--json"]);
    thread::sleep(Duration::from_millis(300));
    signal(&first, rustix::process::Signal::TERM);
    wait(first);
    trial.server.up();
    let begun = Instant::now();
    while trial.count() < 101 {
        assert!(begun.elapsed() < PATIENCE, "{}", trial.count());
        thread::sleep(Duration::from_millis(20));
    }
    signal(&third, rustix::process::Signal::TERM);
    let third = wait(third);
    assert_eq!(report(&third)["delivered"], 1, "{third:?}");
    assert_eq!(trial.received(), trial.logged());
}
