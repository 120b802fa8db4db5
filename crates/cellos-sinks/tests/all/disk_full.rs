//! A file system that is really full: a small tmpfs in a mount namespace of the test's own.

use std::{fs, path::PathBuf, process::Command};

use cellos_core::ports::EventSink;
use cellos_sinks::{JsonlConfig, JsonlSink};
use cellos_testkit::{
    Ability, EventLog,
    alone::{Place, finished, rerun},
    require, test_name,
};
use serde_json::json;

use crate::event;

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
fn a_full_disk_is_named_and_leaves_only_whole_lines() {
    require!("userns", can_unshare());
    let Some(disk) = on_small_disk(test_name!(), "size=64k,mode=0700") else {
        return;
    };
    let path = disk.join("events.jsonl");
    let sink = JsonlSink::open(JsonlConfig::new(&path)).unwrap();
    let mut kept = 0;
    // Not a divisor of the page size, so that the last write is a short one.
    let error = loop {
        match wait(sink.emit(&event("fits", json!("x".repeat(3000))))) {
            Ok(()) => kept += 1,
            Err(error) => break error.to_string(),
        }
        assert!(kept < 100, "a 64 KiB disk never fills");
    };
    assert!(kept > 5, "only {kept} events fit on a 64 KiB disk");
    assert!(
        error.starts_with("event sink: sink full: events file "),
        "{error}"
    );
    assert_eq!(EventLog::read(&path).events().len(), kept);
    let length = fs::metadata(&path).unwrap().len();

    // It stays so, and no try leaves a byte.
    wait(sink.emit(&event("fits", json!("x".repeat(60_000))))).unwrap_err();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);

    // With room again it goes on where it was.
    let small = event("small", json!(null));
    let ballast = disk.join("ballast");
    drop(sink);
    fs::remove_file(&path).unwrap();
    fs::write(&ballast, vec![0; 60 * 1024]).unwrap();
    let sink = JsonlSink::open(JsonlConfig::new(&path)).unwrap();
    let mut full = false;
    for _ in 0..100 {
        full |= wait(sink.emit(&event("fits", json!("x".repeat(3000))))).is_err();
    }
    assert!(full);
    fs::remove_file(&ballast).unwrap();
    wait(sink.emit(&small)).unwrap();
    wait(sink.flush()).unwrap();
    assert_eq!(EventLog::read(&path).types().last(), Some(&"small"));
    finished();
}

#[test]
fn a_read_only_disk_is_refused_before_anything_runs() {
    require!("userns", can_unshare());
    let Some(disk) = on_small_disk(test_name!(), "ro,size=64k") else {
        return;
    };
    let path = disk.join("events.jsonl");
    let error = JsonlSink::open(JsonlConfig::new(&path))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!(
            "events file {path:?}: cannot open it: Read-only file system (os error 30): choose a \
             file that can be read and written"
        )
    );
    finished();
}
