//! A file system that is really full: a small tmpfs in a mount namespace of the test's own.

use std::{fs, path::PathBuf, process::Command};

use cellos_core::ports::EventSink;
use cellos_evidence::log::EventLog;
use cellos_testkit::{
    Ability,
    alone::{Place, finished, rerun},
    require, test_name,
};

use crate::{config, event, ids};

/// Mounts a tmpfs with the options `$1` at `$0` and runs the rest there.
const MOUNT: &str = r#"mount -t tmpfs -o "$1" cellos-test "$0" && shift && DISK="$0" exec "$@""#;

/// Root makes a mount namespace; anybody else a user namespace around it.
fn unshare() -> &'static str {
    match Ability::Root.probe() {
        Ok(()) => "-m",
        Err(_) => "-Urm",
    }
}

fn can_unshare() -> Result<(), String> {
    let output = Command::new("unshare")
        .args([unshare(), "true"])
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// The mounted folder in the child; in the parent, the child's result is checked.
fn on_small_disk(test: &str, options: &str) -> Option<PathBuf> {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    match rerun(
        test,
        &["unshare", unshare(), "sh", "-c", MOUNT, at, options],
    ) {
        Place::Alone => Some(PathBuf::from(std::env::var("DISK").unwrap())),
        Place::Parent(result) => {
            result.unwrap();
            None
        }
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_full_disk_is_named_and_keeps_nothing_of_the_event() {
    require!("userns", can_unshare());
    let Some(disk) = on_small_disk(test_name!(), "size=96k,mode=0700") else {
        return;
    };
    let path = disk.join("events.jsonl");
    let log = EventLog::open(config(&path)).unwrap();
    wait(log.emit(&event("first", ""))).unwrap();
    wait(log.flush()).unwrap();
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 32 * 1024]).unwrap();
    let mut kept = 1;
    // Not a divisor of the page size, so that the last write is a short one.
    let text = "x".repeat(3000);
    let error = loop {
        match wait(log.emit(&event("fits", &text))) {
            Ok(()) => kept += 1,
            Err(error) => break error.to_string(),
        }
        assert!(kept < 100, "a 96 KiB disk never fills");
    };
    assert!(kept > 5, "only {kept} events fit");
    assert!(
        error.starts_with("event sink: sink full: event log "),
        "{error}"
    );
    assert!(error.ends_with("nothing of the event was kept"), "{error}");
    assert_eq!(ids(&path).len(), kept);
    let length = fs::metadata(&path).unwrap().len();
    // It stays so, and no try leaves a byte.
    wait(log.emit_all(&[event("a", &text), event("b", &text)])).unwrap_err();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    // With room again it goes on where it was.
    fs::remove_file(&ballast).unwrap();
    wait(log.emit(&event("small", ""))).unwrap();
    wait(log.flush()).unwrap();
    assert_eq!(ids(&path).last().unwrap(), "small");
    finished();
}

#[test]
fn a_read_only_disk_is_refused_before_anything_runs() {
    require!("userns", can_unshare());
    let Some(disk) = on_small_disk(test_name!(), "ro,size=64k") else {
        return;
    };
    let error = EventLog::open(config(&disk.join("events.jsonl")))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.ends_with("cannot open it: Read-only file system (os error 30)"),
        "{error}"
    );
    finished();
}
