//! Writing the events of one run.

use std::{sync::Arc, time::Duration};

use cellos_core::{
    CellosError, CloudEventV1,
    event::{self, EventData, EventKind, Stamp, Subject},
    ports::EventSink,
};

use crate::{Clock, RunError, bounds, error::no_answer};

/// The events of one run, in order.
pub(crate) struct Journal {
    sink: Arc<dyn EventSink>,
    clock: Arc<dyn Clock>,
    subject: Subject,
    bound: Duration,
    /// Events of this phase that are written with its next one.
    queued: Vec<(EventKind, CloudEventV1)>,
}

impl Journal {
    pub(crate) fn new(sink: Arc<dyn EventSink>, clock: Arc<dyn Clock>, subject: Subject) -> Self {
        Self {
            sink,
            clock,
            subject,
            bound: bounds::EVENT,
            queued: Vec::new(),
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// A new id and the present time.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp_with(new_id())
    }

    /// The present time under a given id.
    pub(crate) fn stamp_with(&self, id: String) -> Stamp {
        Stamp {
            id,
            time: self.clock.now().to_string(),
        }
    }

    /// Builds and writes an event. When this returns, it is where the sink keeps it.
    pub(crate) async fn emit<D: EventData>(&mut self, data: &D) -> Result<(), RunError> {
        let event = event::event(self.stamp(), &self.subject, data);
        self.write(D::KIND, event).await
    }

    /// Builds an event that is written together with the next one.
    pub(crate) fn queue<D: EventData>(&mut self, data: &D) -> Result<(), RunError> {
        let kind = D::KIND;
        let event = event::event(self.stamp(), &self.subject, data)
            .map_err(|source| RunError::Event { kind, source })?;
        self.queued.push((kind, event));
        Ok(())
    }

    /// Writes an event that was built, and those that wait for it. After an error none of them
    /// waits any more.
    pub(crate) async fn write(
        &mut self,
        kind: EventKind,
        event: Result<CloudEventV1, CellosError>,
    ) -> Result<(), RunError> {
        let failed = |source| RunError::Event { kind, source };
        match event {
            Ok(event) => self.queued.push((kind, event)),
            Err(error) => {
                self.queued.clear();
                return Err(failed(error));
            }
        }
        self.write_queued().await
    }

    /// Writes the events that wait, of which the last one names the error. After an error none of
    /// them waits any more.
    pub(crate) async fn write_queued(&mut self) -> Result<(), RunError> {
        let (kinds, events): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queued).into_iter().unzip();
        let Some(kind) = kinds.last().copied() else {
            return Ok(());
        };
        let failed = |source| RunError::Event { kind, source };
        match tokio::time::timeout(self.bound, self.sink.emit_all(&events)).await {
            Ok(written) => written.map_err(failed),
            Err(_) => Err(failed(self.timed_out())),
        }
    }

    /// Returns when everything written is durable.
    pub(crate) async fn flush(&mut self) -> Result<(), RunError> {
        match tokio::time::timeout(self.bound, self.sink.flush()).await {
            Ok(flushed) => flushed.map_err(RunError::Flush),
            Err(_) => Err(RunError::Flush(self.timed_out())),
        }
    }

    /// A sink that did not answer once is given less time from now on, so that it cannot hold
    /// teardown up event by event.
    fn timed_out(&mut self) -> CellosError {
        let text = no_answer("the event sink", self.bound);
        self.bound = bounds::EVENT_AFTER_TIMEOUT;
        CellosError::EventSink(text)
    }
}

/// A new event id.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
