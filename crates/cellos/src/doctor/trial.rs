//! The proof of the pudding: a cell of the default backend, made and taken apart.

use cellos_core::{
    CellosError, ExecutionCellDocument, ExecutionCellSpec,
    document::{API_VERSION, AuthorityBundle, KIND_EXECUTION_CELL, Lifetime, RunSpec},
};

use crate::{
    compose::{self, BackendOptions},
    failure::Failure,
};

/// Life of the trial cell, in seconds: it is taken apart at once.
const TRIAL_TTL_SECONDS: u64 = 30;

#[derive(Debug, thiserror::Error)]
enum TrialError {
    #[error("it cannot be made")]
    Create(#[source] CellosError),
    #[error("it cannot be taken apart")]
    Destroy(#[source] CellosError),
}

/// Makes a cell and takes it apart. While this process has one thread.
pub(crate) fn trial_cell() -> Result<(), Failure> {
    let backend = compose::prepare(
        compose::DEFAULT_BACKEND,
        &BackendOptions::from_environment(),
    )?;
    crate::commands::run::block_on(async {
        let backend = backend.start()?;
        let cell = backend
            .create(&document())
            .await
            .map_err(|error| Failure::call(TrialError::Create(error)))?;
        backend
            .destroy(&cell)
            .await
            .map(drop)
            .map_err(|error| Failure::call(TrialError::Destroy(error)))
    })?
}

pub(super) fn document() -> ExecutionCellDocument {
    ExecutionCellDocument {
        api_version: API_VERSION.into(),
        kind: KIND_EXECUTION_CELL.into(),
        spec: ExecutionCellSpec {
            id: format!("doctor-{}", compose::fresh_run_id().to_ascii_lowercase()),
            correlation: None,
            ingress: None,
            environment: None,
            placement: None,
            policy: None,
            identity: None,
            run: Some(RunSpec {
                argv: vec!["true".into()],
                working_directory: None,
                timeout_ms: None,
                limits: None,
                secret_delivery: cellos_core::document::SecretDeliveryMode::default(),
                env: std::collections::BTreeMap::new(),
                user: None,
            }),
            authority: AuthorityBundle::default(),
            lifetime: Lifetime {
                ttl_seconds: TRIAL_TTL_SECONDS,
            },
            export: None,
            telemetry: None,
        },
    }
}
