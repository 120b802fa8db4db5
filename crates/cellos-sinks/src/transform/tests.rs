use cellos_testkit::{FailingSink, MemorySink};

use super::*;
use crate::composite::tests::event;

/// Refuses events of one type and renames the others.
struct Rename;

impl EventTransform for Rename {
    fn transform<'e>(&self, event: &'e CloudEventV1) -> Result<Cow<'e, CloudEventV1>, CellosError> {
        if event.ty == "bad" {
            return Err(CellosError::EventSink("cannot rename bad".into()));
        }
        let mut renamed = event.clone();
        renamed.ty = format!("renamed.{}", event.ty);
        Ok(Cow::Owned(renamed))
    }
}

#[tokio::test]
async fn the_inner_sink_gets_the_transformed_event() {
    let inner = Arc::new(MemorySink::new());
    let sink = Transformed::new(Rename, inner.clone());
    sink.emit(&event("a")).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(
        (inner.types(), inner.flushes()),
        (vec!["renamed.a".into()], 1)
    );
}

#[tokio::test]
async fn what_cannot_be_transformed_is_not_passed_on() {
    let inner = Arc::new(MemorySink::new());
    let sink = Transformed::new(Rename, inner.clone());
    let error = sink.emit(&event("bad")).await.unwrap_err();
    assert_eq!(error.to_string(), "event sink: cannot rename bad");
    assert!(inner.events().is_empty());
}

#[tokio::test]
async fn a_failure_of_the_inner_sink_is_passed_back() {
    let sink = Transformed::new(Rename, Arc::new(FailingSink::at(1)));
    assert!(sink.emit(&event("a")).await.is_err());
}

#[tokio::test]
async fn events_that_belong_together_stay_together_or_are_not_passed_on() {
    let inner = Arc::new(MemorySink::new());
    let sink = Transformed::new(Rename, inner.clone());
    sink.emit_all(&[event("a"), event("b")]).await.unwrap();
    assert_eq!(inner.types(), ["renamed.a", "renamed.b"]);
    assert_eq!(inner.groups(), [2]);
    assert!(sink.emit_all(&[event("c"), event("bad")]).await.is_err());
    assert_eq!(inner.groups(), [2]);
}
