//! A thousand real cells in one signed log, many of their supervisors killed, and somebody who has
//! that log and the public keys and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cellos_testkit::require;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    program::Place,
    trial::{PATIENCE, records, signal, wait},
};

/// Cells, killed ones among them.
const CELLS: usize = 1000;
/// Every so many cells the supervisor is killed.
const KILLED_EVERY: usize = 20;
/// Processes that run cells at the same time.
const AT_ONCE: usize = 6;
/// Cells after which the log's file is sealed, each time.
const SEAL_EVERY: usize = 300;
/// Cell after which the signing key is replaced.
const NEW_KEY_AFTER: usize = 500;

/// When a supervisor is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// So long after it was started.
    After(Duration),
    /// So long after its run was recorded in the state folder, before which nothing is begun.
    Recorded(Duration),
    /// When its command runs.
    Running,
    /// So long after its command was told to end.
    Ending(Duration),
}

/// What became of the cells, by their run ids.
#[derive(Default)]
struct Happened {
    codes: BTreeMap<String, i32>,
    killed: BTreeMap<String, Moment>,
}

/// Key, log and state of a host that runs cells.
pub(crate) struct Host {
    pub(crate) place: Place,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self {
            place: Place::new(),
        };
        host.done(&["keys", "generate"]);
        host
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.place.path().join("state/log/events.jsonl")
    }

    /// What a command says that has to succeed.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.place.cellos(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn shell(&self, run: &str, script: &str) -> Command {
        let mut command = self.place.cellos(&[
            "run",
            "--quiet",
            "--id",
            "one-of-a-thousand",
            "--run-id",
            run,
            "--require-signing",
            "--",
            "/bin/sh",
            "-c",
            script,
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(Stdio::piped());
        command
    }

    /// A command that says that it is up, and ends when its standard input does.
    #[track_caller]
    pub(crate) fn up(&self, run: &str) -> Child {
        let mut child = self
            .shell(run, "echo up; read line; exit 0")
            .spawn()
            .unwrap();
        let mut word = [0; 3];
        if child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut word)
            .is_err()
        {
            unreachable!("{run} never came up: {:?}", child.wait_with_output());
        }
        child
    }

    /// Runs a cell whose supervisor is killed at some moment.
    fn kill(&self, run: &str, moment: Moment) {
        let child = match moment {
            Moment::After(time) => {
                let child = self.shell(run, "echo up; read line").spawn().unwrap();
                thread::sleep(time);
                child
            }
            Moment::Recorded(time) => {
                let child = self.shell(run, "echo up; read line").spawn().unwrap();
                let record = self.place.path().join(format!("state/runs/{run}.json"));
                let deadline = Instant::now() + PATIENCE;
                while !record.exists() {
                    assert!(Instant::now() < deadline, "{run} is not recorded");
                    thread::sleep(Duration::from_micros(200));
                }
                thread::sleep(time);
                child
            }
            Moment::Running => self.up(run),
            Moment::Ending(time) => {
                let mut child = self.up(run);
                drop(child.stdin.take());
                thread::sleep(time);
                child
            }
        };
        signal(&child, Signal::KILL);
        wait(child);
    }

    /// Seals what has been written, as somebody who wants a proof of the last event does.
    fn seal(&self) {
        let text = fs::read_to_string(self.log()).unwrap();
        let whole = text.rsplit_once('\n').unwrap().0;
        let last: Value = serde_json::from_str(whole.lines().last().unwrap()).unwrap();
        let seq = last["entry"]["seq"].to_string();
        self.done(&["prove", &seq, "--seal", "--output", "proof.json"]);
    }

    #[track_caller]
    pub(crate) fn reap(&self) -> Value {
        serde_json::from_str(&self.done(&["reap", "--json"])).unwrap()
    }

    /// The log and the public keys, and nothing else, somewhere else.
    pub(crate) fn for_a_stranger(&self) -> Place {
        let stranger = Place::new();
        let folder = stranger.path().join("log");
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(self.log().parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        stranger.file("keyset.json", self.done(&["keys", "show", "--keyset"]));
        stranger
    }
}

/// Numbers that look random and are the same every time.
fn scattered(number: usize) -> u64 {
    let mut mixed = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ mixed >> 30).wrapping_mul(factor);
    }
    mixed ^ mixed >> 31
}

fn moment(number: usize) -> Moment {
    let time = Duration::from_micros(scattered(number) % 40_000);
    match number / KILLED_EVERY % 4 {
        0 => Moment::After(time),
        1 => Moment::Recorded(time / 4),
        2 => Moment::Running,
        _ => Moment::Ending(time / 2),
    }
}

fn run_them(host: &Host) -> Happened {
    let happened = Mutex::new(Happened::default());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CELLS {
                        break;
                    }
                    let run = format!("run-{number:04}");
                    if number % KILLED_EVERY == KILLED_EVERY - 1 {
                        let moment = moment(number);
                        host.kill(&run, moment);
                        happened.lock().unwrap().killed.insert(run, moment);
                    } else {
                        let script = format!("exit {}", number % 3);
                        let output = host.shell(&run, &script).output().unwrap();
                        let code = output.status.code().unwrap();
                        assert_eq!(usize::try_from(code), Ok(number % 3), "{run}: {output:?}");
                        happened.lock().unwrap().codes.insert(run, code);
                    }
                    if number % SEAL_EVERY == SEAL_EVERY - 1 {
                        host.seal();
                    }
                    if number == NEW_KEY_AFTER {
                        host.done(&["keys", "rotate"]);
                    }
                }
            });
        }
    });
    happened.into_inner().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
pub(crate) fn verify(stranger: &Place) -> Vec<Value> {
    let arguments = [
        "verify",
        "log/events.jsonl",
        "--keys",
        "keyset.json",
        "--json",
    ];
    let output = stranger.cellos(&arguments).output().unwrap();
    let errors: Vec<Value> = objects(&output)
        .into_iter()
        .filter(|it| it["severity"] == "error")
        .collect();
    assert_eq!(errors, Vec::<Value>::new());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    objects(&output)
}

fn runs_of(log: &Path) -> BTreeSet<String> {
    let folder = log.parent().unwrap();
    let mut runs = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "jsonl") {
            for line in fs::read_to_string(path).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let run = &line["entry"]["event"]["data"]["runId"];
                runs.extend(run.as_str().map(str::to_owned));
            }
        }
    }
    runs
}

#[test]
fn a_log_of_a_thousand_cells_convinces_a_stranger() {
    require!("userns");
    let host = Host::new();
    let begun = Instant::now();
    let happened = run_them(&host);
    let took = begun.elapsed();
    assert_eq!(happened.codes.len() + happened.killed.len(), CELLS);
    assert!(happened.killed.len() >= 30);

    // Whoever was killed after it began, and before its end was written, is finished here.
    let report = host.reap();
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    assert_eq!(report["alive"], serde_json::json!([]), "{report}");
    let reaped = report["reaped"].as_array().unwrap();
    let written: BTreeSet<&str> = reaped
        .iter()
        .filter(|run| run["finalEvent"] == "written")
        .map(|run| run["runId"].as_str().unwrap())
        .collect();
    assert!(written.len() >= happened.killed.len() / 2, "{report}");
    for run in reaped {
        let run = run["runId"].as_str().unwrap();
        assert!(happened.killed.contains_key(run), "{run} was not killed");
    }
    let left: Vec<_> = records(&host.place)
        .into_iter()
        .filter(|name| !name.ends_with(".partial"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    let in_log = runs_of(&host.log());
    for run in happened.codes.keys() {
        assert!(in_log.contains(run), "{run} is not in the log");
    }

    let stranger = host.for_a_stranger();
    let proof = fs::read_to_string(host.place.path().join("proof.json")).unwrap();
    drop(host);
    let said = verify(&stranger);
    let summary = said.last().unwrap();
    assert_eq!(summary["kind"], "summary");
    assert_eq!(summary["verdict"], "well", "{summary}");
    assert_eq!(summary["runsWell"], in_log.len(), "{summary}");
    assert_eq!(summary["runsNotWell"], 0, "{summary}");
    assert_eq!(summary["firstSeq"], 0, "{summary}");
    assert_eq!(summary["unsignedLines"], 0, "{summary}");
    assert_eq!(summary["signatures"].as_object().unwrap().len(), 2);
    assert!(summary["files"].as_array().unwrap().len() > CELLS / SEAL_EVERY);
    assert_eq!(summary["findings"]["supervisor_lost"], written.len());
    let verdicts: BTreeSet<&str> = said
        .iter()
        .filter(|it| it["kind"] == "verdict")
        .inspect(|it| assert_eq!(it["verdict"], "well", "{it}"))
        .map(|it| it["runId"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts.len(), in_log.len());

    // The same says every other reader of that copy.
    let ask = |arguments: &[&str]| {
        let output = stranger.cellos(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = ask(&["ps", "-a", "--json", "--log", "log/events.jsonl"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let cells = all["cells"].as_array().unwrap();
    let states: BTreeMap<&str, &str> = cells
        .iter()
        .map(|cell| {
            (
                cell["runId"].as_str().unwrap(),
                cell["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!((cells.len(), states.len()), (in_log.len(), in_log.len()));
    for (run, code) in &happened.codes {
        let expected = if *code == 0 { "succeeded" } else { "failed" };
        assert_eq!(states[run.as_str()], expected, "{run}");
    }
    for run in &written {
        assert_eq!(states[run], "failed", "{run}");
    }
    let killed = written.iter().next_back().unwrap();
    let story = ask(&["explain", killed, "--log", "log/events.jsonl"]);
    let lost = "The supervisor disappeared, and the reaper finished the run.";
    assert!(story.contains(lost), "{story}");
    stranger.file("proof.json", proof);
    let proved = ask(&["prove", "--check", "proof.json", "--keys", "keyset.json"]);
    assert!(proved.starts_with("proved: "), "{proved}");
    eprintln!(
        "{CELLS} cells in {took:?}, {} killed, {} finished by reaping",
        happened.killed.len(),
        written.len()
    );
}
