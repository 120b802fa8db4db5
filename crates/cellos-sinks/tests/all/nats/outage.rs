//! A server that goes away, and deliveries that are given up.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_sinks::remote::Retry;
use cellos_testkit::require;
use serde_json::json;

use super::server::{Reached as _, Reader, Server};
use crate::remote_contract::stored;

const STREAM: &str = "CELLOS_EVENTS";
/// As many as a forwarder gives at once, about.
const BATCH: usize = 500;

fn ids(range: Range<usize>) -> Vec<String> {
    range.map(|number| format!("e{number:06}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_loses_and_doubles_nothing() {
    require!("nats");
    let mut server = Server::start("");
    let sink = server.sink(json!({"ackTimeoutMs": 20_000}));
    let enough = Arc::new(AtomicBool::new(false));

    // Until the last kill is over, however fast or slow this machine is.
    let ends = Arc::clone(&enough);
    let delivering = tokio::spawn(async move {
        let (mut done, mut failures) = (0, 0);
        while !ends.load(Ordering::Relaxed) {
            let batch = ids(done..done + BATCH);
            let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
            let mut rest = &stored(&texts)[..];
            while !rest.is_empty() {
                match sink.deliver(rest).await {
                    Ok(()) => rest = &[],
                    Err(error) => {
                        assert_eq!(error.retry, Retry::Later, "{error}");
                        assert!(error.acknowledged < rest.len());
                        failures += 1;
                        rest = &rest[error.acknowledged..];
                    }
                }
            }
            done += BATCH;
        }
        (done, failures)
    });
    for pause in [60, 110, 30, 170] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.up();
        });
    }
    enough.store(true, Ordering::Relaxed);
    let (done, failures) = delivering.await.unwrap();
    assert!(failures > 0, "no kill was in the middle of a delivery");
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ids(0..done));
}

#[tokio::test]
async fn an_outage_costs_no_time_but_a_bounded_pause() {
    require!("nats");
    let mut server = Server::start("");
    let sink = server.sink(json!({}));
    server.kill();
    let begin = Instant::now();
    for _ in 0..4 {
        let error = sink.deliver(&stored(&["a"])).await.unwrap_err();
        assert_eq!((error.retry, error.acknowledged), (Retry::Later, 0));
        assert!(error.reason.contains("no connection"), "{error}");
    }
    // 100 + 200 + 400 ms between four attempts.
    assert!(
        begin.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begin.elapsed()
    );
    server.up();
    sink.deliver(&stored(&["a"])).await.unwrap();
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ["a"]);
}

#[tokio::test]
async fn a_server_that_was_restarted_meanwhile_is_no_failure() {
    require!("nats");
    let mut server = Server::start("");
    let sink = server.sink(json!({}));
    sink.deliver(&stored(&["a"])).await.unwrap();
    server.kill();
    server.up();
    sink.deliver(&stored(&["b"])).await.unwrap();
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ["a", "b"]);
}

#[tokio::test]
async fn another_server_of_the_list_is_used() {
    require!("nats");
    let mut gone = Server::start("");
    let server = Server::start("");
    gone.kill();
    let sink = server.sink(json!({"servers": [gone.url(), server.url()]}));
    sink.deliver(&stored(&["a"])).await.unwrap();
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ["a"]);
}

/// A delivery that is given up at any point leaves nothing behind that is sent later.
#[tokio::test]
async fn a_delivery_that_is_given_up_keeps_the_order() {
    require!("nats");
    let server = Server::start("");
    let sink = server.sink(json!({}));
    let ids: Vec<_> = (0..200).map(|n| format!("e{n:03}")).collect();
    let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
    let events = stored(&texts);
    for micros in (0..2000).step_by(200) {
        let limit = Duration::from_micros(micros);
        let _ = tokio::time::timeout(limit, sink.deliver(&events)).await;
    }
    sink.deliver(&events).await.unwrap();
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ids);
}

/// Something that takes connections and never says a word, or says the wrong ones.
#[tokio::test]
async fn something_else_at_the_address_is_told() {
    for (says, expected, retry) in [
        (&b""[..], "no connection within 1000 ms", Retry::Later),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "not the protocol of NATS",
            Retry::Useless,
        ),
        (
            b"INFO {\"tls_required\":true}\r\nPING\r\n",
            "bytes in clear",
            Retry::Useless,
        ),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut socket, says)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_secs(30)).await;
        });
        let config: cellos_sinks::remote::nats::NatsConfig = serde_json::from_value(json!({
            "servers": format!("nats://127.0.0.1:{port}"), "connectTimeoutMs": 1000,
        }))
        .unwrap();
        let surroundings = cellos_sinks::remote::Surroundings {
            folder: "/".as_ref(),
            env: &|_| None,
        };
        let sink = cellos_sinks::remote::SinkConfig::open(&config, &surroundings).unwrap();
        let error = sink.deliver(&stored(&["a"])).await.unwrap_err();
        assert_eq!(error.retry, retry, "{error}");
        assert!(error.reason.contains(expected), "{error}");
        other.abort();
    }
}
