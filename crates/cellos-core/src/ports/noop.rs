//! Ports that do nothing, or refuse.

use async_trait::async_trait;

use super::{
    EventSink, ExportArtifactMetadata, ExportReceipt, ExportSink, InferenceBroker,
    InferenceRequest, InferenceResponse, SecretBroker, SecretView,
};
use crate::{CellosError, CloudEventV1};

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopEventSink;

#[async_trait]
impl EventSink for NoopEventSink {
    async fn emit(&self, _event: &CloudEventV1) -> Result<(), CellosError> {
        Ok(())
    }
}

/// Refuses every artifact.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopExportSink;

#[async_trait]
impl ExportSink for NoopExportSink {
    async fn push(
        &self,
        name: &str,
        _path: &str,
        _metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError> {
        Err(CellosError::ExportSink(format!(
            "no export sink is configured for artifact {name:?}"
        )))
    }
}

/// Has no secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopSecretBroker;

#[async_trait]
impl SecretBroker for NoopSecretBroker {
    async fn resolve(
        &self,
        key: &str,
        _cell_id: &str,
        _ttl_seconds: u64,
    ) -> Result<SecretView, CellosError> {
        Err(CellosError::SecretBroker(format!(
            "no secret broker is configured for {key:?}"
        )))
    }

    async fn revoke_for_cell(&self, _cell_id: &str) -> Result<(), CellosError> {
        Ok(())
    }
}

/// Answers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopInferenceBroker;

#[async_trait]
impl InferenceBroker for NoopInferenceBroker {
    async fn infer(&self, _request: &InferenceRequest) -> Result<InferenceResponse, CellosError> {
        Ok(InferenceResponse {
            model: "noop".into(),
            ..InferenceResponse::default()
        })
    }
}
