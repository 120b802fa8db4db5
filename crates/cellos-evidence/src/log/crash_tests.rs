//! Crashes and errors at every single operation.

use std::{path::Path, sync::Arc};

use rustix::io::Errno;

use super::{
    EventLog, LogConfig, Rotation,
    faults::{Crash, Fault, FaultyStorage},
    tests::{event, in_memory, signed},
};

/// What the crash tests do; ids of events that were acknowledged, and how many of them flushed.
fn work(disk: &FaultyStorage, path: &Path) -> (Vec<String>, usize) {
    let (mut kept, mut flushed) = (Vec::new(), 0);
    let config = LogConfig {
        rotation: Rotation {
            max_bytes: 1800,
            max_age: None,
        },
        ..signed(path)
    };
    let mut number = 0;
    for _ in 0..2 {
        let Ok(log) = EventLog::open_in(Arc::new(disk.clone()), config.clone()) else {
            continue;
        };
        for _ in 0..4 {
            let ids = [format!("{number}a"), format!("{number}b")];
            number += 1;
            if log.append(&[event(&ids[0]), event(&ids[1])]).is_ok() {
                kept.extend(ids);
            }
            if number % 2 == 0 && log.sync().is_ok() {
                flushed = kept.len();
            }
        }
    }
    (kept, flushed)
}

fn survive(fault: fn(usize) -> Fault, crashes: &[Crash]) -> usize {
    let path = Path::new("/log/events.jsonl");
    for operation in 0.. {
        let disk = FaultyStorage::default();
        disk.plan(operation, fault(operation));
        let (kept, flushed) = work(&disk, path);
        if !disk.is_through() {
            return operation;
        }
        for crash in crashes {
            let context = format!(
                "{:?} at operation {operation}, then {crash:?}",
                fault(operation)
            );
            let disk = disk.after(*crash);
            let log = EventLog::open_in(Arc::new(disk.clone()), signed(path))
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            log.append(&[event("after")])
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            log.rotate().unwrap();
            drop(log);
            let ids = in_memory(&disk, path);
            let own: Vec<_> = ids.iter().filter(|id| id.ends_with(['a', 'b'])).collect();
            let sure = match crash {
                Crash::Process => kept.len(),
                _ => flushed,
            };
            // In order, none missing; what was not acknowledged may stand there all the same.
            let mut rest = own.iter();
            for id in &kept[..sure] {
                assert!(rest.any(|there| *there == id), "{context}: {id} of {ids:?}");
            }
            assert!(ids.contains(&"after".to_owned()), "{context}");
            assert!(
                !disk
                    .all_names()
                    .iter()
                    .any(|name| name.to_str().unwrap().ends_with(".part")),
                "{context}"
            );
            // And nothing is left to mend.
            let again = EventLog::open_in(Arc::new(disk.clone()), signed(path)).unwrap();
            again.append(&[event("z")]).unwrap();
        }
    }
    unreachable!("the counter ends the loop")
}

const CRASHES: [Crash; 4] = [Crash::Process, Crash::Nothing, Crash::Half, Crash::Names];

#[test]
fn a_crash_before_any_operation_loses_nothing_that_was_promised() {
    let operations = survive(|_| Fault::DieBefore, &CRASHES);
    assert!(operations > 50, "{operations}");
}

#[test]
fn a_crash_within_or_after_any_operation_loses_nothing_that_was_promised() {
    let operations = survive(|_| Fault::DieAfter, &CRASHES);
    assert!(operations > 50, "{operations}");
}

#[test]
fn an_error_of_any_operation_loses_nothing_that_was_promised() {
    for fault in [
        (|_| Fault::Fail(Errno::IO)) as fn(usize) -> Fault,
        |_| Fault::Fail(Errno::NOSPC),
        |_| Fault::Short(Errno::NOSPC),
    ] {
        let operations = survive(fault, &CRASHES);
        assert!(operations > 50, "{operations}");
    }
}
