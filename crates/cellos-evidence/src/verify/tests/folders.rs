//! Whatever becomes of the files of a log: what is called well is the log that was written.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::*;
use crate::log::{Clock, EventLog, LogConfig};

/// How many folders are spoilt; more where the variable says so.
const ROUNDS: u64 = 400;

/// Numbers that look random, and are the same at each start (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        usize::try_from(number).unwrap() % below.max(1)
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// An unsigned beginning that its first signer sealed, two signed segments, a live file, a head.
fn written(folder: &Path) -> PathBuf {
    let path = folder.join("events.jsonl");
    let config = |signed: bool| LogConfig {
        signer: signed.then(|| Arc::new(signer(1)) as _),
        clock: Clock::new(|| "2026-01-02T03:04:06Z".parse().unwrap()),
        ..LogConfig::new(&path)
    };
    let mut seconds = 0..;
    let mut runs = |log: &EventLog, names: &[&str]| {
        for run in names {
            let second = seconds.next().unwrap();
            let [a, b] =
                ["started", "destroyed"].map(|ty| event(&format!("{run}-{ty}"), ty, run, second));
            log.append(&[a]).unwrap();
            log.append(&[b]).unwrap();
        }
    };
    let unsigned = EventLog::open(config(false)).unwrap();
    runs(&unsigned, &["r0", "r1"]);
    drop(unsigned);
    let log = EventLog::open(config(true)).unwrap();
    runs(&log, &["r2", "r3"]);
    log.rotate().unwrap();
    runs(&log, &["r4"]);
    log.rotate().unwrap();
    runs(&log, &["r5", "r6"]);
    log.sync().unwrap();
    path
}

fn files_of(folder: &Path) -> Files {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .filter(|(name, _)| !name.ends_with(".lock"))
        .collect()
}

/// Does one thing to the files that somebody could do who has them.
fn spoil(files: &mut Files, other: &Files, dice: &mut Dice) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return "nothing is left".to_owned();
    }
    let one = names[dice.roll(names.len())].clone();
    let two = names[dice.roll(names.len())].clone();
    let mut bytes = files[&one].clone();
    let lines: Vec<Vec<u8>> = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let (a, b) = (dice.roll(lines.len()), dice.roll(lines.len()));
    let what = dice.roll(14);
    match what {
        0 => drop(files.remove(&one)),
        1 => {
            let second = files[&two].clone();
            files.insert(one.clone(), second);
            files.insert(two.clone(), bytes);
        }
        2 => drop(files.insert(two.clone(), bytes)),
        3 => {
            bytes.truncate(dice.roll(bytes.len() + 1));
            files.insert(one.clone(), bytes);
        }
        4 => {
            if let Some(byte) = bytes.get_mut(dice.roll(files[&one].len())) {
                *byte ^= 1 << dice.roll(8);
            }
            files.insert(one.clone(), bytes);
        }
        5..=8 if !lines.is_empty() => {
            let mut lines = lines;
            match what {
                5 => drop(lines.remove(a)),
                6 => lines.swap(a, b),
                7 => {
                    let line = lines[b].clone();
                    lines.insert(a, line);
                }
                _ => lines.truncate(a),
            }
            files.insert(one.clone(), lines.concat());
        }
        9 => {
            let mut second = files[&two].clone();
            second.extend_from_slice(&bytes);
            files.remove(&one);
            files.insert(two.clone(), second);
        }
        10 => {
            let (first, last) = (dice.roll(20), dice.roll(20));
            let end = ["jsonl", "seal.json"][dice.roll(2)];
            files.remove(&one);
            files.insert(format!("events.{first:012}-{last:012}.{end}"), bytes);
        }
        11 => {
            let theirs = &other[[&one, &two][dice.roll(2)]];
            files.insert(one.clone(), theirs.clone());
        }
        12 => {
            // A line without the words that say who signed it.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let text = match (text.find(",\"sig\":\""), dice.roll(2)) {
                (Some(at), 0) => {
                    format!("{}}}{}", &text[..at], &text[at + 96.min(text.len() - at)..])
                }
                _ => text.replacen("succeeded", "failed", 1),
            };
            files.insert(one.clone(), text.into_bytes());
        }
        _ => {
            let last = bytes.len();
            bytes.insert(dice.roll(last + 1), [b'\n', b' ', 0, b'}'][dice.roll(4)]);
            files.insert(one.clone(), bytes);
        }
    }
    format!("{what}: {one} {two} {a} {b}")
}

#[test]
fn whatever_is_done_to_the_files_only_the_log_that_was_written_is_well() {
    let rounds = std::env::var("CELLOS_SPOILT_FOLDERS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(ROUNDS);
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = written(folder.path());
    written(elsewhere.path());
    let (original, other) = (files_of(folder.path()), files_of(elsewhere.path()));
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    let good = check_file(&path, &checks);
    assert!(good.summary.is_well(), "{:?}", good.recorder.findings);
    assert_eq!(good.summary.runs_well, 7);
    let mut dice = Dice(0x5EED);
    let mut well = 0;
    for round in 0..rounds {
        let mut files = original.clone();
        let mut other = other.clone();
        other.extend(
            original
                .keys()
                .filter(|name| !other.contains_key(*name))
                .map(|name| (name.clone(), Vec::new()))
                .collect::<Vec<_>>(),
        );
        let mut done = Vec::new();
        for _ in 0..=dice.roll(4) {
            for name in files.keys() {
                other.entry(name.clone()).or_default();
            }
            done.push(spoil(&mut files, &other, &mut dice));
        }
        for name in files_of(folder.path()).keys() {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let mut recorder = Recorder::default();
        let Ok(summary) = verify(folder.path(), &checks, &mut recorder) else {
            continue;
        };
        if !summary.is_well() {
            continue;
        }
        well += 1;
        let same = (
            &summary.log_id,
            summary.events,
            &summary.head,
            summary.runs_well,
        ) == (
            &good.summary.log_id,
            good.summary.events,
            &good.summary.head,
            7,
        );
        assert!(same, "round {round}: {done:#?}: {summary:#?}");
    }
    assert!(well < rounds / 2, "{well}: hardly anything was spoilt");
}
