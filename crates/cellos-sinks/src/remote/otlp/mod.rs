//! OpenTelemetry logs: OTLP over HTTP, in JSON.

mod config;
mod encode;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

pub use config::OtlpConfig;

use super::{
    DeliveryError, RemoteSink, Retry, SinkOpenError, StoredEvent, Surroundings, http::HttpClient,
};

/// Name of the kind in a configuration.
pub const KIND: &str = "otlp";
/// Where a collector takes logs, unless it is told otherwise.
const DEFAULT_PATH: &str = "/v1/logs";

/// Exports events as log records. A batch is acknowledged as a whole: the protocol does not say
/// which records a collector rejects.
#[derive(Debug)]
pub struct OtlpSink {
    client: HttpClient,
    resource: BTreeMap<String, String>,
    asked_to_wait: Mutex<Option<Duration>>,
}

/// `ExportLogsServiceResponse`. Fields that a later version adds are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    partial_success: Option<PartialSuccess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialSuccess {
    /// A 64-bit integer, which is a string in this JSON; some collectors write a number.
    #[serde(default)]
    rejected_log_records: Value,
    #[serde(default)]
    error_message: String,
}

impl OtlpSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// [`SinkOpenError`].
    pub fn open(
        config: &OtlpConfig,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, SinkOpenError> {
        let url = with_path(&config.url);
        Ok(Self {
            client: HttpClient::open(&config.http(&url), surroundings)?,
            resource: config.resource.clone(),
            asked_to_wait: Mutex::default(),
        })
    }

    fn wait(&self, asked: Option<Duration>) {
        *self
            .asked_to_wait
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = asked;
    }
}

#[async_trait]
impl RemoteSink for OtlpSink {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        self.wait(None);
        if events.is_empty() {
            return Ok(());
        }
        let body = serde_json::to_vec(&encode::request(&self.resource, events))
            .map_err(|error| nothing(Retry::Useless, error.to_string()))?;
        let answer = self
            .client
            .post("application/json", &[], body.into())
            .await
            .map_err(|error| {
                self.wait(error.retry_after());
                nothing(error.retry(), error.to_string())
            })?;
        match answer {
            Some(answer) => accepted(&answer),
            None => Err(nothing(
                Retry::Later,
                "the collector's answer is too long or broke off".to_owned(),
            )),
        }
    }

    fn asked_to_wait(&self) -> Option<Duration> {
        *self
            .asked_to_wait
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the collector took all records.
fn accepted(answer: &[u8]) -> Result<(), DeliveryError> {
    // What the JSON form of an empty message can be with proxies between.
    if answer.trim_ascii().is_empty() {
        return Ok(());
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| {
        nothing(
            Retry::Useless,
            format!("the answer is not one of an OTLP collector: {error}"),
        )
    })?;
    let Some(partial) = answer.partial_success else {
        return Ok(());
    };
    let message: String = partial.error_message.chars().take(200).collect();
    match &partial.rejected_log_records {
        Value::Null => {}
        Value::Number(number) if number.as_u64() == Some(0) => {}
        Value::String(number) if number == "0" => {}
        rejected => {
            return Err(nothing(
                Retry::Useless,
                format!("the collector rejected {rejected} of the records: {message:?}"),
            ));
        }
    }
    if !message.is_empty() {
        tracing::warn!(message, "the collector accepted the records with a warning");
    }
    Ok(())
}

fn nothing(retry: Retry, reason: String) -> DeliveryError {
    DeliveryError {
        acknowledged: 0,
        retry,
        reason,
    }
}

/// An address without a path gets the usual one.
fn with_path(url: &str) -> String {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    match url[after_scheme..].find(['/', '?']) {
        None => format!("{url}{DEFAULT_PATH}"),
        Some(at) if &url[after_scheme + at..] == "/" => {
            format!("{}{DEFAULT_PATH}", &url[..after_scheme + at])
        }
        Some(_) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_the_usual_one() {
        for (url, expected) in [
            ("https://h:4318", "https://h:4318/v1/logs"),
            ("https://h/", "https://h/v1/logs"),
            ("https://h/x", "https://h/x"),
        ] {
            assert_eq!(with_path(url), expected);
        }
    }

    #[test]
    fn a_partial_success_is_a_refusal_and_a_warning_is_none() {
        for (answer, taken) in [
            ("", true),
            ("{}", true),
            (r#"{"partialSuccess":{}}"#, true),
            (
                r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"old"}}"#,
                true,
            ),
            (r#"{"partialSuccess":{"rejectedLogRecords":"2"}}"#, false),
            (r#"{"partialSuccess":{"rejectedLogRecords":2}}"#, false),
            ("<html>", false),
        ] {
            assert_eq!(accepted(answer.as_bytes()).is_ok(), taken, "{answer}");
        }
    }
}
