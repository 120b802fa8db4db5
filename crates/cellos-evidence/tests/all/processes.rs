//! Several processes append to one log, and some of them are killed.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cellos_evidence::log::{EventLog, Rotation, Segments};
use cellos_testkit::test_name;

use crate::{config, event, ids};

/// Set in a writer: the log, and the writer's name.
const FILE: &str = "CELLOS_EVIDENCE_TEST_LOG";
const NAME: &str = "CELLOS_EVIDENCE_TEST_WRITER";
const WRITERS: usize = 8;
const EVENTS: usize = 200;
/// Writers of the crowd, and what each of them appends.
const CROWD: usize = 100;
const CROWD_EVENTS: usize = 10;
/// Small, so that everybody rotates the log and follows the others' rotations.
const SEGMENT_BYTES: u64 = 100_000;

/// What a writer does: each event that is flushed is told on standard output.
fn write(path: &str, name: &str) {
    let log = EventLog::open(cellos_evidence::log::LogConfig {
        rotation: Rotation {
            max_bytes: SEGMENT_BYTES,
            max_age: None,
        },
        ..config(Path::new(path))
    })
    .unwrap();
    for number in 0..EVENTS {
        // Up to several pages.
        let text = "x".repeat(number * 23);
        let id = format!("{name}-{number}");
        log.append(&[event(&id, &text), event(&format!("{id}+"), "")])
            .unwrap();
        if number % 10 == 9 {
            log.sync().unwrap();
        }
        println!("wrote {id}");
    }
}

fn spawn(test: &str, path: &Path, name: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FILE, path)
        .env(NAME, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[test]
fn processes_make_one_chain_and_follow_each_other_through_rotations() {
    if let (Ok(path), Ok(name)) = (env::var(FILE), env::var(NAME)) {
        return write(&path, &name);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| spawn(test_name!(), &path, &format!("w{number}")))
        .collect();
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success());
    }
    let ids = ids(&path);
    assert!(Segments::of(&path).unwrap().sealed.len() > 10);
    for number in 0..WRITERS {
        let prefix = format!("w{number}-");
        let own: Vec<_> = ids.iter().filter(|id| id.starts_with(&prefix)).collect();
        let expected: Vec<_> = (0..EVENTS)
            .flat_map(|event| [format!("{prefix}{event}"), format!("{prefix}{event}+")])
            .collect();
        assert!(
            own.into_iter().eq(expected.iter()),
            "the order of one writer is kept"
        );
    }
}

#[test]
fn killed_writers_lose_nothing_that_they_were_told_is_kept() {
    if let (Ok(path), Ok(name)) = (env::var(FILE), env::var(NAME)) {
        return write(&path, &name);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let test = test_name!();
    let survivor = spawn(test, &path, "survivor");
    let mut told = Vec::new();
    let mut killed = 0;
    for round in 0..12_u32 {
        let mut writer = spawn(test, &path, &format!("k{round}"));
        let lines = BufReader::new(writer.stdout.take().unwrap());
        let mut seen = 0;
        // At another moment each time, in the middle of whatever it does.
        let enough = 5 + round * 7;
        let mut end = None;
        for line in lines.lines() {
            let line = line.unwrap();
            let Some(at) = line.find("wrote ") else {
                continue;
            };
            told.push(line[at + 6..].to_owned());
            seen += 1;
            if seen == enough {
                std::thread::sleep(Duration::from_micros(u64::from(round) * 37));
                writer.kill().unwrap();
                end = Some(writer.wait().unwrap());
            }
        }
        let end = end.unwrap_or_else(|| writer.wait().unwrap());
        killed += u32::from(!end.success());
    }
    assert!(killed > 6, "only {killed} of 12 were killed in time");
    let output = survivor.wait_with_output().unwrap();
    assert!(output.status.success());
    let log = EventLog::open(config(&path)).unwrap();
    log.append(&[event("last", "")]).unwrap();
    log.sync().unwrap();
    let ids: std::collections::HashSet<_> = ids(&path).into_iter().collect();
    for id in told {
        assert!(ids.contains(&id) && ids.contains(&format!("{id}+")), "{id}");
    }
    assert!(ids.contains(&format!("survivor-{}", EVENTS - 1)));
}

#[test]
fn a_crowd_of_processes_on_a_busy_machine_gets_every_event_in() {
    if let (Ok(path), Ok(name)) = (env::var(FILE), env::var(NAME)) {
        let mut line = String::new();
        // All begin when the last of them is there.
        std::io::stdin().read_line(&mut line).unwrap();
        let log = EventLog::open(config(Path::new(&path))).unwrap();
        for number in 0..CROWD_EVENTS {
            log.append(&[event(&format!("{name}-{number}"), "")])
                .unwrap();
            log.sync().unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 * thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut writers: Vec<_> = (0..CROWD)
            .map(|number| {
                Command::new(env::current_exe().unwrap())
                    .args(["--exact", test_name!(), "--nocapture"])
                    .env(FILE, &path)
                    .env(NAME, format!("w{number}"))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::inherit())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let start = Instant::now();
        for writer in &mut writers {
            drop(writer.stdin.take());
        }
        let ends: Vec<_> = writers
            .iter_mut()
            .map(|writer| writer.wait().unwrap())
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(|end| end.success()), "{ends:?}");
        eprintln!("the crowd took {:?}", start.elapsed());
    });
    let ids = ids(&path);
    assert_eq!(ids.len(), CROWD * CROWD_EVENTS);
}
