//! One run in a real cell, and everything that has to be true afterwards whatever happened in it.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use cellos_testkit::EventLog;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program::Place;

/// The events of a run whose command was started, in order.
pub(crate) const WHOLE_RUN: [&str; 10] = [
    "cell.admission.v1.allowed",
    "cell.observability.v1.network_scope",
    "cell.lifecycle.v1.started",
    "cell.observability.v1.container_security",
    "cell.observability.v1.network_policy",
    "cell.observability.v1.process_spawned",
    "cell.command.v1.completed",
    "cell.compliance.v1.summary",
    "cell.authority.v1.homeostasis",
    "cell.lifecycle.v1.destroyed",
];

/// The events of a run whose cell could not be created, in order.
pub(crate) const NO_CELL: [&str; 2] = ["cell.admission.v1.allowed", "cell.lifecycle.v1.failed"];

/// Longest time that anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A killed process is collected within this time.
const SETTLE: Duration = Duration::from_secs(5);

/// How a run has to end.
pub(crate) struct Ends {
    pub(crate) code: i32,
    /// What the one error line of `cellos` says; nothing when there must be none.
    pub(crate) error: Option<String>,
    /// Who or what ended it, in the events.
    pub(crate) by: &'static str,
    /// The reason in the last event.
    pub(crate) reason: String,
}

impl Ends {
    /// The command returned a code, which is its caller's business and no error of ours.
    pub(crate) fn exited(code: i32) -> Self {
        Self {
            code,
            error: None,
            by: "exited",
            reason: match code {
                0 => String::new(),
                code => format!("command exited with status {code}"),
            },
        }
    }

    /// A signal ended the command.
    pub(crate) fn signalled(number: i32) -> Self {
        Self::with(
            128 + number,
            &format!("command was ended by signal {number}"),
            "signalled",
            "signal_killed",
        )
    }

    /// `run.timeoutMs` was over.
    pub(crate) fn timed_out() -> Self {
        let error = "(spec.run.timeoutMs)";
        Self::with(124, error, "deadline-timeout", "timeout_exceeded")
    }

    pub(crate) fn with(code: i32, error: &str, by: &'static str, reason: &str) -> Self {
        Self {
            code,
            error: Some(error.to_owned()),
            by,
            reason: reason.to_owned(),
        }
    }
}

/// A place, and a cell with a name that nothing else on this host has.
pub(crate) struct Trial {
    pub(crate) place: Place,
    pub(crate) id: String,
    /// A number of seconds that no other process is told to sleep. Everything that belongs to the
    /// run has it among its arguments: `cellos`, its launcher, the cell's init, the workload.
    pub(crate) marker: String,
}

impl Trial {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        Self {
            place: Place::new(),
            id: format!("fault-{pid}-{number}"),
            marker: format!("77.{pid:07}{number:03}"),
        }
    }

    /// `cellos run` of a shell script in a cell. `$0` in it is the marker.
    pub(crate) fn shell(&self, flags: &[&str], script: &str) -> Command {
        self.command(flags, &["/bin/sh", "-c", script, &self.marker])
    }

    /// `cellos run` of a command in a cell.
    pub(crate) fn command(&self, flags: &[&str], command: &[&str]) -> Command {
        let events = self.place.events();
        let head = [
            "run",
            "--id",
            &self.id,
            "--run-id",
            &self.id,
            "--events",
            events.to_str().unwrap(),
        ];
        let mut run = self
            .place
            .cellos(&[&head, flags, &["--"], command].concat());
        run.stdout(Stdio::piped()).stderr(Stdio::piped());
        run
    }

    /// Runs a script to its end and checks it.
    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str], script: &str, ends: &Ends) -> Output {
        let output = self.shell(flags, script).output().unwrap();
        self.check(&output, ends);
        output
    }

    /// Starts a script that says `up`, and returns when it has and its start is on record.
    #[track_caller]
    pub(crate) fn start(&self, flags: &[&str], script: &str) -> Child {
        let mut child = self.shell(flags, script).spawn().unwrap();
        let mut word = [0; 3];
        let read = child.stdout.as_mut().unwrap().read_exact(&mut word);
        if read.is_err() {
            panic!("it never came up: {:?}", child.wait_with_output());
        }
        let deadline = Instant::now() + PATIENCE;
        let runs = || {
            let log = fs::read_to_string(self.place.events()).unwrap_or_default();
            log.contains("process_spawned")
        };
        while !runs() {
            assert!(Instant::now() < deadline, "its start is not on record");
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    pub(crate) fn log(&self) -> EventLog {
        EventLog::read(self.place.events())
    }

    /// The events of this run, where others are in the same log.
    pub(crate) fn run_log(&self) -> EventLog {
        self.log().of_run(&self.id)
    }

    /// The exit code, the one error, the order and labels of the events, and that nothing is left.
    #[track_caller]
    pub(crate) fn check(&self, output: &Output, ends: &Ends) {
        assert_eq!(output.status.code(), Some(ends.code), "{output:?}");
        assert_one_error(output, ends.error.as_deref());
        let log = self.run_log();
        assert_eq!(log.types(), WHOLE_RUN);
        let destroyed = log.data("lifecycle.v1.destroyed");
        assert_eq!(destroyed["endedBy"], ends.by, "{destroyed}");
        assert_eq!(log.data("command.v1.completed")["endedBy"], ends.by);
        let reason = destroyed["reason"].as_str().unwrap_or_default();
        assert_eq!(reason, ends.reason, "{destroyed}");
        let outcome = if ends.code == 0 {
            "succeeded"
        } else {
            "failed"
        };
        assert_eq!(destroyed["outcome"], outcome, "{destroyed}");
        assert_eq!(destroyed["residueClass"], "none", "{destroyed}");
        self.assert_nothing_left();
    }

    /// No process, control group, mount and record of this run.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_dead_within(SETTLE);
        let records = records(&self.place);
        assert!(records.is_empty(), "records are left: {records:?}");
    }

    /// No process, control group and mount of this run, soon.
    #[track_caller]
    pub(crate) fn assert_dead_within(&self, bound: Duration) {
        let deadline = Instant::now() + bound;
        loop {
            let processes = self.processes();
            let groups = self.control_groups();
            if processes.is_empty() && groups.is_empty() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "left after {bound:?}: {processes:?} {groups:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let mounts = cell_mounts();
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
    }

    /// Processes of this run anywhere on this host.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes_with(&self.marker)
    }

    /// Control groups of this cell.
    pub(crate) fn control_groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        find_groups(
            Path::new("/sys/fs/cgroup"),
            &format!("cellos_{}_", self.id),
            &mut found,
        );
        found
    }
}

/// `cellos: error:` lines of its standard error: exactly one with the text, or none.
#[track_caller]
pub(crate) fn assert_one_error(output: &Output, expected: Option<&str>) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("cellos: ") && line.contains("error: "))
        .collect();
    match (expected, errors.as_slice()) {
        (None, []) => {}
        (Some(text), [error]) if error.contains(text) => {}
        _ => panic!("expected one error with {expected:?}: {stderr}"),
    }
}

/// Names in the folder of running and unfinished runs.
pub(crate) fn records(place: &Place) -> Vec<String> {
    let runs = place.path().join("state/runs");
    fs::read_dir(runs).map_or_else(
        |_| Vec::new(),
        |entries| {
            entries
                .map(|entry| entry.unwrap())
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        },
    )
}

/// Processes with this among their arguments, those that have ended left out.
pub(crate) fn processes_with(argument: &str) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // What is gone meanwhile, or another user's, is not ours.
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments
                .split(|byte| *byte == 0)
                .any(|part| part == argument.as_bytes())
        })
        .collect()
}

fn find_groups(folder: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        // A link, such as `cpu` to `cpu,cpuacct`, leads to what is seen anyway.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
        find_groups(&entry.path(), prefix, found);
    }
}

/// Mounts in this namespace that are a cell's, proc_pid_mountinfo(5).
fn cell_mounts() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| {
            let (_, source) = line.split_once(" - ").unwrap();
            source.split_whitespace().nth(1) == Some("cellos")
        })
        .map(str::to_owned)
        .collect()
}

/// The same command behind others, which get it as their last arguments.
pub(crate) fn behind(wrapper: &[&str], command: &Command) -> Command {
    let (first, rest) = wrapper.split_first().unwrap();
    let mut wrapped = Command::new(first);
    wrapped
        .args(rest)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    wrapped
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for a child, at most [`PATIENCE`].
#[track_caller]
pub(crate) fn wait(child: Child) -> Output {
    let (sender, receiver) = std::sync::mpsc::channel();
    let pid = Pid::from_child(&child);
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            panic!("it runs longer than {PATIENCE:?}");
        }
    }
}

/// The record that `--json` puts at the end of standard output.
#[track_caller]
pub(crate) fn record(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}
