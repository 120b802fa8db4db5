//! Decorators: something done to every event on its way into a sink.

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use cellos_core::{CellosError, CloudEventV1, ports::EventSink};

/// Something done to every event. Signing, redaction and wrapping are transforms.
pub trait EventTransform: Send + Sync {
    /// The event as the inner sink gets it; borrowed where nothing changes.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when the event cannot be passed on; the inner sink then does not
    /// see it.
    fn transform<'e>(&self, event: &'e CloudEventV1) -> Result<Cow<'e, CloudEventV1>, CellosError>;
}

/// A sink behind a transform.
pub struct Transformed<T> {
    transform: T,
    inner: Arc<dyn EventSink>,
}

impl<T: EventTransform> Transformed<T> {
    /// Puts a transform before a sink.
    #[must_use]
    pub fn new(transform: T, inner: Arc<dyn EventSink>) -> Self {
        Self { transform, inner }
    }
}

#[async_trait]
impl<T: EventTransform> EventSink for Transformed<T> {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        let event = self.transform.transform(event)?;
        self.inner.emit(&event).await
    }

    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        let transformed = events
            .iter()
            .map(|event| self.transform.transform(event).map(Cow::into_owned))
            .collect::<Result<Vec<_>, _>>()?;
        self.inner.emit_all(&transformed).await
    }

    async fn flush(&self) -> Result<(), CellosError> {
        self.inner.flush().await
    }
}

#[cfg(test)]
mod tests;
