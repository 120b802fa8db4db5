//! What a webhook sink is told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::WebhookSink;
use crate::remote::{
    RemoteSink, SinkConfig, SinkOpenError, Surroundings,
    credential::CredentialSource,
    http::{BasicConfig, HttpConfig},
};

/// A receiver of CloudEvents over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookConfig {
    /// Where events are posted to.
    pub url: String,
    /// How many events are in one request.
    #[serde(default)]
    pub mode: ContentMode,
    /// Certificates in PEM of authorities that are trusted besides those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Where a bearer token is.
    #[serde(default)]
    pub token: Option<CredentialSource>,
    /// A user's name and password.
    #[serde(default)]
    pub basic: Option<BasicConfig>,
    /// How long one request may take, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// How events stand in a request, as the HTTP binding of CloudEvents 1.0 has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentMode {
    /// One in each request: `application/cloudevents+json`.
    #[default]
    Structured,
    /// Many in each request: `application/cloudevents-batch+json`.
    Batched,
}

impl SinkConfig for WebhookConfig {
    fn open(&self, surroundings: &Surroundings<'_>) -> Result<Arc<dyn RemoteSink>, SinkOpenError> {
        Ok(Arc::new(WebhookSink::open(self, surroundings)?))
    }

    fn private_files(&self) -> Vec<&Path> {
        self.http().private_files()
    }
}

impl WebhookConfig {
    pub(super) fn http(&self) -> HttpConfig<'_> {
        HttpConfig {
            url: &self.url,
            ca_file: self.ca_file.as_ref(),
            token: self.token.as_ref(),
            basic: self.basic.as_ref(),
            timeout_ms: self.timeout_ms,
        }
    }
}
