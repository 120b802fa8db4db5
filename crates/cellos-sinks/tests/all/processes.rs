//! Several processes append to one file.

use std::{
    env,
    process::{Command, Stdio},
};

use cellos_core::ports::EventSink;
use cellos_sinks::{JsonlConfig, JsonlSink};
use cellos_testkit::{EventLog, test_name};
use serde_json::json;

use crate::event;

/// Set in a writer: the file, and the writer's name.
const FILE: &str = "CELLOS_SINKS_TEST_FILE";
const NAME: &str = "CELLOS_SINKS_TEST_WRITER";
const WRITERS: usize = 4;
const EVENTS: usize = 200;

#[tokio::test]
async fn processes_do_not_mix_their_lines() {
    if let (Ok(path), Ok(name)) = (env::var(FILE), env::var(NAME)) {
        let sink = JsonlSink::open(JsonlConfig::new(path)).unwrap();
        for number in 0..EVENTS {
            // Up to several pages, where the kernel's own atomicity ends.
            let data = json!("x".repeat(number * 131));
            sink.emit(&event(&name, data)).await.unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", test_name!()])
                .env(FILE, &path)
                .env(NAME, format!("w{number}"))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let log = EventLog::read(&path);
    assert_eq!(log.events().len(), WRITERS * EVENTS);
    for number in 0..WRITERS {
        let lengths: Vec<_> = log
            .all(&format!("w{number}"))
            .map(|event| event.data.as_ref().unwrap().as_str().unwrap().len())
            .collect();
        let expected: Vec<_> = (0..EVENTS).map(|number| number * 131).collect();
        assert_eq!(lengths, expected, "the order of one writer is kept");
    }
}
