//! A server that means harm: it may end a delivery, and neither fill the memory nor hold it for ever.

use std::time::{Duration, Instant};

use cellos_sinks::remote::{DeliveryError, RemoteSink, SinkConfig, Surroundings, nats::NatsConfig};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::remote_contract::stored;

const HELLO: &[u8] = b"INFO {\"headers\":true,\"jetstream\":true,\"max_payload\":1048576}\r\n";
/// Longer than the timeouts of the sinks here, and than anybody would wait.
const FAR: Duration = Duration::from_secs(20);

fn sink(port: u16) -> std::sync::Arc<dyn RemoteSink> {
    let config: NatsConfig = serde_json::from_value(json!({
        "servers": format!("nats://127.0.0.1:{port}"),
        "connectTimeoutMs": 5_000,
        "ackTimeoutMs": 1_000,
    }))
    .unwrap();
    let surroundings = Surroundings {
        folder: "/".as_ref(),
        env: &|_| None,
    };
    config.open(&surroundings).unwrap()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Lets a client in.
async fn welcome(listener: &TcpListener) -> BufReader<TcpStream> {
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.write_all(HELLO).await.unwrap();
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while line != "PING\r\n" {
        line.clear();
        socket.read_line(&mut line).await.unwrap();
    }
    socket.write_all(b"PONG\r\n").await.unwrap();
    socket
}

async fn outcome(sink: &dyn RemoteSink, ids: &[&str]) -> (Result<(), DeliveryError>, Duration) {
    let start = Instant::now();
    let events = stored(ids);
    let delivery = tokio::time::timeout(FAR, sink.deliver(&events)).await;
    // Beyond that time it would go on for ever.
    (delivery.unwrap(), start.elapsed())
}

#[tokio::test]
async fn a_flood_of_pings_is_not_answered_without_end() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut socket = welcome(&listener).await;
        let flood = b"PING\r\n".repeat(4096);
        // Nothing is read any more.
        while socket.get_mut().write_all(&flood).await.is_ok() {}
    });
    let (delivery, took) = outcome(&*sink(port), &["a"]).await;
    let error = delivery.unwrap_err();
    assert_eq!(error.acknowledged, 0);
    assert!(
        error.reason.contains("the answers are not taken"),
        "{error} after {took:?}"
    );
    server.abort();
}

/// The server acknowledges the first event over and over, and never the second.
#[tokio::test]
async fn an_acknowledgement_that_comes_again_delivers_nothing_and_holds_nobody() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut socket = welcome(&listener).await;
        let mut acknowledgement = Vec::new();
        loop {
            let mut line = String::new();
            let read = socket.read_line(&mut line);
            match tokio::time::timeout(Duration::from_millis(100), read).await {
                Ok(Ok(0)) | Ok(Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) => {
                    let _ = socket.write_all(&acknowledgement).await;
                    continue;
                }
            }
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let (reply, bytes, answer) = match words.as_slice() {
                ["PUB", _, reply, bytes] => (
                    reply,
                    bytes,
                    json!({"config": {"name": "CELLOS_EVENTS", "subjects": ["cellos.events.>"]}}),
                ),
                ["HPUB", _, reply, _, bytes] => {
                    (reply, bytes, json!({"stream": "CELLOS_EVENTS", "seq": 1}))
                }
                _ => continue,
            };
            let mut content = vec![0; bytes.parse::<usize>().unwrap() + 2];
            socket.read_exact(&mut content).await.unwrap();
            let answer = answer.to_string();
            let message = format!("MSG {reply} 1 {}\r\n{answer}\r\n", answer.len());
            if words[0] == "PUB" {
                socket.write_all(message.as_bytes()).await.unwrap();
            } else if acknowledgement.is_empty() {
                acknowledgement = message.into_bytes();
            }
        }
    });
    let (delivery, took) = outcome(&*sink(port), &["a", "b"]).await;
    let error = delivery.unwrap_err();
    assert_eq!(error.acknowledged, 1, "{error}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    server.abort();
}
