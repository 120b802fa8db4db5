//! `cellos ps`, `cellos inspect` and `cellos explain`: what a log says about its runs.

use std::{fmt::Write as _, path::PathBuf, process::Output};

use serde_json::{Value, json};

use crate::program::{Place, snapshot};

/// One event of a log of plain lines.
fn line(run: &str, ty: &str, at_ms: i64, mut data: Value) -> String {
    for (name, value) in [("cellId", format!("cell-{run}")), ("runId", run.to_owned())] {
        if data.get(name).is_none() {
            data[name] = value.into();
        }
    }
    let id = format!("{run}-{ty}-{at_ms}");
    let second = 1_767_225_600 + at_ms.div_euclid(1000);
    let time = format!(
        "2026-01-01T00:00:{:02}.{:03}Z",
        second - 1_767_225_600,
        at_ms.rem_euclid(1000)
    );
    let event = json!({"specversion": "1.0", "id": id, "source": "cellos-supervisor", "time": time,
        "type": format!("dev.cellos.events.cell.{ty}"), "data": data});
    format!("{event}\n")
}

/// A run that was granted more than it used, exported a file, and was ended by its own code.
fn run(id: &str, from_ms: i64, code: i64) -> String {
    let at = |ms: i64| from_ms + ms;
    let outcome = if code == 0 { "succeeded" } else { "failed" };
    let mut text = String::new();
    text += &line(
        id,
        "observability.v1.network_scope",
        at(0),
        json!({"egressRuleCount": 1}),
    );
    text += &line(
        id,
        "lifecycle.v1.started",
        at(1),
        json!({"specId": "build", "ttlSeconds": 30, "backend": "linux", "tenantId": "acme",
            "documentDigest": format!("sha256:{}", "ab".repeat(32)), "declared": {
            "egressRules": [{"host": "api.example.com", "port": 443}], "secretRefs": ["TOKEN"],
            "mounts": [{"source": "/src", "target": "/work", "access": "ro"}],
            "artifacts": [{"name": "report", "path": "/out/report"}, {"name": "log", "path": "/out/log"}],
            "exportTargets": [], "timeoutMs": 5000, "limits": {"memoryMaxBytes": 1 << 26, "pidsMax": 16}}}),
    );
    text += &line(
        id,
        "observability.v1.container_security",
        at(2),
        json!({"capEff": "0000000000000000", "privileged": false, "observed": true, "hostUid": 4242,
            "privateNamespaces": ["mnt", "net", "pid"], "noNewPrivs": true, "seccompMode": 2,
            "seccompFilters": 1, "landlockAbi": 6}),
    );
    text += &line(
        id,
        "observability.v1.process_spawned",
        at(20),
        json!({"program": "make", "argc": 2, "observed": true}),
    );
    text += &line(
        id,
        "command.v1.completed",
        at(1520),
        json!({"argv": ["make", "it's all"], "exitCode": code, "durationMs": 1500, "endedBy": "exited",
            "usage": {"wallMicros": 1_500_000, "cpuUserMicros": 700_000, "cpuSystemMicros": 50_000,
            "memoryPeakBytes": 5_000_000, "pidsPeak": 3}}),
    );
    text += &line(
        id,
        "export.v2.completed",
        at(1600),
        json!({"artifactName": "report", "sha256": "cd".repeat(32), "receipt": {"targetKind": "local",
            "targetName": null, "destination": "cell/report", "bytesWritten": 2048}}),
    );
    let reason = (code != 0).then(|| format!("command exited with status {code}"));
    text += &line(
        id,
        "lifecycle.v1.destroyed",
        at(1700),
        json!({"ttlSeconds": 30, "outcome": outcome, "reason": reason, "endedBy": "exited",
            "exitCode": code, "residueClass": "none",
            "residue": {"lookedFor": ["processes", "mounts"], "found": []}}),
    );
    text
}

/// A log with a run that is well, one that failed, one without an end and one that broke a rule.
fn log(place: &Place) -> PathBuf {
    let mut text = run("aa1", 0, 0) + &run("aa2", 2000, 3);
    text += &line(
        "bb1",
        "lifecycle.v1.started",
        4000,
        json!({"ttlSeconds": 9, "backend": "linux"}),
    );
    let bad = run("bb2", 5000, 0).replace("\"found\":[]", "\"found\":[\"process 7 (sleep)\"]");
    text += &bad;
    place.file("log.jsonl", text)
}

fn cellos(place: &Place, arguments: &[&str]) -> Output {
    place.cellos(arguments).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn ps_lists_what_there_is_and_what_there_was() {
    let place = Place::new();
    log(&place);
    let arguments = ["ps", "--log", "log.jsonl"];
    snapshot!("ps", place, &cellos(&place, &arguments));
    snapshot!(
        "ps-all",
        place,
        &cellos(&place, &["ps", "-a", "--log", "log.jsonl"])
    );
    let listing = json_of(&cellos(
        &place,
        &["ps", "-a", "--json", "--log", "log.jsonl"],
    ));
    assert_eq!(listing["format"], "cellos.ps/1");
    let states: Vec<_> = listing["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| {
            (
                cell["runId"].as_str().unwrap(),
                cell["snapshot"]["currentState"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("aa1", "destroyed"),
            ("aa2", "destroyFailed"),
            ("bb2", "destroyed"),
            ("bb1", "started")
        ]
    );
}

#[test]
fn explain_tells_a_run_in_every_format() {
    let place = Place::new();
    log(&place);
    for format in ["terminal", "markdown", "html", "json"] {
        for run in ["aa1", "bb2"] {
            let output = cellos(
                &place,
                &["explain", run, "--log", "log.jsonl", "--format", format],
            );
            snapshot!(format!("explain-{run}-{format}"), place, &output);
        }
    }
}

#[test]
fn a_run_is_found_by_whatever_names_it_alone() {
    let place = Place::new();
    log(&place);
    for (name, run) in [
        ("aa1", "aa1"),
        ("aa2", "aa2"),
        ("cell-aa1", "aa1"),
        ("cell-aa1/aa1", "aa1"),
        ("cell-bb2", "bb2"),
        ("latest", "bb2"),
    ] {
        let found = json_of(&cellos(&place, &["inspect", name, "--log", "log.jsonl"]));
        assert_eq!(
            (&found["format"], &found["runId"]),
            (&json!("cellos.inspect/1"), &json!(run)),
            "{name}"
        );
    }
    for (case, name) in [("ambiguous", "aa"), ("none", "zz")] {
        let output = cellos(&place, &["inspect", name, "--log", "log.jsonl"]);
        snapshot!(format!("inspect-{case}"), place, &output);
    }
    let output = cellos(&place, &["inspect", "aa1", "--log", "missing.jsonl"]);
    snapshot!("inspect-no-log", place, &output);
}

#[test]
fn the_runs_of_the_program_itself_are_well() {
    let place = Place::new();
    let output = cellos(&place, &["run", "--backend", "stub", "--", "/bin/true"]);
    assert!(output.status.success(), "{output:?}");
    let run = json_of(&cellos(&place, &["inspect", "latest"]));
    assert_eq!(run["snapshot"]["outcome"], "succeeded");
    assert_eq!(run["run"]["errors"], 0, "{run:#}");
    assert_eq!(run["run"]["command"]["exitCode"], 0);
    let listed = json_of(&cellos(&place, &["ps", "-a", "--json"]));
    assert_eq!(listed["cells"][0]["runId"], run["runId"]);
    assert_eq!(
        json_of(&cellos(&place, &["ps", "--json"]))["cells"],
        json!([])
    );
    let story = json_of(&cellos(&place, &["explain", "latest", "--format", "json"]));
    assert_eq!(
        (&story["runId"], &story["well"]),
        (&run["runId"], &json!(true))
    );
}

#[test]
fn what_a_log_says_cannot_steer_a_terminal_or_a_browser() {
    let place = Place::new();
    let bait = "x\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\n<script>alert(1)</script>|`# [a](b)";
    let mut text = line(
        "h1",
        "lifecycle.v1.started",
        0,
        json!({"cellId": bait, "specId": bait,
        "backend": bait, "ttlSeconds": 1, "declared": {"secretRefs": [bait]}}),
    );
    text += &line(
        "h1",
        "lifecycle.v1.destroyed",
        9,
        json!({"cellId": bait, "outcome": bait,
        "reason": bait, "endedBy": bait, "residue": {"lookedFor": [bait], "found": [bait]}}),
    );
    text += "not an event\n";
    place.file("log.jsonl", text);
    for arguments in [
        &["ps", "-a", "--no-trunc"][..],
        &["ps", "-a", "--json"],
        &["inspect", "h1"],
        &["explain", "h1"],
        &["explain", "h1", "--format", "markdown"],
        &["explain", "h1", "--format", "html"],
        &["explain", "h1", "--format", "json"],
    ] {
        let arguments = [arguments, &["--log", "log.jsonl"]].concat();
        let output = cellos(&place, &arguments);
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            output.status.success() && shown.contains("owned"),
            "{shown}"
        );
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.contains(steers), "{arguments:?}: {shown:?}");
        assert!(shown.contains("1 lines of"), "{shown}");
        if arguments.contains(&"html") || arguments.contains(&"markdown") {
            assert!(!shown.contains("<script"), "{shown}");
        }
        if arguments.contains(&"markdown") {
            assert!(!shown.contains("[a](b)"), "{shown}");
        }
    }
}

#[test]
fn ps_reads_a_long_log() {
    let place = Place::new();
    let mut text = String::new();
    for index in 0..3000 {
        write!(text, "{}", run(&format!("r{index:05}"), 0, 0)).unwrap();
    }
    place.file("log.jsonl", text);
    let listed = json_of(&cellos(
        &place,
        &["ps", "-a", "--json", "--log", "log.jsonl"],
    ));
    assert_eq!(listed["cells"].as_array().unwrap().len(), 3000);
    assert_eq!(listed["cells"][2999]["snapshot"]["processedEvents"], 7);
}
