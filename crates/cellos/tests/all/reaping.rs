//! Supervisors killed at the worst moments, and reapers in each other's way: the signed log is well
//! afterwards, or it is as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cellos_testkit::require;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    thousand::{Host, verify},
    trial::{PATIENCE, assert_one_error, records, signal, wait},
};

/// Time in which a process that can go on would have.
const A_WHILE: Duration = Duration::from_millis(300);

/// Takes the log's lock, as another process does that is in the middle of writing.
fn lock(host: &Host) -> File {
    let file = File::open(host.log().with_extension("jsonl.lock")).unwrap();
    file.lock().unwrap();
    file
}

fn finding(said: &[Value], code: &str) -> u64 {
    said.last().unwrap()["findings"][code].as_u64().unwrap_or(0)
}

/// The folder of the log, by the names of its files.
fn bytes(host: &Host) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(host.log().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn a_supervisor_killed_while_another_process_holds_the_lock_is_finished() {
    require!("userns");
    let host = Host::new();
    let mut ending = host.up("ending");
    let beginning = {
        let _held = lock(&host);
        // One waits to write that its command has ended, the other to look where the log ends.
        drop(ending.stdin.take());
        let beginning = host.shell("beginning", "true").spawn().unwrap();
        thread::sleep(A_WHILE);
        signal(&ending, Signal::KILL);
        signal(&beginning, Signal::KILL);
        wait(ending);
        beginning
    };
    wait(beginning);
    assert_eq!(records(&host.place), ["ending.json"]);
    let report = host.reap();
    assert_eq!(report["reaped"].as_array().unwrap().len(), 1, "{report}");
    let said = verify(&host.for_a_stranger());
    assert_eq!(said.last().unwrap()["runsWell"], 1);
    assert_eq!(finding(&said, "supervisor_lost"), 1);
}

#[test]
fn a_supervisor_killed_before_its_first_event_is_finished() {
    require!("userns");
    let host = Host::new();
    host.done(&["run", "--run-id", "first", "--", "true"]);
    // Until one is on record, and none of its events is written, because the lock was taken first.
    let begun = Instant::now();
    loop {
        let started = host.shell("early", "true").spawn().unwrap();
        let record = host.place.path().join("state/runs/early.json");
        while !record.exists() {
            assert!(begun.elapsed() < PATIENCE, "the run is not on record");
            thread::yield_now();
        }
        let held = lock(&host);
        signal(&started, Signal::KILL);
        wait(started);
        drop(held);
        if !fs::read_to_string(host.log())
            .unwrap()
            .contains("\"early\"")
        {
            break;
        }
        host.reap();
    }
    let report = host.reap();
    assert_eq!(report["reaped"][0]["runId"], "early", "{report}");
    let said = verify(&host.for_a_stranger());
    assert_eq!(finding(&said, "supervisor_lost"), 1);
    assert_eq!(said.last().unwrap()["runsWell"], 2);
}

#[test]
fn a_write_that_a_kill_interrupts_is_set_aside_with_a_note() {
    require!("userns");
    let host = Host::new();
    let child = host.up("killed");
    signal(&child, Signal::KILL);
    wait(child);
    // The group that it was writing: a whole line without the signature, which comes last, and half
    // of the next.
    let text = fs::read_to_string(host.log()).unwrap();
    let mut line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let entry = line["entry"].as_object_mut().unwrap();
    for of_a_signature in ["kid", "signs"] {
        entry.remove(of_a_signature);
    }
    let line = serde_json::json!({ "entry": entry }).to_string();
    let torn = format!("{line}\n{}", &line[..line.len() / 2]);
    let mut file = File::options().append(true).open(host.log()).unwrap();
    file.write_all(torn.as_bytes()).unwrap();
    // Whoever comes next, here another run, sets it aside.
    host.done(&["run", "--run-id", "next", "--", "true"]);
    let kept: Vec<_> = bytes(&host)
        .into_iter()
        .filter(|(name, _)| name.contains(".torn-"))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].1, torn.as_bytes());
    host.reap();
    let said = verify(&host.for_a_stranger());
    assert_eq!(finding(&said, "recovered"), 1);
    assert_eq!(finding(&said, "supervisor_lost"), 1);
    assert_eq!(said.last().unwrap()["runsWell"], 2);
}

#[test]
fn reapers_at_the_same_time_finish_each_run_once() {
    require!("userns");
    let host = Host::new();
    let runs: BTreeSet<String> = (0..8).map(|number| format!("run-{number}")).collect();
    let children: Vec<_> = runs.iter().map(|run| host.up(run)).collect();
    for child in children {
        signal(&child, Signal::KILL);
        wait(child);
    }
    let reapers: Vec<_> = (0..4)
        .map(|_| {
            let mut reap = host.place.cellos(&["reap", "--json"]);
            reap.stdout(Stdio::piped()).stderr(Stdio::piped());
            reap.spawn().unwrap()
        })
        .collect();
    let mut finished = Vec::new();
    for reaper in reapers {
        let output = wait(reaper);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        for run in report["reaped"].as_array().unwrap() {
            assert_eq!(run["finalEvent"], "written", "{report}");
            finished.push(run["runId"].as_str().unwrap().to_owned());
        }
    }
    finished.sort();
    assert_eq!(finished, runs.into_iter().collect::<Vec<_>>());
    let said = verify(&host.for_a_stranger());
    assert_eq!(finding(&said, "supervisor_lost"), 8);
    assert_eq!(said.last().unwrap()["runsWell"], 8);
}

#[test]
fn without_the_key_of_the_log_nothing_is_finished_and_nothing_written() {
    require!("userns");
    let host = Host::new();
    let child = host.up("left");
    signal(&child, Signal::KILL);
    wait(child);
    // Also a torn end stays as it is.
    let mut file = File::options().append(true).open(host.log()).unwrap();
    file.write_all(br#"{"entry":{"ev"#).unwrap();
    let before = bytes(&host);

    let other = Host::new();
    let other_keys = other.place.path().join("keys");
    let other_keys = other_keys.to_str().unwrap();
    let key_file = fs::read_dir(other_keys)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "key"))
        .unwrap();
    // A key that nobody has published, alone in its folder, and one that has the name of ours.
    let alone = host.place.path().join("alone.key");
    fs::copy(&key_file, &alone).unwrap();
    let ours = fs::read_dir(host.place.path().join("keys"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .find(|name| name.to_str().unwrap().ends_with(".key"))
        .unwrap();
    let namesake = host.place.path().join(ours);
    fs::copy(&key_file, &namesake).unwrap();
    for (arguments, expected) in [
        (vec!["--no-signing"], "is signed"),
        (vec!["--key-dir", other_keys], "is signed by key"),
        (
            vec!["--signing-key", alone.to_str().unwrap()],
            "is signed by key",
        ),
        (
            vec!["--signing-key", namesake.to_str().unwrap()],
            "another key of that name",
        ),
    ] {
        let arguments: Vec<&str> = [&["reap"], &arguments[..]].concat();
        let output = host.place.cellos(&arguments).output().unwrap();
        assert_refused(&output, expected);
        assert_eq!(bytes(&host), before, "{arguments:?}");
        assert_eq!(records(&host.place), ["left.json"]);
    }
    // Nor does a run go on with such a log.
    let mut run = host
        .place
        .cellos(&["run", "--key-dir", other_keys, "--", "true"]);
    assert_refused(&run.output().unwrap(), "is signed by key");
    assert_eq!(bytes(&host), before);

    let report = host.reap();
    assert_eq!(report["reaped"][0]["runId"], "left", "{report}");
    let said = verify(&host.for_a_stranger());
    assert_eq!(said.last().unwrap()["runsWell"], 1);
}

#[track_caller]
fn assert_refused(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_one_error(output, Some(expected));
}
