//! What an OpenTelemetry sink is told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::OtlpSink;
use crate::remote::{
    RemoteSink, SinkConfig, SinkOpenError, Surroundings,
    credential::CredentialSource,
    http::{BasicConfig, HttpConfig},
};

/// A collector that takes logs over OTLP/HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OtlpConfig {
    /// Where logs are posted to; `/v1/logs` is appended to an address without a path.
    pub url: String,
    /// Attributes of the resource, besides `service.name`, which is `cellos` unless it is here.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
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

impl SinkConfig for OtlpConfig {
    fn open(&self, surroundings: &Surroundings<'_>) -> Result<Arc<dyn RemoteSink>, SinkOpenError> {
        Ok(Arc::new(OtlpSink::open(self, surroundings)?))
    }

    fn private_files(&self) -> Vec<&Path> {
        self.http(&self.url).private_files()
    }
}

impl OtlpConfig {
    pub(super) fn http<'a>(&'a self, url: &'a str) -> HttpConfig<'a> {
        HttpConfig {
            url,
            ca_file: self.ca_file.as_ref(),
            token: self.token.as_ref(),
            basic: self.basic.as_ref(),
            timeout_ms: self.timeout_ms,
        }
    }
}
