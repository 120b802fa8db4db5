//! `cellos run`, over the backend that isolates nothing: what is tested is the command line.

use std::process::Output;

use cellos_testkit::EventLog;
use serde_json::Value;

use crate::program::{Place, snapshot, with_input};

/// The command in a cell of the stub backend, whose working folder is the place.
fn run(place: &Place, flags: &[&str], command: &[&str]) -> Output {
    let events = place.events();
    let folder = place.path().to_str().unwrap();
    let head = [
        "run",
        "--backend",
        "stub",
        "--events",
        events.to_str().unwrap(),
        "--workdir",
        folder,
    ];
    place
        .cellos(&[&head, flags, &["--"], command].concat())
        .output()
        .unwrap()
}

#[test]
fn streams_and_exit_code_are_the_commands_own() {
    let place = Place::new();
    let output = run(&place, &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.ends_with("err\n"), "{stderr}");
    assert!(
        stderr.starts_with("cellos: warning: the stub backend isolates NOTHING"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

#[test]
fn standard_input_reaches_the_command() {
    let place = Place::new();
    let folder = place.path().to_str().unwrap().to_owned();
    let mut command = place.cellos(&[
        "run",
        "--backend",
        "stub",
        "--workdir",
        &folder,
        "--",
        "cat",
    ]);
    assert_eq!(with_input(&mut command, b"through").stdout, b"through");
}

#[test]
fn a_document_on_standard_input_leaves_the_command_none() {
    let place = Place::new();
    let document = format!(
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: a\n  authority: {{}}\n  \
         lifetime: {{ttlSeconds: 10}}\n  run:\n    argv: [sh, -c, 'cat; echo end']\n    \
         workingDirectory: {:?}\n",
        place.path()
    );
    let mut command = place.cellos(&["run", "--backend", "stub", "-"]);
    let output = with_input(&mut command, document.as_bytes());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "end\n",
        "{:?}",
        output.stderr
    );
}

#[test]
fn ends_that_are_not_the_commands_choice_have_codes_of_their_own() {
    let place = Place::new();
    place.file("plain", "no program");
    for (name, flags, command, code) in [
        ("signal", &[][..], &["sh", "-c", "kill -9 $$"][..], 137),
        (
            "timeout",
            &["--timeout", "200ms", "--grace", "0s"],
            &["sleep", "30"],
            124,
        ),
        (
            "ttl",
            &["--ttl", "1s", "--grace", "0s"],
            &["sleep", "30"],
            124,
        ),
        ("not-found", &[], &["no-such-command"], 127),
        ("not-executable", &[], &["./plain"], 126),
    ] {
        let output = run(&place, flags, command);
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        snapshot!(format!("end-{name}"), place, &output);
    }
}

#[test]
fn quiet_leaves_only_what_must_be_said() {
    let place = Place::new();
    let output = run(&place, &["--quiet"], &["sh", "-c", "kill -9 $$"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("isolates NOTHING"));
}

#[test]
fn the_record_is_the_last_line_of_standard_output() {
    let place = Place::new();
    let output = run(
        &place,
        &["--json", "--run-id", "r1", "--id", "c1"],
        &["sh", "-c", "echo hi; exit 3"],
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("hi"));
    let record: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(lines.next(), None);
    assert_eq!(record["runId"], "r1");
    assert_eq!(record["cellId"], "c1");
    assert_eq!(record["exitCode"], 3);
    assert_eq!(record["shellExitCode"], 3);
    assert_eq!(record["endedBy"], "exited");
}

#[test]
fn the_record_goes_to_a_file_when_one_is_named() {
    let place = Place::new();
    let output = run(&place, &["--json=record.json"], &["true"]);
    assert!(output.stdout.is_empty());
    let text = std::fs::read_to_string(place.path().join("record.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["succeeded"], true);
}

#[test]
fn a_run_that_never_began_has_a_record_too() {
    let place = Place::new();
    let output = run(&place, &["--json", "--memory", "64M"], &["true"]);
    assert_eq!(output.status.code(), Some(126));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["shellExitCode"], 126);
    assert_eq!(
        record["problems"][0]["path"],
        "spec.run.limits.memoryMaxBytes"
    );
    assert_eq!(record["problems"][0]["code"], "backend-lacks-feature");
}

#[test]
fn events_begin_and_end_with_the_cell() {
    let place = Place::new();
    run(&place, &[], &["true"]);
    let types = place.event_types();
    assert!(
        types.contains(&"cell.lifecycle.v1.started".to_owned()),
        "{types:?}"
    );
    assert_eq!(types.last().unwrap(), "cell.lifecycle.v1.destroyed");
}

#[test]
fn redacted_fields_do_not_reach_the_log() {
    let place = Place::new();
    run(&place, &["--redact", "defaults"], &["echo", "hush-hush"]);
    let log = std::fs::read_to_string(place.events()).unwrap();
    assert!(!log.contains("hush-hush"));
    assert!(log.contains("[redacted]"));
}

#[test]
fn without_a_file_the_log_is_in_the_state_folder() {
    let place = Place::new();
    let folder = place.path().to_str().unwrap();
    let output = place
        .cellos(&[
            "run",
            "--backend",
            "stub",
            "--run-id",
            "r7",
            "--workdir",
            folder,
            "--",
            "true",
        ])
        .output()
        .unwrap();
    assert!(output.status.success());
    let log = EventLog::read(place.path().join("state/log/events.jsonl"));
    assert_eq!(log.data("destroyed")["runId"], "r7");
}

#[test]
fn the_evidence_and_the_timings_go_to_standard_error() {
    let place = Place::new();
    let output = run(&place, &["--show-evidence", "--timings"], &["true"]);
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in [
        "isolation     not measured",
        "end           exited with 0",
        "event log",
        "create",
        "µs",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn a_printed_document_is_not_run_and_can_be_run() {
    let place = Place::new();
    let flags = [
        "run",
        "--print-document",
        "--id",
        "shown",
        "--ttl",
        "30s",
        "--memory",
        "256M",
        "--cpus",
        "0.5",
        "--pids",
        "64",
        "--timeout",
        "10s",
        "--mount",
        ".:/work:rw",
        "--env",
        "K=V",
        "--user",
        "1000:1000",
        "--",
        "touch",
        "ran",
    ];
    let output = place.cellos(&flags).output().unwrap();
    assert!(!place.path().join("ran").exists());
    snapshot!("print-document", place, &output);
    let file = place.file("shown.yaml", &output.stdout);
    let check = place
        .cellos(&["validate", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let again = place
        .cellos(&["run", "--print-document=json", file.to_str().unwrap()])
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        json["spec"]["run"]["argv"],
        serde_json::json!(["touch", "ran"])
    );
}

#[test]
fn a_signal_to_cellos_ends_the_cell_and_completes_its_log() {
    let place = Place::new();
    let events = place.events();
    let folder = place.path().to_str().unwrap();
    let mut child = place
        .cellos(&[
            "run",
            "--backend",
            "stub",
            "--events",
            events.to_str().unwrap(),
            "--workdir",
            folder,
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 60",
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(
        place.event_types().last().unwrap(),
        "cell.lifecycle.v1.destroyed"
    );
}

#[test]
fn reap_finishes_a_killed_run() {
    let place = Place::new();
    let events = place.events();
    let folder = place.path().to_str().unwrap();
    let mut child = place
        .cellos(&[
            "run",
            "--backend",
            "stub",
            "--run-id",
            "killed",
            "--events",
            events.to_str().unwrap(),
            "--workdir",
            folder,
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 60",
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let output = place.cellos(&["reap", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["reaped"][0]["runId"], "killed", "{report}");
    assert_eq!(report["reaped"][0]["finalEvent"], "written");
    assert_eq!(
        place.event_types().last().unwrap(),
        "cell.lifecycle.v1.destroyed"
    );
    let again = place.cellos(&["reap"]).output().unwrap();
    assert_eq!(again.stdout, b"0 finished, 0 alive, 0 not finished\n");
}
