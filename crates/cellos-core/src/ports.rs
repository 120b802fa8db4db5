//! The ports: what backends, event sinks, secret brokers, export sinks and inference brokers
//! implement.
//!
//! The traits and value types are those of the published contract, field for field, so code
//! written against it compiles here unchanged. What is ours comes as provided methods, or as
//! [`workload::WorkloadControl`], which a backend may also implement.

pub mod network;
pub mod noop;
mod values;
pub mod workload;

pub use noop::{NoopEventSink, NoopExportSink, NoopInferenceBroker, NoopSecretBroker};
pub use values::{
    CellHandle, ExportArtifactMetadata, ExportReceipt, ExportReceiptTargetKind, InferenceMessage,
    InferenceRequest, InferenceResponse, InferenceRole, RuntimeSecretLeaseRequest, SecretView,
    TeardownReport,
};

use async_trait::async_trait;

use crate::{
    CellosError, CloudEventV1, ExecutionCellDocument, descriptor::BackendDescriptor,
    ports::workload::WorkloadControl,
};

/// Maps a document to isolation that exists on this host.
#[async_trait]
pub trait CellBackend: Send + Sync {
    /// Builds the cell. The workload does not run yet where the backend has
    /// [`WorkloadControl`].
    ///
    /// # Errors
    /// [`CellosError::InvalidSpec`] for a document the backend cannot map,
    /// [`CellosError::Host`] when the host refuses; nothing is left behind in either case.
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError>;

    /// Takes the cell apart. Idempotent: a second call reports `destroyed: false` or an error,
    /// depending on the backend, and changes nothing.
    ///
    /// # Errors
    /// [`CellosError::Host`] when something of the cell could not be removed.
    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError>;

    /// Waits until the workload has ended, where the backend runs it.
    ///
    /// `None`: the backend runs nothing, and the supervisor launches `spec.run.argv` on the host.
    /// `Some(Ok(code))`: the workload ended. `Some(Err)`: the backend owns execution but lost
    /// sight of it before an exit code arrived.
    async fn wait_for_in_vm_exit(&self, cell_id: &str) -> Option<Result<i32, CellosError>> {
        let _ = cell_id;
        None
    }

    /// What the backend enforces on this host. A backend that does not say enforces nothing.
    fn descriptor(&self) -> BackendDescriptor {
        BackendDescriptor::nothing("unnamed", "a backend that does not say what it enforces")
    }

    /// Control over the workload, where the backend runs it.
    fn workload(&self) -> Option<&dyn WorkloadControl> {
        None
    }
}

/// Takes events.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Takes one event. When this returns, the event is where the sink keeps it.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when it could not be kept.
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError>;

    /// Takes events that belong together, in their order. A sink that can keeps all of them or
    /// none; by default they are taken one by one, up to the first that cannot be kept.
    ///
    /// # Errors
    /// As [`EventSink::emit`].
    async fn emit_all(&self, events: &[CloudEventV1]) -> Result<(), CellosError> {
        for event in events {
            self.emit(event).await?;
        }
        Ok(())
    }

    /// Returns when everything emitted so far is durable.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when that cannot be had.
    async fn flush(&self) -> Result<(), CellosError> {
        Ok(())
    }
}

/// Resolves secrets.
#[async_trait]
pub trait SecretBroker: Send + Sync {
    /// Resolves one secret.
    ///
    /// # Errors
    /// [`CellosError::SecretBroker`] when there is no such secret or it cannot be had.
    async fn resolve(
        &self,
        key: &str,
        cell_id: &str,
        ttl_seconds: u64,
    ) -> Result<SecretView, CellosError>;

    /// Revokes everything that was resolved for a cell. Idempotent.
    ///
    /// # Errors
    /// [`CellosError::SecretBroker`] when something stays valid.
    async fn revoke_for_cell(&self, cell_id: &str) -> Result<(), CellosError>;

    /// Prepares a lease for fetches while the workload runs.
    ///
    /// # Errors
    /// [`CellosError::SecretBroker`] where the broker has no leases, which is the default.
    async fn prepare_runtime_secret_lease(
        &self,
        cell_id: &str,
        requests: &[RuntimeSecretLeaseRequest],
    ) -> Result<(), CellosError> {
        let _ = (cell_id, requests);
        Err(CellosError::SecretBroker(
            "runtimeLeasedBroker is not supported by this secret broker".into(),
        ))
    }

    /// Fetches one secret while the workload runs; resolves it anew unless overridden.
    ///
    /// # Errors
    /// As [`SecretBroker::resolve`].
    async fn fetch_runtime_secret(
        &self,
        key: &str,
        cell_id: &str,
        ttl_seconds: u64,
    ) -> Result<SecretView, CellosError> {
        self.resolve(key, cell_id, ttl_seconds).await
    }

    /// The broker's own id for this exchange, where it has one.
    fn broker_correlation_id(&self) -> Option<String> {
        None
    }
}

/// Takes artifacts.
#[async_trait]
pub trait ExportSink: Send + Sync {
    /// The kind of target, as written into receipts.
    fn target_kind(&self) -> Option<ExportReceiptTargetKind> {
        None
    }

    /// Where an artifact of this name would go, for messages.
    fn destination_hint(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// Stores the file at `path` under `name`.
    ///
    /// # Errors
    /// [`CellosError::ExportSink`] when it could not be stored whole.
    async fn push(
        &self,
        name: &str,
        path: &str,
        metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError>;

    /// [`push`](ExportSink::push), and the SHA-256 of the bytes that were stored, in bare
    /// hexadecimal, where the sink computes it while it stores them.
    ///
    /// # Errors
    /// As [`ExportSink::push`].
    async fn push_measured(
        &self,
        name: &str,
        path: &str,
        metadata: &ExportArtifactMetadata,
    ) -> Result<(ExportReceipt, Option<String>), CellosError> {
        let receipt = self.push(name, path, metadata).await?;
        Ok((receipt, None))
    }
}

/// Answers inference requests.
#[async_trait]
pub trait InferenceBroker: Send + Sync {
    /// Answers one request.
    ///
    /// # Errors
    /// [`CellosError::InferenceBroker`] when no answer could be had.
    async fn infer(&self, request: &InferenceRequest) -> Result<InferenceResponse, CellosError>;
}
