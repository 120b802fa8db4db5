//! SIGKILL, to everything that belongs to a run but the command: the cell dies, and what was lost
//! is finished by `cellos reap`.

use std::{
    fs,
    io::Write as _,
    process::Child,
    time::{Duration, SystemTime},
};

use cellos_testkit::{Ability, require};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::trial::{Ends, Trial, assert_one_error, records, signal, wait};

/// Two processes of the command, one of them a daemon.
const SCRIPT: &str = r#"(setsid sleep "$0" &); echo up; exec sleep "$0""#;
/// Within this time a cell is dead after its supervisor.
const DEAD_WITHIN: Duration = Duration::from_secs(1);

/// With control groups of its own where that is possible.
fn flags() -> &'static [&'static str] {
    match Ability::Cgroups.probe() {
        Ok(()) => &["--memory", "64M"],
        Err(_) => &[],
    }
}

#[track_caller]
fn reap(trial: &Trial) -> Value {
    let output = trial.place.cellos(&["reap", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Processes by their parent, proc_pid_stat(5).
fn children_of(parent: u32) -> Vec<(u32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (head, tail) = stat.rsplit_once(')')?;
            let name = head.split_once('(')?.1.to_owned();
            let parent_of: u32 = tail.split_whitespace().nth(1)?.parse().ok()?;
            (parent == parent_of).then_some((pid, name))
        })
        .collect()
}

fn launcher_of(child: &Child) -> u32 {
    match &children_of(child.id())[..] {
        [(pid, name)] if name == "cellos-launcher" => *pid,
        other => panic!("children of cellos: {other:?}"),
    }
}

/// The init whose cell has a command; one that was begun beforehand and not used has none.
fn init_of(child: &Child) -> u32 {
    children_of(launcher_of(child))
        .into_iter()
        .map(|(pid, _)| pid)
        .find(|pid| !children_of(*pid).is_empty())
        .unwrap()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_killed_supervisor_takes_its_cell_along_and_is_reaped_once() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(flags(), SCRIPT);
    assert!(
        trial.processes().len() >= 4,
        "cellos, launcher, init, command"
    );
    assert_eq!(trial.control_groups().is_empty(), flags().is_empty());
    signal(&child, Signal::KILL);
    trial.assert_dead_within(DEAD_WITHIN);
    wait(child);
    assert_eq!(records(&trial.place), [format!("{}.json", trial.id)]);

    // What a crash in the middle of a line leaves.
    let before = trial.log();
    let whole = fs::read_to_string(trial.place.events()).unwrap();
    let torn = r#"{"entry":{"event":{"specversion":"1.0","id":"to"#;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(trial.place.events())
        .unwrap();
    file.write_all(torn.as_bytes()).unwrap();
    let report = reap(&trial);
    assert_eq!(report["reaped"][0]["runId"], trial.id.as_str(), "{report}");
    assert_eq!(report["reaped"][0]["finalEvent"], "written", "{report}");

    let after = fs::read_to_string(trial.place.events()).unwrap();
    assert!(after.starts_with(&whole), "lines were changed: {after}");
    let log = trial.log();
    let added: Vec<&str> = log.types().split_off(before.types().len());
    assert_eq!(
        added,
        ["cell.audit.v1.recovered", "cell.lifecycle.v1.destroyed"]
    );
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["reason"], "supervisor_lost", "{destroyed}");
    assert_eq!(destroyed["endedBy"], "supervisor-lost", "{destroyed}");
    assert_eq!(destroyed["outcome"], "failed", "{destroyed}");
    assert_eq!(destroyed["residue"]["found"], json!([]), "{destroyed}");
    let digest = &log.data("started")["documentDigest"];
    assert_eq!(&destroyed["documentDigest"], digest, "{destroyed}");
    trial.assert_nothing_left();

    let again = reap(&trial);
    assert_eq!(again["reaped"], json!([]), "{again}");
    assert_eq!(fs::read_to_string(trial.place.events()).unwrap(), after);
}

/// What `ps` says of the trial's cell; nothing where it does not list it.
#[track_caller]
fn state_of(trial: &Trial) -> Option<String> {
    let output = trial.place.cellos(&["ps", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = listing["cells"].as_array().unwrap();
    let cell = cells.iter().find(|cell| cell["runId"] == trial.id.as_str());
    cell.map(|cell| cell["state"].as_str().unwrap().to_owned())
}

#[test]
fn ps_lists_cells_that_live_and_cells_whose_supervisor_was_killed() {
    require!("userns");
    let trial = Trial::new();
    assert_eq!(state_of(&trial), None);
    let child = trial.start(flags(), SCRIPT);
    assert_eq!(state_of(&trial).as_deref(), Some("running"));
    // Its events are in a segment from now on.
    let log = cellos_evidence::log::LogConfig::new(trial.place.events());
    let log = cellos_evidence::log::EventLog::open(log).unwrap();
    log.rotate().unwrap();
    assert_eq!(state_of(&trial).as_deref(), Some("running"));
    signal(&child, Signal::KILL);
    wait(child);
    assert_eq!(state_of(&trial).as_deref(), Some("left"));
    reap(&trial);
    assert_eq!(state_of(&trial), None);
}

#[test]
fn a_supervisor_killed_at_any_moment_leaves_nothing_that_reaping_does_not_finish() {
    require!("userns");
    let mut finished = 0;
    for step in 0..20 {
        let trial = Trial::new();
        let child = trial.shell(flags(), SCRIPT).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4 * step));
        signal(&child, Signal::KILL);
        trial.assert_dead_within(DEAD_WITHIN);
        wait(child);
        let runs = trial.place.path().join("state/runs");
        let began = runs.join(format!("{}.json", trial.id)).exists();
        for name in records(&trial.place) {
            // A partial record is left alone for a minute: its run may be about to begin.
            if name.ends_with(".partial") {
                let partial = fs::File::options()
                    .write(true)
                    .open(runs.join(name))
                    .unwrap();
                let then = SystemTime::now() - Duration::from_secs(120);
                partial.set_modified(then).unwrap();
            }
        }
        let report = reap(&trial);
        assert_eq!(report["problems"], json!([]), "step {step}: {report}");
        if began {
            let log = trial.log();
            assert_eq!(log.types().last(), Some(&"cell.lifecycle.v1.destroyed"));
            assert_eq!(log.data("destroyed")["reason"], "supervisor_lost");
            finished += 1;
        }
        trial.assert_nothing_left();
    }
    assert!(finished > 0, "every kill came before the run had begun");
}

#[test]
fn a_run_that_lives_is_not_reaped() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(flags(), SCRIPT);
    let report = reap(&trial);
    assert_eq!(report["alive"], json!([trial.id]), "{report}");
    assert_eq!(report["reaped"], json!([]), "{report}");
    trial.log().none("destroyed");
    signal(&child, Signal::TERM);
    let ends = Ends::with(
        143,
        "stopped by SIGTERM",
        "supervisor-signal",
        "supervisor_signal",
    );
    trial.check(&wait(child), &ends);
}

#[test]
fn a_killed_launcher_is_a_failure_of_ours_with_whole_evidence() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(flags(), SCRIPT);
    kill(launcher_of(&child));
    let output = wait(child);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_one_error(&output, Some("the launcher died, and with it every cell"));
    let log = trial.log();
    assert_eq!(log.types(), crate::trial::WHOLE_RUN);
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["endedBy"], "lost", "{destroyed}");
    assert_eq!(destroyed["terminalState"], "forced", "{destroyed}");
    assert!(
        destroyed.get("residueClass").is_none(),
        "nobody looked: {destroyed}"
    );
    assert_eq!(trial.processes(), Vec::<u32>::new());

    // Nobody could take the control groups away; the run is kept for that.
    assert_eq!(records(&trial.place), [format!("{}.json", trial.id)]);
    let report = reap(&trial);
    assert_eq!(
        report["reaped"][0]["finalEvent"], "alreadyThere",
        "{report}"
    );
    assert_eq!(trial.log(), log);
    trial.assert_nothing_left();
}

#[test]
fn a_killed_init_is_a_failure_of_ours_with_whole_evidence() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(flags(), SCRIPT);
    kill(init_of(&child));
    let output = wait(child);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_one_error(&output, Some("the cell's init was killed by somebody else"));
    let log = trial.log();
    assert_eq!(log.types(), crate::trial::WHOLE_RUN);
    assert_eq!(log.data("destroyed")["endedBy"], "lost");
    assert_eq!(log.data("destroyed")["residueClass"], "none");
    trial.assert_nothing_left();
}

#[test]
fn a_supervisor_that_hangs_does_not_keep_its_cell_alive() {
    require!("userns");
    let trial = Trial::new();
    let child = trial.start(&["--ttl", "1s", "--grace", "0s"], SCRIPT);
    signal(&child, Signal::STOP);
    // Lifetime, no grace, the two seconds that the launcher grants the supervisor, and some more
    // for a busy machine; the supervisor itself can do nothing meanwhile.
    let bound = std::time::Instant::now() + Duration::from_secs(8);
    while !init_children(&child).is_empty() {
        assert!(
            std::time::Instant::now() < bound,
            "the cell outlives its lifetime"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, Signal::CONT);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let log = trial.log();
    assert_eq!(log.types(), crate::trial::WHOLE_RUN);
    trial.assert_nothing_left();
}

/// Processes that the launcher of a run has made.
fn init_children(child: &Child) -> Vec<(u32, String)> {
    children_of(launcher_of(child))
}
