use cellos_testkit::{FailingSink, MemorySink};
use serde_json::json;

use super::*;

pub(crate) fn event(ty: &str) -> CloudEventV1 {
    serde_json::from_value(json!({
        "specversion": "1.0", "id": "1", "source": "test", "type": ty, "data": {"n": 1}
    }))
    .unwrap()
}

#[tokio::test]
async fn every_sink_gets_every_event_in_order() {
    let (one, two) = (Arc::new(MemorySink::new()), Arc::new(MemorySink::new()));
    let sink = FanOut::new(one.clone()).and(two.clone());
    for ty in ["a", "b"] {
        sink.emit(&event(ty)).await.unwrap();
    }
    sink.flush().await.unwrap();
    for memory in [one, two] {
        assert_eq!(
            (memory.types(), memory.flushes()),
            (vec!["a".into(), "b".into()], 1)
        );
    }
}

#[tokio::test]
async fn a_failing_sink_fails_the_event_and_the_others_keep_it() {
    let (before, after) = (Arc::new(MemorySink::new()), Arc::new(MemorySink::new()));
    let sink = FanOut::new(before.clone())
        .and(Arc::new(FailingSink::at(1)))
        .and(after.clone());
    let error = sink.emit(&event("a")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "event sink: refused a as the test wants it"
    );
    assert_eq!((before.events().len(), after.events().len()), (1, 1));
}

#[tokio::test]
async fn later_failures_are_attached_to_the_first() {
    let sink = FanOut::new(Arc::new(FailingSink::at(2))).and(Arc::new(FailingSink::at(1)));
    assert!(sink.emit(&event("a")).await.is_err());
    let error = sink.emit(&event("b")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "event sink: refused b as the test wants it; also: refused b as the test wants it"
    );
}

#[tokio::test]
async fn events_that_belong_together_reach_every_sink_together() {
    let (one, two) = (Arc::new(MemorySink::new()), Arc::new(MemorySink::new()));
    let sink = FanOut::new(one.clone()).and(two.clone());
    sink.emit_all(&[event("a"), event("b")]).await.unwrap();
    for memory in [one, two] {
        assert_eq!((memory.groups(), memory.types().len()), (vec![2], 2));
    }
}
