//! Several sinks at once.

use std::sync::Arc;

use async_trait::async_trait;
use cellos_core::{CellosError, CloudEventV1, ports::EventSink};

/// Gives every event to every one of its sinks, in order.
///
/// A sink that fails does not keep the event from the others: the more places hold the evidence
/// of a failing run, the better. The result is an error as soon as one sink failed, so the run
/// stops all the same; the text is the first failure's, with the later ones attached.
pub struct FanOut {
    sinks: Vec<Arc<dyn EventSink>>,
}

impl FanOut {
    /// Starts with one sink: without any, events would vanish.
    #[must_use]
    pub fn new(first: Arc<dyn EventSink>) -> Self {
        Self { sinks: vec![first] }
    }

    /// Adds a sink after the others.
    #[must_use]
    pub fn and(mut self, next: Arc<dyn EventSink>) -> Self {
        self.sinks.push(next);
        self
    }
}

#[async_trait]
impl EventSink for FanOut {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        let mut failures = Failures::default();
        for sink in &self.sinks {
            failures.note(sink.emit(event).await);
        }
        failures.into_result()
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        let mut failures = Failures::default();
        for sink in &self.sinks {
            failures.note(sink.emit_all(events).await);
        }
        failures.into_result()
    }

    async fn flush(&self) -> Result<(), CellosError> {
        let mut failures = Failures::default();
        for sink in &self.sinks {
            failures.note(sink.flush().await);
        }
        failures.into_result()
    }
}

/// The first failure, and the texts of all.
#[derive(Default)]
struct Failures(Vec<CellosError>);

impl Failures {
    fn note(&mut self, result: Result<(), CellosError>) {
        self.0.extend(result.err());
    }

    fn into_result(self) -> Result<(), CellosError> {
        if self.0.len() < 2 {
            return self.0.into_iter().next().map_or(Ok(()), Err);
        }
        let texts: Vec<_> = self
            .0
            .into_iter()
            .map(|error| match error {
                // The prefix is added once, by the error that is returned.
                CellosError::EventSink(text) => text,
                other => other.to_string(),
            })
            .collect();
        Err(CellosError::EventSink(texts.join("; also: ")))
    }
}

#[cfg(test)]
pub(crate) mod tests;
