//! From a log on the disk into a stream, over any outage.

use std::{path::Path, time::Duration};

use cellos_evidence::log::{EventLog, LogConfig};
use cellos_sinks::forward::{End, Forwarder, Until};
use cellos_testkit::require;
use serde_json::json;
use tokio::sync::watch;

use super::server::{Reached as _, Reader, Server};
use crate::remote_contract::stored;

const STREAM: &str = "CELLOS_EVENTS";

fn append(log: &Path, ids: &[String]) {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let log = EventLog::open(LogConfig::new(log)).unwrap();
    for event in stored(&ids) {
        log.append(&[event.event]).unwrap();
    }
}

/// As one process that ends: what it could not deliver stays for the next.
async fn forward(server: &Server, log: &Path) -> End {
    let mut forwarder = Forwarder::open(log, "nats", server.sink(json!({}))).unwrap();
    let (_told, mut until) = watch::channel(Until::Empty);
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, forwarder.forward(&mut until))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_a_server_that_is_away_does_not_get_comes_later() {
    require!("nats");
    let mut server = Server::start("");
    let log = server.folder().join("events.jsonl");
    let ids: Vec<String> = (0..700).map(|n| format!("e{n}")).collect();
    append(&log, &ids[..100]);
    assert!(matches!(forward(&server, &log).await, End::Empty));
    server.kill();
    append(&log, &ids[100..600]);
    let away = forward(&server, &log).await;
    let End::Away(reason) = &away else {
        unreachable!("{away:?}")
    };
    assert!(reason.contains("no connection"), "{reason}");
    append(&log, &ids[600..]);
    server.up();
    assert!(matches!(forward(&server, &log).await, End::Empty));
    let mut reader = Reader::new(&server, json!({}));
    let kept = reader.kept(STREAM);
    // The log has events of its own among them.
    let ours: Vec<_> = kept
        .iter()
        .filter_map(|kept| kept.event["id"].as_str())
        .filter(|id| id.starts_with('e'))
        .collect();
    assert_eq!(ours, ids);
    // Each names the line of the log that it stands in.
    for (kept, seq) in kept.iter().zip(0..) {
        let head = format!("\r\nCellos-Log-Seq: {seq}\r\n");
        assert!(kept.headers.contains(&head), "{}", kept.headers);
    }
}
