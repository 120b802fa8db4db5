//! What is stored, in which stream, under which subject.

use cellos_evidence::line::LineHash;
use cellos_sinks::remote::{DeliveryError, Retry};
use cellos_testkit::require;
use serde_json::{Value, json};

use super::server::{Reached as _, Reader, Server};
use crate::remote_contract::stored;

const STREAM: &str = "CELLOS_EVENTS";

async fn refused(server: &Server, more: Value) -> DeliveryError {
    let error = server
        .sink(more)
        .deliver(&stored(&["a"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.retry, error.acknowledged),
        (Retry::Useless, 0),
        "{error}"
    );
    error
}

/// The published implementation loses most of these: it does not wait for what it sent.
#[tokio::test]
async fn the_events_of_20_short_runs_are_all_stored() {
    require!("nats");
    let server = Server::start("");
    let mut expected = Vec::new();
    for run in 0..20 {
        let ids: Vec<_> = (0..4).map(|n| format!("r{run}-{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // A sink of its own, as in a process of its own, which ends right after.
        server.sink(json!({})).deliver(&stored(&ids)).await.unwrap();
        expected.extend(ids.iter().map(ToString::to_string));
    }
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), expected);
}

#[tokio::test]
async fn an_event_has_its_id_and_its_line_in_headers() {
    require!("nats");
    let server = Server::start("");
    let mut events = stored(&["a", "not\r\nfit"]);
    events[1].seq = 12;
    server.sink(json!({})).deliver(&events).await.unwrap();
    let kept = Reader::new(&server, json!({})).kept(STREAM);
    let hash = LineHash::of_line(b"a");
    assert_eq!(kept[0].subject, "cellos.events.v1");
    assert_eq!(
        kept[0].headers,
        format!(
            "NATS/1.0\r\nNats-Msg-Id: a\r\nCellos-Log-Seq: 0\r\nCellos-Line-Hash: {hash}\r\n\r\n"
        )
    );
    assert_eq!(
        kept[0].event,
        serde_json::to_value(&events[0].event).unwrap()
    );
    let hash = LineHash::of_line(b"not\r\nfit");
    let head = format!("Nats-Msg-Id: {hash}\r\nCellos-Log-Seq: 12\r\n");
    assert!(kept[1].headers.contains(&head), "{}", kept[1].headers);
    assert_eq!(kept[1].event["id"], "not\r\nfit");
}

#[tokio::test]
async fn an_event_that_comes_again_is_stored_once() {
    require!("nats");
    let server = Server::start("");
    for ids in [&["a", "b"][..], &["a", "b", "c"], &["c"]] {
        server.sink(json!({})).deliver(&stored(ids)).await.unwrap();
    }
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ["a", "b", "c"]);
}

#[tokio::test]
async fn an_absent_stream_is_made_as_the_contract_has_it() {
    require!("nats");
    let server = Server::start("");
    let mut reader = Reader::new(&server, json!({}));
    assert_eq!(reader.info(STREAM)["error"]["err_code"], 10_059);
    server
        .sink(json!({}))
        .deliver(&stored(&["a"]))
        .await
        .unwrap();
    let config = &reader.info(STREAM)["config"];
    for (field, expected) in [
        ("subjects", json!(["cellos.events.>"])),
        ("storage", json!("file")),
        ("retention", json!("limits")),
        ("max_age", json!(90_u64 * 24 * 3600 * 1_000_000_000)),
        ("duplicate_window", json!(120_u64 * 1_000_000_000)),
        ("num_replicas", json!(1)),
    ] {
        assert_eq!(config[field], expected, "{field}");
    }
}

#[tokio::test]
async fn an_existing_stream_is_left_as_it_is() {
    require!("nats");
    let server = Server::start("");
    let mut reader = Reader::new(&server, json!({}));
    let own = json!({
        "name": "MINE", "subjects": ["other", "acme.*.>"], "storage": "memory", "max_msgs": 7,
    });
    reader.stream("CREATE", &own);
    let before = reader.info("MINE")["config"].clone();
    let more = json!({"stream": "MINE", "subject": {"template": "acme.{tenantId}.{run_id}"}});
    server.sink(more).deliver(&stored(&["a"])).await.unwrap();
    assert_eq!(reader.info("MINE")["config"], before);
    assert_eq!(reader.kept("MINE")[0].subject, "acme._no_tenant_.r");
}

#[tokio::test]
async fn a_stream_that_does_not_take_the_subject_is_refused_by_name() {
    require!("nats");
    let server = Server::start("");
    let mut reader = Reader::new(&server, json!({}));
    reader.stream(
        "CREATE",
        &json!({"name": STREAM, "subjects": ["cellos.events.v2", "x.>"]}),
    );
    let error = refused(&server, json!({})).await;
    assert_eq!(
        error.reason,
        "stream CELLOS_EVENTS does not take subject cellos.events.v1, only cellos.events.v2, x.>"
    );
    // Nor is one made that would not.
    let more = json!({"stream": "NEW", "subject": {"literal": "elsewhere"}});
    let error = refused(&server, more).await;
    assert!(error.reason.contains("elsewhere"), "{error}");
    assert_eq!(reader.info("NEW")["error"]["err_code"], 10_059);
}

#[tokio::test]
async fn a_stream_that_acknowledges_nothing_is_refused() {
    require!("nats");
    let server = Server::start("");
    let own = json!({"name": STREAM, "subjects": ["cellos.events.>"], "no_ack": true});
    Reader::new(&server, json!({})).stream("CREATE", &own);
    let error = refused(&server, json!({})).await;
    assert!(error.reason.contains("no_ack"), "{error}");
}

#[tokio::test]
async fn a_stream_that_overlaps_with_ours_is_named_by_the_server() {
    require!("nats");
    let server = Server::start("");
    let own = json!({"name": "OTHER", "subjects": ["cellos.events.v1"]});
    Reader::new(&server, json!({})).stream("CREATE", &own);
    let error = refused(&server, json!({})).await;
    assert!(error.reason.contains("overlap"), "{error}");
}

#[tokio::test]
async fn a_server_without_jetstream_is_told() {
    require!("nats");
    let server = Server::bare(tempfile::tempdir().unwrap(), "");
    let error = refused(&server, json!({})).await;
    assert!(
        error
            .reason
            .ends_with("JetStream is off; start the server with it (`-js`)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stream_that_goes_away_is_made_again() {
    require!("nats");
    let server = Server::start("");
    let mut reader = Reader::new(&server, json!({}));
    let sink = server.sink(json!({}));
    sink.deliver(&stored(&["a"])).await.unwrap();
    reader.ask("STREAM.DELETE.CELLOS_EVENTS", &Value::Null);
    sink.deliver(&stored(&["b"])).await.unwrap();
    assert_eq!(reader.ids(STREAM), ["b"]);
}

#[tokio::test]
async fn an_event_beyond_the_servers_limit_is_told_with_both_sizes() {
    require!("nats");
    let server = Server::start("max_payload: 2000\n");
    let mut events = stored(&["a", "large", "c"]);
    events[1].event.data = Some(json!({"text": "x".repeat(2000)}));
    let error = server.sink(json!({})).deliver(&events).await.unwrap_err();
    assert_eq!(
        (error.retry, error.acknowledged),
        (Retry::Useless, 1),
        "{error}"
    );
    let payload = serde_json::to_vec(&events[1].event).unwrap().len();
    assert!(error.reason.starts_with("event large is 2"), "{error}");
    assert!(error.reason.contains("the server takes 2000"), "{error}");
    assert!(payload > 2000);
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ["a"]);

    // The very limit is taken.
    let mut events = stored(&["b"]);
    let base = 2000 - (headers_of(&server) + serde_json::to_vec(&events[0].event).unwrap().len());
    let known = events[0].event.source.len();
    events[0].event.source = "s".repeat(known + base);
    server.sink(json!({})).deliver(&events).await.unwrap();
    events[0].event.id = "d".into();
    events[0].event.source.push('s');
    let error = server.sink(json!({})).deliver(&events).await.unwrap_err();
    assert!(error.reason.starts_with("event d is 2001 bytes"), "{error}");
}

/// Bytes of the headers of an event whose id has one character.
fn headers_of(server: &Server) -> usize {
    Reader::new(server, json!({})).kept(STREAM)[0].headers.len()
}

#[tokio::test]
async fn one_event_at_a_time_is_possible() {
    require!("nats");
    let server = Server::start("");
    let ids: Vec<_> = (0..50).map(|n| format!("e{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let sink = server.sink(json!({"maxInFlight": 1, "inboxPrefix": "replies.here"}));
    sink.deliver(&stored(&ids)).await.unwrap();
    assert_eq!(Reader::new(&server, json!({})).ids(STREAM), ids);
}
