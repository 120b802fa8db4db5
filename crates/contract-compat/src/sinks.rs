//! Event and export sinks, with and without the methods that have a default.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, CloudEventV1,
    ports::{
        EventSink, ExportArtifactMetadata, ExportReceipt, ExportReceiptTargetKind, ExportSink,
    },
};

/// Keeps ids of events. Only what has no default.
#[derive(Default)]
pub struct Ids(pub Mutex<Vec<String>>);

#[async_trait]
impl EventSink for Ids {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event.id.clone());
        Ok(())
    }
}

/// Counts events, and refuses to be flushed before the first.
#[derive(Default)]
pub struct Counter(pub AtomicUsize);

#[async_trait]
impl EventSink for Counter {
    async fn emit(&self, _event: &CloudEventV1) -> Result<(), CellosError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        match self.0.load(Ordering::SeqCst) {
            0 => Err(CellosError::EventSink("nothing to flush".to_string())),
            _ => Ok(()),
        }
    }
}

/// Accepts everything. Only what has no default.
pub struct Accepting;

#[async_trait]
impl ExportSink for Accepting {
    async fn push(
        &self,
        name: &str,
        path: &str,
        _metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError> {
        Ok(ExportReceipt {
            target_kind: ExportReceiptTargetKind::Local,
            target_name: None,
            destination: format!("{path}#{name}"),
            bytes_written: 0,
        })
    }
}

/// Every method.
pub struct Bucket;

#[async_trait]
impl ExportSink for Bucket {
    fn target_kind(&self) -> Option<ExportReceiptTargetKind> {
        Some(ExportReceiptTargetKind::S3)
    }

    fn destination_hint(&self, name: &str) -> Option<String> {
        Some(format!("s3://bucket/{name}"))
    }

    async fn push(
        &self,
        name: &str,
        _path: &str,
        metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError> {
        let Some(content_type) = &metadata.content_type else {
            return Err(CellosError::ExportSink(format!(
                "{name} has no content type"
            )));
        };
        Ok(ExportReceipt {
            target_kind: ExportReceiptTargetKind::S3,
            target_name: Some("bucket".to_string()),
            destination: format!("s3://bucket/{name}?{content_type}"),
            bytes_written: 3,
        })
    }
}
