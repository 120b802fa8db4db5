//! Event sinks for tests: one that remembers, one that fails.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use cellos_core::{CellosError, CloudEventV1, ports::EventSink};

/// Keeps every event in memory.
#[derive(Debug, Default)]
pub struct MemorySink {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    events: Vec<CloudEventV1>,
    groups: Vec<usize>,
    flushes: usize,
}

impl MemorySink {
    /// An empty sink.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The events so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<CloudEventV1> {
        self.lock().events.clone()
    }

    /// The full types so far, in order.
    #[must_use]
    pub fn types(&self) -> Vec<String> {
        self.lock()
            .events
            .iter()
            .map(|event| event.ty.clone())
            .collect()
    }

    /// How many events came together, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<usize> {
        self.lock().groups.clone()
    }

    /// How often it was flushed.
    #[must_use]
    pub fn flushes(&self) -> usize {
        self.lock().flushes
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic elsewhere leaves a list that is still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventSink for MemorySink {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.emit_all(std::slice::from_ref(event)).await
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        let mut kept = self.lock();
        kept.events.extend_from_slice(events);
        kept.groups.push(events.len());
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        self.lock().flushes += 1;
        Ok(())
    }
}

/// Keeps events until one that it refuses, and refuses everything from there on.
#[derive(Debug)]
pub struct FailingSink {
    accepts: usize,
    memory: MemorySink,
    refused: Mutex<Vec<CloudEventV1>>,
}

impl FailingSink {
    /// Fails at the `n`-th event, counted from 1.
    #[must_use]
    pub fn at(n: usize) -> Self {
        Self {
            accepts: n.saturating_sub(1),
            memory: MemorySink::new(),
            refused: Mutex::default(),
        }
    }

    /// The events it accepted.
    #[must_use]
    pub fn accepted(&self) -> Vec<CloudEventV1> {
        self.memory.events()
    }

    /// The events it refused.
    #[must_use]
    pub fn refused(&self) -> Vec<CloudEventV1> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl EventSink for FailingSink {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        {
            let mut kept = self.memory.lock();
            if kept.events.len() < self.accepts {
                kept.events.push(event.clone());
                return Ok(());
            }
        }
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event.clone());
        Err(CellosError::EventSink(format!(
            "refused {} as the test wants it",
            event.ty
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> CloudEventV1 {
        serde_json::from_value(serde_json::json!({
            "specversion": "1.0", "id": id, "source": "t", "type": "t"
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn fails_from_the_chosen_event_on() {
        let sink = FailingSink::at(3);
        let mut results = Vec::new();
        for id in ["1", "2", "3", "4"] {
            results.push(sink.emit(&event(id)).await.is_ok());
        }
        assert_eq!(results, [true, true, false, false]);
        assert_eq!(sink.accepted().len(), 2);
        assert_eq!(sink.refused()[0].id, "3");
    }

    #[tokio::test]
    async fn remembers_events_and_flushes() {
        let sink = MemorySink::new();
        sink.emit(&event("1")).await.unwrap();
        sink.flush().await.unwrap();
        assert_eq!((sink.types(), sink.flushes()), (vec!["t".into()], 1));
    }
}
