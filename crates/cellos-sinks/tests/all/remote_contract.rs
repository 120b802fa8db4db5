//! What every remote sink has to do, tested once for all of them.
//!
//! A sink's own test file has a [`Harness`], which is the sink and the other side of it, and the line
//! `remote_sink_contract!(ItsHarness);`.

use std::collections::HashSet;

use async_trait::async_trait;
use cellos_core::CloudEventV1;
use cellos_evidence::line::LineHash;
use cellos_sinks::remote::{RemoteSink, Retry, StoredEvent};

/// Size of the text in the largest event that is tried, in bytes: such a line still fits into the log
/// (1 MiB).
pub(crate) const HUGE_TEXT_BYTES: usize = 900 * 1024;

/// A sink and the other side of it.
#[async_trait]
pub(crate) trait Harness: Send + Sized {
    /// Starts the other side, and makes a sink for it that has not connected yet.
    async fn start() -> Self;
    /// The sink, the same one each time. It has the [`credential`](Self::credential), if its kind
    /// has credentials.
    fn sink(&self) -> &dyn RemoteSink;
    /// The sink as `Debug` shows it, and its configuration.
    fn debug(&self) -> String;
    /// What must not be shown anywhere.
    fn credential(&self) -> Option<&str>;
    /// Ids of the events that the other side has acknowledged, in their order. An event that came
    /// twice may be listed twice.
    async fn received(&mut self) -> Vec<String>;
    /// The other side goes away: connections end, and new ones are refused.
    async fn go_away(&mut self);
    /// It is back, at the same address and with what it had.
    async fn come_back(&mut self);
    /// From now on it refuses everything, for a reason that time does not mend.
    async fn refuse(&mut self);
    /// It takes exactly so many more events and fails from then on, in any way. `false` where the
    /// other side takes a batch as a whole, and so takes all or nothing.
    async fn fail_after(&mut self, accepted: usize) -> bool;
}

/// A test of each rule for one harness.
macro_rules! remote_sink_contract {
    ($harness:ty) => {
        mod contract {
            use super::*;
            use $crate::remote_contract as rules;

            #[tokio::test]
            async fn events_arrive_once_and_in_order() {
                rules::events_arrive_once_and_in_order::<$harness>().await;
            }

            #[tokio::test]
            async fn an_outage_is_survived_by_the_same_sink() {
                rules::an_outage_is_survived_by_the_same_sink::<$harness>().await;
            }

            #[tokio::test]
            async fn a_refusal_is_told_from_an_outage() {
                rules::a_refusal_is_told_from_an_outage::<$harness>().await;
            }

            #[tokio::test]
            async fn the_acknowledged_are_counted_when_a_batch_breaks() {
                rules::the_acknowledged_are_counted_when_a_batch_breaks::<$harness>().await;
            }

            #[tokio::test]
            async fn credentials_are_shown_nowhere() {
                rules::credentials_are_shown_nowhere::<$harness>().await;
            }

            #[tokio::test]
            async fn the_largest_event_arrives() {
                rules::the_largest_event_arrives::<$harness>().await;
            }

            #[tokio::test]
            async fn nothing_to_deliver_needs_nobody() {
                rules::nothing_to_deliver_needs_nobody::<$harness>().await;
            }
        }
    };
}
pub(crate) use remote_sink_contract;

/// Events as they stand in a log, with the given ids.
pub(crate) fn stored(ids: &[&str]) -> Vec<StoredEvent> {
    ids.iter()
        .zip(0..)
        .map(|(id, seq)| StoredEvent {
            seq,
            line_hash: LineHash::of_line(id.as_bytes()),
            event: event(
                id,
                serde_json::json!({"runId": "r", "cellId": "c", "n": seq}),
            ),
        })
        .collect()
}

fn event(id: &str, data: serde_json::Value) -> CloudEventV1 {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0",
        "id": id,
        "source": "cellos-supervisor",
        "type": "dev.cellos.events.cell.lifecycle.v1.started",
        "datacontenttype": "application/json",
        "data": data,
        "time": "2026-01-02T03:04:05.678Z",
    }))
    .unwrap()
}

/// Without those that had come before.
fn first_times(ids: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    ids.into_iter()
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

pub(crate) async fn events_arrive_once_and_in_order<H: Harness>() {
    let mut harness = H::start().await;
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for batch in [&ids[..1], &ids[1..17], &ids[17..]] {
        harness.sink().deliver(&stored(batch)).await.unwrap();
    }
    assert_eq!(harness.received().await, ids);
}

pub(crate) async fn an_outage_is_survived_by_the_same_sink<H: Harness>() {
    let mut harness = H::start().await;
    harness.sink().deliver(&stored(&["a"])).await.unwrap();
    harness.go_away().await;
    for _ in 0..2 {
        let error = harness.sink().deliver(&stored(&["b"])).await.unwrap_err();
        assert_eq!(error.retry, Retry::Later, "{error}");
        assert_eq!(error.acknowledged, 0, "{error}");
    }
    harness.come_back().await;
    harness.sink().deliver(&stored(&["b", "c"])).await.unwrap();
    assert_eq!(first_times(harness.received().await), ["a", "b", "c"]);
}

pub(crate) async fn a_refusal_is_told_from_an_outage<H: Harness>() {
    let mut harness = H::start().await;
    harness.refuse().await;
    let error = harness.sink().deliver(&stored(&["a"])).await.unwrap_err();
    assert_eq!(error.retry, Retry::Useless, "{error}");
    assert_eq!(error.acknowledged, 0, "{error}");
    assert!(!error.reason.is_empty());
}

pub(crate) async fn the_acknowledged_are_counted_when_a_batch_breaks<H: Harness>() {
    let mut harness = H::start().await;
    let whole = !harness.fail_after(2).await;
    let error = harness
        .sink()
        .deliver(&stored(&["a", "b", "c", "d"]))
        .await
        .unwrap_err();
    let expected: &[&str] = if whole { &[] } else { &["a", "b"] };
    assert_eq!(error.acknowledged, expected.len(), "{error}");
    assert_eq!(first_times(harness.received().await), expected);
}

pub(crate) async fn credentials_are_shown_nowhere<H: Harness>() {
    let mut harness = H::start().await;
    let mut shown = vec![harness.debug()];
    harness.refuse().await;
    let refused = harness.sink().deliver(&stored(&["a"])).await.unwrap_err();
    shown.push(format!("{refused} {refused:?}"));
    harness.go_away().await;
    let away = harness.sink().deliver(&stored(&["a"])).await.unwrap_err();
    shown.push(format!("{away} {away:?}"));
    if let Some(credential) = harness.credential() {
        for text in shown {
            assert!(!text.contains(credential), "{text}");
        }
    }
}

pub(crate) async fn the_largest_event_arrives<H: Harness>() {
    let mut harness = H::start().await;
    let mut events = stored(&["small", "huge"]);
    events[1].event = event(
        "huge",
        serde_json::json!({"text": "x".repeat(HUGE_TEXT_BYTES)}),
    );
    harness.sink().deliver(&events).await.unwrap();
    assert_eq!(harness.received().await, ["small", "huge"]);
}

pub(crate) async fn nothing_to_deliver_needs_nobody<H: Harness>() {
    let mut harness = H::start().await;
    harness.go_away().await;
    harness.sink().deliver(&[]).await.unwrap();
}
