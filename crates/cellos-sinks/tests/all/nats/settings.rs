//! The sink as a file of event sinks has it.

use std::fs;

use cellos_sinks::{
    remote::Surroundings,
    settings::{EventSinks, Kind},
};
use cellos_testkit::require;
use serde_json::json;

use super::server::{Reader, Server};
use crate::remote_contract::stored;

fn read(text: &str) -> Result<EventSinks, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sinks.yaml");
    fs::write(&path, text).unwrap();
    EventSinks::read(&path).map_err(|error| error.to_string())
}

fn file(fields: &str) -> String {
    format!("apiVersion: cellos.io/v1\nkind: EventSinks\nsinks:\n- name: n\n  kind: nats\n{fields}")
}

#[tokio::test]
async fn a_sink_of_a_file_delivers() {
    require!("nats");
    let server = Server::start("authorization: {user: cells, password: p4ss}\n");
    fs::write(server.folder().join("password"), "p4ss\n").unwrap();
    let text = file(&format!(
        "  servers: [\"{}\"]\n  stream: CELLS\n  subject: {{tenant: acme}}\n  maxInFlight: 16\n  \
         connectTimeoutMs: 20000\n  auth:\n    login: {{user: cells, password: {{file: password}}}}\n",
        server.url()
    ));
    let path = server.folder().join("sinks.yaml");
    fs::write(&path, text).unwrap();
    let sinks = EventSinks::read(&path).unwrap();
    assert_eq!(sinks.sinks[0].kind, Kind::Nats);
    let sink = sinks.sinks[0]
        .config
        .open(&Surroundings {
            folder: &sinks.folder,
            env: &|_| None,
        })
        .unwrap();
    sink.deliver(&stored(&["a"])).await.unwrap();
    let kept = Reader::new(&server, json!({"user": "cells", "pass": "p4ss"})).kept("CELLS");
    assert_eq!(kept[0].subject, "cellos.events.acme._no_spec_.r");
}

#[test]
fn a_file_that_is_wrong_is_told_without_its_passwords() {
    for (fields, expected) in [
        (
            "  servers: nats://h\n  auth: {token: hunter2}\n",
            "`file` or `env`",
        ),
        (
            "  servers: nats://h\n  auth: {token: {file: a, hunter2: b}}\n",
            "one source",
        ),
        ("  servers: \"nats://u:hunter2@h\"\n", "under `auth`"),
        ("  servers: [\"nats://u:hunter2@h\"]\n", "under `auth`"),
        (
            "  servers: nats://h\n  subject: {literal: \"a.>\"}\n",
            "has '>'",
        ),
        (
            "  servers: nats://h\n  maxInFlight: 0\n",
            "outside 1 to 4096",
        ),
        ("  servers: nats://h\n  url: x\n", "url"),
        ("  stream: S\n", "servers"),
    ] {
        let error = read(&file(fields)).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
