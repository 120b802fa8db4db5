mod damage;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use cellos_core::{
    CloudEventV1,
    ports::EventSink,
    signing::{Signer, SoftwareSigner},
};
use rustix::io::Errno;
use serde_json::json;

use super::{
    faults::{Crash, Fault, FaultyStorage},
    segments::{FileName, Names},
    *,
};
use crate::{
    head,
    line::{self, LineHash, genesis, signed_bytes},
    merkle::{TreeBuilder, TreeHash},
    seal::{self, Seal},
};

pub(super) fn event(id: &str) -> CloudEventV1 {
    serde_json::from_value(json!({
        "specversion": "1.0", "id": id, "source": "test", "type": "t",
        "time": "2026-01-02T03:04:05Z", "data": {"text": "some words"},
    }))
    .unwrap()
}

fn signer() -> Arc<dyn Signer> {
    Arc::new(SoftwareSigner::from_seed("k1", [7; 32]))
}

pub(super) fn signed(path: impl Into<PathBuf>) -> LogConfig {
    LogConfig {
        signer: Some(signer()),
        // The events of these tests are old.
        rotation: Rotation {
            max_age: None,
            ..Rotation::default()
        },
        ..LogConfig::new(path)
    }
}

/// Ids of the events of a log given as its files, and the number that comes next. The chain has to
/// hold, and a signature has to speak for every line.
fn check(files: &[Vec<u8>]) -> Vec<String> {
    let mut ids = Vec::new();
    let mut tail: Option<(String, u64, LineHash)> = None;
    let mut waiting = 0;
    for (number, file) in files.iter().enumerate() {
        assert!(file.is_empty() || file.ends_with(b"\n"), "torn");
        for bytes in file.split(|byte| *byte == b'\n') {
            if bytes.is_empty() {
                continue;
            }
            let parsed = line::parse(bytes).unwrap();
            let (log_id, seq, prev) =
                tail.get_or_insert_with(|| (parsed.log_id.to_owned(), 0, genesis(parsed.log_id)));
            assert_eq!(
                (parsed.log_id, parsed.seq, parsed.prev),
                (&**log_id, *seq, *prev)
            );
            (*seq, *prev) = (*seq + 1, LineHash::of_line(bytes));
            let event: CloudEventV1 = serde_json::from_str(parsed.event.get()).unwrap();
            ids.push(match event.ty.as_str() {
                "t" => event.id,
                ty => ty.rsplit('.').next().unwrap().to_owned(),
            });
            waiting += 1;
            if let Some(signature) = parsed.signature {
                assert_eq!(signature.signs, waiting);
                let key = signer().verifying_key();
                assert!(key.verifies(&signed_bytes(parsed.entry), &signature.bytes));
                waiting = 0;
            }
        }
        // An unsigned log that was sealed when it got a signer.
        if number == 0 && files.len() > 1 && waiting as usize == ids.len() {
            waiting = 0;
        }
    }
    assert_eq!(waiting, 0, "lines without a signature");
    ids
}

fn on_disk(path: &Path) -> Vec<String> {
    let files: Vec<_> = Segments::of(path)
        .unwrap()
        .files()
        .map(|file| fs::read(file).unwrap())
        .collect();
    check(&files)
}

pub(super) fn in_memory(disk: &FaultyStorage, path: &Path) -> Vec<String> {
    let names = Names::of(path).unwrap();
    let found = disk
        .all_names()
        .iter()
        .filter_map(|file| names.kind(file.file_name().unwrap().to_str().unwrap()))
        .collect();
    let mut files: Vec<_> = names
        .sealed(found)
        .iter()
        .map(|segment| {
            let bytes = disk.contents(&segment.path).unwrap();
            if let Some(seal) = &segment.seal {
                let seal = Seal::parse(&disk.contents(seal).unwrap()).unwrap();
                check_seal(&seal, &bytes);
            }
            bytes
        })
        .collect();
    files.extend(disk.contents(path));
    check(&files)
}

fn check_seal(seal: &Seal, segment: &[u8]) {
    assert!(seal.verify(&signer().verifying_key()));
    let mut tree = TreeBuilder::default();
    let lines: Vec<_> = segment
        .strip_suffix(b"\n")
        .unwrap()
        .split(|b| *b == b'\n')
        .collect();
    lines
        .iter()
        .for_each(|line| tree.push(TreeHash::leaf(line)));
    assert_eq!(
        (seal.body.root, seal.body.lines()),
        (tree.root(), lines.len() as u64)
    );
    assert_eq!(
        seal.body.last_hash,
        LineHash::of_line(lines.last().unwrap())
    );
    assert_eq!(seal.body.before, line::parse(lines[0]).unwrap().prev);
    assert_eq!(seal.body.bytes, segment.len() as u64);
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    (folder, path)
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let (_folder, path) = folder();
    for round in 0..3 {
        let log = EventLog::open(signed(&path)).unwrap();
        let appended = log.append(&[event("a"), event("b")]).unwrap();
        assert_eq!(
            (appended.first_seq, appended.tail.next_seq),
            (2 * round, 2 * round + 2)
        );
        log.sync().unwrap();
    }
    assert_eq!(on_disk(&path), ["a", "b", "a", "b", "a", "b"]);
    let head = head::read(&head::path_of(&path)).unwrap().unwrap();
    assert_eq!(head.next_seq, 6);
    assert!(head.verify(&signer().verifying_key()));
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn threads_that_append_at_once_share_signatures() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..50 {
                    let first = event(&format!("{thread}-{number}-a"));
                    let second = event(&format!("{thread}-{number}-b"));
                    log.append(&[first, second]).unwrap();
                }
            });
        }
    });
    let ids = on_disk(&path);
    assert_eq!(ids.len(), 1600);
    for pair in ids.chunks(2) {
        assert_eq!(
            pair[0].replace("-a", "-b"),
            pair[1],
            "events of one call stand together"
        );
    }
    for thread in 0..16 {
        let own = |id: &&String| id.starts_with(&format!("{thread}-")) && id.ends_with('a');
        let numbers: Vec<_> = ids.iter().filter(own).collect();
        let expected: Vec<_> = (0..50).map(|n| format!("{thread}-{n}-a")).collect();
        assert!(
            numbers.into_iter().eq(expected.iter()),
            "the order of one caller is kept"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_that_emit_and_flush_at_once_all_get_through() {
    let (_folder, path) = folder();
    let log = Arc::new(EventLog::open(signed(&path)).unwrap());
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for number in 0..10 {
                    log.emit(&event(&format!("{task}-{number}"))).await.unwrap();
                    log.flush().await.unwrap();
                }
                let all: Vec<_> = (0..300).map(|n| event(&format!("{task}-x{n}"))).collect();
                if task == 0 {
                    log.emit_all(&all).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    log.flush().await.unwrap();
    assert_eq!(on_disk(&path).len(), 64 * 10 + 300);
    let head = head::read(&head::path_of(&path)).unwrap().unwrap();
    assert_eq!(head.next_seq, 940);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_is_dropped_while_it_waits_holds_nobody_up() {
    let (_folder, path) = folder();
    let log = Arc::new(EventLog::open(signed(&path)).unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.emit(&event(&number.to_string())).await })
        })
        .collect();
    tasks
        .iter()
        .step_by(3)
        .for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        let _ = task.await;
    }
    // Left to lead, and gone before it is told.
    let left = log.inner.group.enter(Vec::new());
    assert!(left.was_left_to_lead());
    log.inner.group.take(1);
    log.inner.group.pass_on();
    log.emit(&event("last")).await.unwrap();
    assert_eq!(on_disk(&path).last().unwrap(), "last");
}

#[test]
fn an_event_that_cannot_be_kept_fails_alone() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    let mut rounded = event("rounded");
    rounded.data = Some(json!({"number": u64::MAX}));
    let mut long = event("long");
    long.data = Some(json!("x".repeat(line::MAX_LINE_BYTES)));
    assert!(matches!(log.append(&[rounded]), Err(LogError::Encode(_))));
    assert!(matches!(
        log.append(&[event("a"), long]),
        Err(LogError::Encode(_))
    ));
    let many = vec![event("a"); 257];
    assert!(matches!(log.append(&many), Err(LogError::Encode(_))));
    log.append(&many[..256]).unwrap();
    assert_eq!(on_disk(&path).len(), 256);
}

#[test]
fn two_writers_of_a_new_log_make_one_chain() {
    let (_folder, path) = folder();
    let one = EventLog::open(signed(&path)).unwrap();
    let two = EventLog::open(signed(&path)).unwrap();
    two.append(&[event("a")]).unwrap();
    one.append(&[event("b")]).unwrap();
    one.rotate().unwrap().unwrap();
    one.append(&[event("c")]).unwrap();
    two.append(&[event("d")]).unwrap();
    two.rotate().unwrap().unwrap();
    two.rotate().unwrap().unwrap();
    one.append(&[event("e")]).unwrap();
    one.sync().unwrap();
    two.sync().unwrap();
    let expected = [
        "a",
        "b",
        "segment-sealed",
        "c",
        "d",
        "segment-sealed",
        "segment-sealed",
        "e",
    ];
    assert_eq!(on_disk(&path), expected);
    let head = head::read(&head::path_of(&path)).unwrap().unwrap();
    assert_eq!(
        head.next_seq,
        expected.len() as u64,
        "the head never goes back"
    );
}

#[test]
fn what_happens_to_an_open_log_is_noticed() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    log.append(&[event("a"), event("b")]).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, b"").unwrap();
    let error = log.append(&[event("c")]).unwrap_err();
    assert!(
        matches!(error, LogError::Deleted { .. } | LogError::CutOff { .. }),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        log.append(&[event("c")]),
        Err(LogError::Deleted { .. })
    ));
    // And whoever puts it back may go on.
    fs::write(&path, &whole).unwrap();
    log.append(&[event("c")]).unwrap();
    fs::remove_file(super::beside(&path, "lock")).unwrap();
    log.append(&[event("d")]).unwrap();
    assert_eq!(on_disk(&path), ["a", "b", "c", "d"]);
}

#[test]
fn an_unsigned_log_is_sealed_when_it_gets_a_signer_and_never_goes_back() {
    let (_folder, path) = folder();
    let unsigned = EventLog::open(LogConfig::new(&path)).unwrap();
    unsigned.append(&[event("a"), event("b")]).unwrap();
    let log = EventLog::open(signed(&path)).unwrap();
    log.append(&[event("c")]).unwrap();
    assert_eq!(on_disk(&path), ["a", "b", "segment-sealed", "c"]);
    let segments = Segments::of(&path).unwrap();
    let seal = seal::read(segments.sealed[0].seal.as_ref().unwrap())
        .unwrap()
        .unwrap();
    check_seal(&seal, &fs::read(&segments.sealed[0].path).unwrap());
    let refused = |result: Result<(), LogError>| {
        assert!(matches!(result, Err(LogError::SignerMissing { .. })));
    };
    refused(unsigned.append(&[event("d")]).map(drop));
    refused(EventLog::open(LogConfig::new(&path)).map(drop));
    // Nor between the seal and the first line of the next file.
    fs::write(&path, "").unwrap();
    refused(EventLog::open(LogConfig::new(&path)).map(drop));
}

#[test]
fn files_are_sealed_by_size_and_by_age() {
    let (_folder, path) = folder();
    let seconds = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&seconds);
    let config = LogConfig {
        rotation: Rotation {
            max_bytes: 2000,
            max_age: Some(Duration::from_secs(3600)),
        },
        clock: Clock::new(move || {
            let begin: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
            begin + Duration::from_secs(clock.load(Ordering::Relaxed).unsigned_abs())
        }),
        ..signed(&path)
    };
    let log = EventLog::open(config.clone()).unwrap();
    (0..20).for_each(|n| drop(log.append(&[event(&n.to_string())]).unwrap()));
    let segments = Segments::of(&path).unwrap().sealed.len();
    assert!((3..8).contains(&segments), "{segments}");
    seconds.store(3599, Ordering::Relaxed);
    log.rotate().unwrap();
    log.append(&[event("x")]).unwrap();
    seconds.store(2 * 3599, Ordering::Relaxed);
    // Whoever opens it knows the age too.
    let other = EventLog::open(config).unwrap();
    other.append(&[event("y")]).unwrap();
    assert_eq!(Segments::of(&path).unwrap().sealed.len(), segments + 1);
    seconds.store(2 * 3600, Ordering::Relaxed);
    other.append(&[event("z")]).unwrap();
    assert_eq!(Segments::of(&path).unwrap().sealed.len(), segments + 2);
    for segment in Segments::of(&path).unwrap().sealed {
        let seal = seal::read(&segment.seal.unwrap()).unwrap().unwrap();
        check_seal(&seal, &fs::read(&segment.path).unwrap());
    }
    let ids = on_disk(&path);
    let own = ids.iter().filter(|id| *id != "segment-sealed").count();
    assert_eq!(own, 23);
}

#[test]
fn a_full_disk_is_named_and_what_cannot_be_cut_is_set_aside_later() {
    let path = Path::new("/log/events.jsonl");
    let disk = FaultyStorage::default();
    let log = EventLog::open_in(Arc::new(disk.clone()), signed(path)).unwrap();
    log.append(&[event("a")]).unwrap();
    let whole = disk.contents(path).unwrap();
    disk.fail_all(Some(Errno::NOSPC));
    let error = log.append(&[event("b")]).unwrap_err();
    assert!(
        error.to_string().starts_with("sink full: event log "),
        "{error}"
    );
    assert!(matches!(error, LogError::FullAndTorn { .. }), "{error}");
    disk.fail_all(None);
    assert_eq!(disk.contents(path).unwrap(), whole);
    disk.plan(0, Fault::Short(Errno::NOSPC));
    let error = log.append(&[event("b")]).unwrap_err();
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert_eq!(disk.contents(path).unwrap(), whole);
    // Torn by somebody whose cut failed too.
    disk.overwrite(path, &[&whole[..], b"{\"ent"].concat());
    log.append(&[event("c")]).unwrap();
    assert_eq!(in_memory(&disk, path), ["a", "recovered", "c"]);
}

#[test]
fn a_flush_that_failed_is_never_forgotten() {
    let path = Path::new("/log/events.jsonl");
    let disk = FaultyStorage::default();
    let log = EventLog::open_in(Arc::new(disk.clone()), signed(path)).unwrap();
    log.append(&[event("a")]).unwrap();
    disk.plan(0, Fault::Fail(Errno::IO));
    log.sync().unwrap_err();
    for result in [log.sync(), log.append(&[event("b")]).map(drop)] {
        assert!(matches!(result, Err(LogError::Lost { .. })));
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_then_refused() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    let lock = fs::File::open(super::beside(&path, "lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            lock.unlock().unwrap();
        });
        log.append(&[event("a")]).unwrap();
    });
    lock.lock().unwrap();
    let error = log.append(&[event("b")]).unwrap_err();
    assert!(matches!(error, LogError::Locked { .. }), "{error}");
    lock.unlock().unwrap();
    log.append(&[event("c")]).unwrap();
    assert_eq!(on_disk(&path), ["a", "c"]);
}

#[test]
fn whoever_waits_behind_others_that_append_is_not_refused() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    let mut tail = log.append(&[event("a")]).unwrap().tail;
    let lock = fs::File::open(super::beside(&path, "lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Longer than anybody waits for a log to which nothing happens.
            for number in 0..60 {
                std::thread::sleep(Duration::from_millis(100));
                let event = event(&format!("other-{number}"));
                let lines = line::encode(&mut tail, &[event], Some(&*signer())).unwrap();
                let mut file = fs::File::options().append(true).open(&path).unwrap();
                std::io::Write::write_all(&mut file, &lines).unwrap();
            }
            lock.unlock().unwrap();
        });
        log.append(&[event("b")]).unwrap();
    });
    let ids = on_disk(&path);
    assert_eq!((ids.len(), ids.last().unwrap().as_str()), (62, "b"));
}

#[test]
fn a_head_is_written_over_in_place() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    let other = EventLog::open(signed(&path)).unwrap();
    let head_path = head::path_of(&path);
    let head = |expected: u64| {
        let head = head::read(&head_path).unwrap().unwrap();
        assert!(head.verify(&signer().verifying_key()));
        assert_eq!(head.next_seq, expected);
        let metadata = fs::metadata(&head_path).unwrap();
        assert_eq!(metadata.len(), head::HEAD_BYTES as u64);
        metadata.ino()
    };
    let flush = |log: &EventLog, id| {
        log.append(&[event(id)]).unwrap();
        log.sync().unwrap();
    };
    flush(&log, "a");
    let first = head(1);
    for number in 2..6 {
        flush(if number % 2 == 0 { &log } else { &other }, "b");
        assert_eq!(head(number), first);
    }
    // Somebody restored another file in its place, or left half of one.
    fs::copy(&head_path, super::beside(&path, "copy")).unwrap();
    fs::rename(super::beside(&path, "copy"), &head_path).unwrap();
    flush(&log, "c");
    assert_ne!(head(6), first);
    fs::write(&head_path, "{\"head\"").unwrap();
    flush(&log, "d");
    head(7);
    fs::remove_file(&head_path).unwrap();
    flush(&log, "e");
    head(8);
}

#[test]
fn a_head_is_read_whole_while_it_is_written() {
    let (_folder, path) = folder();
    let config = || LogConfig {
        durability: Durability::Process,
        ..signed(&path)
    };
    let log = EventLog::open(config()).unwrap();
    log.append(&[event("a")]).unwrap();
    log.sync().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                let head = head::read(&head::path_of(&path)).unwrap().unwrap();
                assert!(head.verify(&signer().verifying_key()));
                assert!(head.next_seq >= last);
                (reads, last) = (reads + 1, head.next_seq);
            }
        });
        for _ in 0..300 {
            log.append(&[event("b")]).unwrap();
            log.sync().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn a_machine_crash_may_cost_a_log_without_flushes_its_end_but_never_unnoticed() {
    let path = Path::new("/log/events.jsonl");
    let disk = FaultyStorage::default();
    let config = || LogConfig {
        durability: Durability::Process,
        ..signed(path)
    };
    let log = EventLog::open_in(Arc::new(disk.clone()), config()).unwrap();
    log.append(&[event("a")]).unwrap();
    log.sync().unwrap();
    let process = disk.after(Crash::Process);
    EventLog::open_in(Arc::new(process), config()).unwrap();
    let machine = disk.after(Crash::Names);
    let names = Names::of(path).unwrap();
    assert_eq!(names.kind("events.jsonl"), None::<FileName>);
    machine.overwrite(
        &head::path_of(path),
        &disk.contents(&head::path_of(path)).unwrap(),
    );
    let error = EventLog::open_in(Arc::new(machine), config())
        .err()
        .unwrap();
    assert!(
        matches!(error, LogError::CutOff { missing: 0, .. }),
        "{error}"
    );
}
