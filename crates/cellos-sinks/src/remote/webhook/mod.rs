//! CloudEvents over HTTP: the HTTP protocol binding of CloudEvents 1.0, in JSON.

mod config;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hyper::body::Bytes;
use serde_json::Value;

pub use config::{ContentMode, WebhookConfig};

use super::{
    DeliveryError, RemoteSink, Retry, SinkOpenError, StoredEvent, Surroundings,
    http::{HttpClient, RequestError},
};

/// Name of the kind in a configuration.
pub const KIND: &str = "webhook";

/// Posts events.
#[derive(Debug)]
pub struct WebhookSink {
    client: HttpClient,
    mode: ContentMode,
    asked_to_wait: Mutex<Option<Duration>>,
}

impl WebhookSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// [`SinkOpenError`].
    pub fn open(
        config: &WebhookConfig,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, SinkOpenError> {
        Ok(Self {
            client: HttpClient::open(&config.http(), surroundings)?,
            mode: config.mode,
            asked_to_wait: Mutex::default(),
        })
    }

    /// One request for each event. The headers say where in the log it stands.
    async fn structured(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        for (acknowledged, stored) in events.iter().enumerate() {
            let body = encoded(&attributes(stored), acknowledged)?;
            let headers = [
                ("cellos-log-seq", stored.seq.to_string()),
                ("cellos-line-hash", stored.line_hash.to_hex()),
            ];
            self.client
                .post("application/cloudevents+json", &headers, body)
                .await
                .map_err(|error| self.failed(&error, acknowledged))?;
        }
        Ok(())
    }

    async fn batched(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        if events.is_empty() {
            return Ok(());
        }
        let all: Vec<Value> = events.iter().map(attributes).collect();
        self.client
            .post(
                "application/cloudevents-batch+json",
                &[],
                encoded(&Value::Array(all), 0)?,
            )
            .await
            .map_err(|error| self.failed(&error, 0))?;
        Ok(())
    }

    fn failed(&self, error: &RequestError, acknowledged: usize) -> DeliveryError {
        self.wait(error.retry_after());
        DeliveryError {
            acknowledged,
            retry: error.retry(),
            reason: error.to_string(),
        }
    }

    fn wait(&self, asked: Option<Duration>) {
        *self
            .asked_to_wait
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = asked;
    }
}

#[async_trait]
impl RemoteSink for WebhookSink {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        self.wait(None);
        match self.mode {
            ContentMode::Structured => self.structured(events).await,
            ContentMode::Batched => self.batched(events).await,
        }
    }

    fn asked_to_wait(&self) -> Option<Duration> {
        *self
            .asked_to_wait
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The event without attributes that are unset: the log has them as `null`, which not every
/// receiver of CloudEvents takes for unset.
fn attributes(stored: &StoredEvent) -> Value {
    let mut event = serde_json::to_value(&stored.event).unwrap_or_default();
    if let Value::Object(attributes) = &mut event {
        attributes.retain(|_, value| !value.is_null());
    }
    event
}

fn encoded(value: &Value, acknowledged: usize) -> Result<Bytes, DeliveryError> {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(body.into()),
        Err(error) => Err(DeliveryError {
            acknowledged,
            retry: Retry::Useless,
            reason: format!("the event has no JSON form: {error}"),
        }),
    }
}
