//! Remote sinks through the program: delivered during a run, later, from where the cursor is, and
//! never at the cost of a cell that would otherwise run.

use std::{
    process::{Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use cellos_testkit::http::{HttpAnswer, HttpReceiver};
use serde_json::Value;

use crate::program::{Place, snapshot};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place with a log, a receiver, and a file that names it.
struct Trial {
    place: Place,
    receiver: HttpReceiver,
}

impl Trial {
    fn new() -> Self {
        let trial = Self {
            place: Place::new(),
            receiver: HttpReceiver::start(),
        };
        trial.sinks("");
        trial
    }

    /// Writes the file, with more lines for the one sink in it.
    fn sinks(&self, more: &str) {
        let url = format!("http://{}/", self.receiver.address());
        let text = format!(
            "apiVersion: cellos.io/v1\nkind: EventSinks\ndeliverWithinMs: 1500\nsinks:\n- name: \
             audit\n  kind: webhook\n  url: {url}\n{more}"
        );
        self.place.file("sinks.yaml", text);
    }

    fn run(&self) -> Output {
        let command = ["--sinks", "sinks.yaml", "--workdir", "/", "--", "true"];
        let head = ["run", "--backend", "stub", "--events", "events.jsonl"];
        let mut run = self.place.cellos(&[&head[..], &command[..]].concat());
        run.output().unwrap()
    }

    fn forward_command(&self, more: &[&str]) -> Command {
        let head = ["forward", "--log", "events.jsonl"];
        let mut command = self.place.cellos(&[&head, more].concat());
        command.env("CELLOS_SINKS", "sinks.yaml");
        command
    }

    /// `cellos forward --json`: its exit code and what it says about the sink.
    fn forward(&self) -> (i32, Value) {
        let output = self.forward_command(&["--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["format"], "cellos.forward/1");
        (output.status.code().unwrap(), report["sinks"][0].clone())
    }

    /// Ids of the events in the log.
    fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.place.events()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["entry"]["event"]["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Ids of the events that the receiver has accepted.
    fn received(&self) -> Vec<String> {
        self.receiver
            .accepted()
            .iter()
            .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap())
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_run_delivers_its_events_while_it_runs_and_at_its_end() {
    let trial = Trial::new();
    for _ in 0..2 {
        let output = trial.run();
        assert!(output.status.success(), "{output:?}");
        assert!(!stderr(&output).contains("left for sink"), "{output:?}");
    }
    assert!(trial.logged().len() > 8);
    assert_eq!(trial.received(), trial.logged());
    let (code, report) = trial.forward();
    assert_eq!((code, &report["delivered"]), (0, &Value::from(0)));
}

#[test]
fn what_an_outage_kept_back_is_delivered_later_in_order_and_once() {
    let mut trial = Trial::new();
    trial.run();
    let before = trial.received().len();
    trial.receiver.go_away();
    let output = trial.run();
    assert!(output.status.success(), "the cell runs all the same");
    let missing = trial.logged().len() - before;
    let said = stderr(&output);
    let line = format!("{missing} events are left for sink audit (");
    assert!(said.contains(&line), "{said}");
    assert!(said.contains("refused"), "it says why: {said}");
    let (code, report) = trial.forward();
    assert_eq!((code, &report["end"]), (125, &"away".into()), "{report}");
    assert_eq!(report["left"], missing);
    trial.receiver.come_back();
    let (code, report) = trial.forward();
    assert_eq!(
        (code, &report["delivered"]),
        (0, &missing.into()),
        "{report}"
    );
    assert_eq!(report["left"], 0);
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn no_cell_starts_while_a_required_sink_lacks_too_much() {
    let mut trial = Trial::new();
    trial.sinks("  required: {maxBehind: 3}\n");
    assert!(trial.run().status.success(), "an empty log lacks nothing");
    trial.receiver.go_away();
    assert!(trial.run().status.success(), "it lacked nothing so far");
    let logged = trial.logged();
    let behind = logged.len() - trial.received().len();
    let refused = trial.run();
    assert_eq!(refused.status.code(), Some(125));
    let said = stderr(&refused);
    let problem = format!("required sink audit is {behind} events behind the log, at most 3");
    assert!(said.contains(&problem), "{said}");
    assert!(said.contains("cellos forward"), "{said}");
    assert_eq!(trial.logged(), logged, "nothing was begun");
    trial.receiver.come_back();
    assert_eq!(trial.forward().0, 0);
    assert!(trial.run().status.success());
    // A cursor that nobody can read is no proof of anything.
    trial.place.file("events.jsonl.cursor.audit", "{}");
    let refused = trial.run();
    assert_eq!(refused.status.code(), Some(125));
    assert!(stderr(&refused).contains("remove it"), "{refused:?}");
}

#[test]
fn after_a_break_in_the_middle_of_a_batch_it_goes_on_behind_what_was_acknowledged() {
    let mut trial = Trial::new();
    trial.receiver.go_away();
    trial.run();
    trial.receiver.come_back();
    let mut room = 3;
    trial.receiver.behave(move |_| match room {
        0 => HttpAnswer::status(410),
        _ => {
            room -= 1;
            HttpAnswer::status(200)
        }
    });
    let (code, report) = trial.forward();
    assert_eq!((code, &report["end"]), (125, &"refused".into()), "{report}");
    assert_eq!(report["delivered"], 3);
    trial.receiver.behave(|_| HttpAnswer::status(200));
    let (code, report) = trial.forward();
    assert_eq!(code, 0, "{report}");
    assert_eq!(
        trial.received(),
        trial.logged(),
        "none left out, none twice"
    );
}

#[test]
fn a_forwarder_that_is_killed_in_the_middle_leaves_nothing_out() {
    let mut trial = Trial::new();
    trial.receiver.go_away();
    trial.run();
    trial.receiver.come_back();
    let (reached, third) = mpsc::channel();
    let mut seen = 0;
    trial.receiver.behave(move |_| {
        seen += 1;
        if seen == 3 {
            let _ = reached.send(());
            std::thread::sleep(Duration::from_millis(300));
        }
        HttpAnswer::status(200)
    });
    let mut killed = trial.forward_command(&[]).spawn().unwrap();
    third.recv_timeout(PATIENCE).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (code, report) = trial.forward();
    assert_eq!(code, 0, "{report}");
    let mut received = trial.received();
    let logged = trial.logged();
    // What was not acknowledged to the cursor comes again, and the id tells.
    let again = received.split_off(received.len() - logged.len());
    assert_eq!(again, logged);
    assert!(logged.starts_with(&received), "{received:?}");
}

#[test]
fn a_follower_delivers_what_comes_until_a_signal() {
    let trial = Trial::new();
    let mut follower = trial
        .forward_command(&["--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let without_sinks = [
        "run",
        "--backend",
        "stub",
        "--events",
        "events.jsonl",
        "--workdir",
        "/",
        "--",
        "true",
    ];
    assert!(
        trial
            .place
            .cellos(&without_sinks)
            .status()
            .unwrap()
            .success()
    );
    let begun = Instant::now();
    while trial.received().len() < trial.logged().len() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", trial.received());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&follower);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    assert_eq!(trial.received(), trial.logged());
}

#[test]
fn a_receiver_that_never_answers_costs_a_bounded_time_at_the_end() {
    let trial = Trial::new();
    trial.receiver.behave(|_| {
        std::thread::sleep(Duration::from_secs(8));
        HttpAnswer::HangUp
    });
    let begun = Instant::now();
    let output = trial.run();
    let took = begun.elapsed();
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("left for sink audit"),
        "{output:?}"
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn events_go_to_standard_output_one_per_line() {
    let trial = Trial::new();
    trial.run();
    trial.place.file(
        "sinks.yaml",
        "apiVersion: cellos.io/v1\nkind: EventSinks\nsinks:\n- {name: out, kind: stdout}\n",
    );
    let output = trial.forward_command(&[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed: Vec<String> = String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(printed, trial.logged());
    let said = format!("out (stdout): {} delivered, 0 left", printed.len());
    assert!(stderr(&output).contains(&said), "{output:?}");
    // A cell's standard output is its own.
    let run = trial.run();
    assert!(run.stdout.is_empty(), "{run:?}");
    // A reader that goes away leaves the rest for the next one.
    let mut child = trial
        .forward_command(&[])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(125));
    let output = trial.forward_command(&[]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap().lines().count();
    assert_eq!(lines, trial.logged().len() - printed.len());
}

#[test]
fn a_line_that_was_changed_is_not_passed_over() {
    let mut trial = Trial::new();
    trial.receiver.go_away();
    trial.run();
    trial.receiver.come_back();
    let text = std::fs::read_to_string(trial.place.events()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[2] = lines[2].replacen("\"time\":\"2", "\"time\":\"3", 1);
    trial.place.file("events.jsonl", lines.join("\n") + "\n");
    for _ in 0..2 {
        let (code, report) = trial.forward();
        assert_eq!((code, &report["end"]), (125, &"failed".into()), "{report}");
        let reason = report["reason"].as_str().unwrap();
        assert!(reason.contains("line 4: does not follow"), "{report}");
    }
    assert_eq!(trial.received().len(), 3);
}

#[test]
fn what_is_wrong_with_a_file_of_sinks_is_said_before_anything_is_begun() {
    let trial = Trial::new();
    for (name, more) in [
        ("unknown-field", "  tokn: {env: T}\n"),
        ("unknown-kind", "- {name: b, kind: pigeon}\n"),
    ] {
        trial.sinks(more);
        let output = trial.run();
        let text = std::fs::read_to_string(trial.place.path().join("sinks.yaml")).unwrap();
        assert_eq!(output.status.code(), Some(125), "{text}");
        snapshot!(format!("sinks-{name}"), trial.place, &output);
        assert!(!trial.place.events().exists());
    }
    trial.sinks("  token: {env: NOT_SET}\n");
    trial.run();
    let (code, report) = trial.forward();
    assert_eq!((code, &report["end"]), (125, &"failed".into()));
    assert!(
        report["reason"].as_str().unwrap().contains("NOT_SET"),
        "{report}"
    );
    let mut without = trial.place.cellos(&["forward"]);
    snapshot!(
        "forward-without-sinks",
        trial.place,
        &without.output().unwrap()
    );
}
