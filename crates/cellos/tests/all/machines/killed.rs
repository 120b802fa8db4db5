//! Monitors and supervisors that are killed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use cellos_testkit::require;
use rustix::process::{Pid, Signal, kill_process};

use super::{Machines, available};

/// Within this time after a kill nothing of the machine runs.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

/// Starts a command that runs until it is ended, and waits until it does.
fn start(machines: &Machines) -> Child {
    let mut child = machines
        .shell(&[], "echo up; exec sleep 600")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    child
}

fn monitor(machines: &Machines) -> u32 {
    let log = machines.log();
    let pid = log.data("container_security")["pid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .unwrap()
            .1
            .trim_start()
            .starts_with('Z')
    })
}

#[test]
fn a_killed_monitor_is_noticed_at_once_and_named() {
    require!("machines", available());
    let machines = Machines::new();
    let child = start(&machines);
    kill(monitor(&machines));
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < DEAD_WITHIN, "{:?}", since.elapsed());
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let log = machines.log();
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["reason"], "vmm_crashed", "{destroyed}");
    assert_eq!(destroyed["endedBy"], "lost", "{destroyed}");
    assert_eq!(destroyed["terminalState"], "forced", "{destroyed}");
    assert!(destroyed["exitCode"].is_null(), "{destroyed}");
    machines.assert_nothing_left();
}

#[test]
fn a_killed_supervisor_takes_its_machine_along_and_is_reaped() {
    require!("machines", available());
    let machines = Machines::new();
    let mut child = start(&machines);
    let monitor = monitor(&machines);
    assert!(is_alive(monitor));
    kill(child.id());
    child.wait().unwrap();
    let since = Instant::now();
    while is_alive(monitor) {
        assert!(since.elapsed() < DEAD_WITHIN, "the monitor lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = machines.cellos(&["reap", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["reaped"][0]["finalEvent"], "written", "{report}");
    assert_eq!(
        machines.log().data("destroyed")["reason"],
        "supervisor_lost"
    );
    machines.assert_nothing_left();
}

/// Longer than a guest may be silent.
const STOPPED_FOR: Duration = Duration::from_secs(12);

#[test]
fn a_supervisor_that_was_stopped_does_not_take_its_own_silence_for_the_guests() {
    require!("machines", available());
    let machines = Machines::new();
    let mut child = machines
        .run(&[
            "--ttl",
            "120s",
            "--timeout",
            "6s",
            "--",
            "sh",
            "-c",
            "while :; do echo tick; sleep 1; done",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    std::thread::sleep(STOPPED_FOR);
    kill_process(pid, Signal::CONT).unwrap();
    let ticks = reader.lines().count();
    let output = child.wait_with_output().unwrap();
    // The deadline has passed meanwhile, and that is all that is wrong.
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let destroyed = machines.log().data("destroyed").clone();
    assert_eq!(destroyed["reason"], "timeout_exceeded", "{destroyed}");
    assert!(destroyed["laterErrors"].is_null(), "{destroyed}");
    assert!(!destroyed["exitCode"].is_null(), "{destroyed}");
    assert!(ticks > 5, "what was said meanwhile is lost: {ticks}");
    machines.assert_nothing_left();
}
