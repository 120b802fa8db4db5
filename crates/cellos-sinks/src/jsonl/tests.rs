use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::Ordering,
    time::Duration,
};

use cellos_testkit::EventLog;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::composite::tests::event;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(path: impl AsRef<Path>) -> Result<JsonlSink, OpenError> {
    JsonlSink::open(JsonlConfig::new(path.as_ref()))
}

/// The refusal's text, and whether it came at once.
fn refusal(path: impl AsRef<Path>) -> String {
    let path = path.as_ref().to_owned();
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || answer.send(open(path).unwrap_err().to_string()));
    answered
        .recv_timeout(Duration::from_secs(5))
        .expect("opening blocks")
}

#[tokio::test]
async fn appends_one_line_per_event_in_the_order_of_the_contract() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    let mut first = event("a");
    first.data = Some(json!({"text": "two\nlines"}));
    sink.emit(&first).await.unwrap();
    sink.emit(&event("b")).await.unwrap();
    sink.flush().await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"specversion":"1.0","id":"1","source":"test","type":"a","datacontenttype":null,"data":{"text":"two\nlines"},"time":null,"traceparent":null}"#
    );
    let log = EventLog::read(&path);
    assert_eq!(log.types(), ["a", "b"]);
    assert_eq!(log.events()[0], first);
}

#[tokio::test]
async fn an_existing_log_is_continued() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    for ty in ["a", "b"] {
        let sink = open(&path).unwrap();
        sink.emit(&event(ty)).await.unwrap();
        assert!(sink.torn_lines().is_empty());
    }
    assert_eq!(EventLog::read(&path).types(), ["a", "b"]);
}

#[test]
fn a_new_file_is_private() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    open(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn what_cannot_hold_events_is_refused_with_path_and_mend() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    assert!(
        Command::new("mkfifo")
            .arg(at("fifo"))
            .status()
            .unwrap()
            .success()
    );
    fs::write(at("file"), "").unwrap();
    symlink(at("file"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let long = "n".repeat(300);
    for (name, reason) in [
        ("fifo", "is a FIFO: only a regular file"),
        ("", "is a folder: only a regular file"),
        ("link", "is a symbolic link: name the file"),
        ("dangling", "is a symbolic link: name the file"),
        ("socket", "is a socket"),
        (
            "missing/events.jsonl",
            "the folder does not exist: create it",
        ),
        ("file/events.jsonl", "cannot open it: Not a directory"),
        (&long, "cannot open it: File name too long"),
    ] {
        let text = refusal(at(name));
        assert!(text.contains(reason), "{name}: {text}");
        assert!(
            text.starts_with(&format!("events file {:?}: ", at(name))),
            "{text}"
        );
    }
    assert!(refusal("/dev/null").contains("is a device: only a regular file"));
    assert!(!at("nowhere").exists(), "a dangling link was followed");
}

#[tokio::test]
async fn a_torn_last_line_is_kept_ended_and_reported() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    fs::write(&path, "{\"whole\":1}\n{\"torn").unwrap();
    let sink = open(&path).unwrap();
    assert_eq!(sink.torn_lines(), [TornLine { ended_at: 18 }]);
    sink.emit(&event("a")).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["{\"whole\":1}", "{\"torn"]);
    assert_eq!(EventLog::parse(&format!("{}\n", lines[2])).types(), ["a"]);
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn a_line_torn_by_another_writer_meanwhile_is_ended_too() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    sink.emit(&event("a")).await.unwrap();
    let mut other = fs::File::options().append(true).open(&path).unwrap();
    other.write_all(b"{\"to").unwrap();
    sink.emit(&event("b")).await.unwrap();
    sink.emit(&event("c")).await.unwrap();
    assert_eq!(sink.torn_lines().len(), 1);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[1]), (4, "{\"to"));
}

#[tokio::test]
async fn the_longest_line_fits_and_one_byte_more_writes_nothing() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    let mut large = event("large");
    large.data = Some(json!(""));
    let frame = line(&large).unwrap().len();
    large.data = Some(json!("x".repeat(MAX_LINE_BYTES - frame)));
    sink.emit(&large).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), MAX_LINE_BYTES as u64);

    large.data = Some(json!("x".repeat(MAX_LINE_BYTES - frame + 1)));
    let error = sink.emit(&large).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "event sink: event large is a line of 1048577 bytes, the limit is 1048576; nothing was \
         written"
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), MAX_LINE_BYTES as u64);
}

#[tokio::test]
async fn a_deleted_file_is_an_error() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let error = sink.emit(&event("a")).await.unwrap_err().to_string();
    assert!(error.contains("was deleted while in use"), "{error}");
}

#[tokio::test]
async fn a_file_that_stays_locked_is_an_error_and_not_a_hang() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    let other = fs::File::open(&path).unwrap();
    other.lock().unwrap();
    let error = sink.emit(&event("a")).await.unwrap_err().to_string();
    assert!(
        error.contains("another program has kept it locked"),
        "{error}"
    );
    other.unlock().unwrap();
    sink.emit(&event("a")).await.unwrap();
    assert_eq!(EventLog::read(&path).types(), ["a"]);
}

#[tokio::test]
async fn an_event_is_on_the_disk_when_the_durability_says_so() {
    let folder = folder();
    for (durability, after_emit, after_flush) in [
        (Durability::Process, false, false),
        (Durability::Machine, false, true),
        (Durability::EachEvent, true, true),
    ] {
        let path = folder.path().join(format!("{durability:?}.jsonl"));
        let sink = JsonlSink::open(JsonlConfig {
            durability,
            ..JsonlConfig::new(&path)
        })
        .unwrap();
        let flushed = || sink.file.folder_is_durable.load(Ordering::Relaxed);
        sink.emit(&event("a")).await.unwrap();
        assert_eq!(flushed(), after_emit, "{durability:?}");
        sink.flush().await.unwrap();
        assert_eq!(flushed(), after_flush, "{durability:?}");
        assert_eq!(EventLog::read(&path).types(), ["a"]);
    }
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_accepted() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = open(&path).unwrap();
    sink.file.lost.store(true, Ordering::Relaxed);
    for result in [sink.emit(&event("a")).await, sink.flush().await] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("an earlier flush failed"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_flush_works_without_a_runtime_of_tokio() {
    let folder = folder();
    let sink = open(folder.path().join("events.jsonl")).unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut flush = std::pin::pin!(sink.flush());
    assert!(matches!(
        flush.as_mut().poll(&mut context),
        std::task::Poll::Ready(Ok(()))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_do_not_mix_their_lines() {
    let folder = folder();
    let path = folder.path().join("events.jsonl");
    let sink = Arc::new(open(&path).unwrap());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                for number in 0..100 {
                    let mut event = event(&format!("w{writer}"));
                    event.data = Some(json!("x".repeat(number * 97)));
                    sink.emit(&event).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let log = EventLog::read(&path);
    assert_eq!(log.events().len(), 800);
    for writer in 0..8 {
        assert_eq!(log.all(&format!("w{writer}")).count(), 100);
    }
}
