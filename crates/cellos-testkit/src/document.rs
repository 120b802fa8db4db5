//! The smallest document that is admitted.

use cellos_core::{
    ExecutionCellDocument, ExecutionCellSpec,
    document::{
        API_VERSION, AuthorityBundle, KIND_EXECUTION_CELL, Lifetime, RunSpec, SecretDeliveryMode,
    },
};

/// Seconds a test's cell may live: longer than any case of the contract runs.
const TTL_SECONDS: u64 = 300;

/// The smallest document that runs `argv`: no authority, no limits.
#[must_use]
pub fn minimal_document<A>(id: &str, argv: impl IntoIterator<Item = A>) -> ExecutionCellDocument
where
    A: Into<String>,
{
    ExecutionCellDocument {
        api_version: API_VERSION.into(),
        kind: KIND_EXECUTION_CELL.into(),
        spec: ExecutionCellSpec {
            id: id.into(),
            correlation: None,
            ingress: None,
            environment: None,
            placement: None,
            policy: None,
            identity: None,
            run: Some(RunSpec {
                argv: argv.into_iter().map(Into::into).collect(),
                working_directory: None,
                timeout_ms: None,
                limits: None,
                secret_delivery: SecretDeliveryMode::default(),
                env: Default::default(),
                user: None,
            }),
            authority: AuthorityBundle::default(),
            lifetime: Lifetime {
                ttl_seconds: TTL_SECONDS,
            },
            export: None,
            telemetry: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_id_and_command() {
        let document = minimal_document("a-cell", ["/bin/echo", "hi"]);
        assert_eq!(document.spec.id, "a-cell");
        assert_eq!(document.spec.run.unwrap().argv, ["/bin/echo", "hi"]);
    }
}
