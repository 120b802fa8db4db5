//! The admission rules: what a document has to keep to before anything is done with it.
//!
//! One module per block of the document, run in the published order. All rules are pure: they look at
//! the document alone.

mod authority;
mod backend;
mod derivation;
mod dns;
mod environment;
mod export;
mod filesystem;
mod grammar;
mod host;
mod identity;
mod labels;
mod redact;
mod report;
mod resolver;
mod run;
mod telemetry;
#[cfg(test)]
mod testing;

pub use authority::MAX_EGRESS_PORTS;
pub use backend::{Requirement, check_backend, requirements};
pub use filesystem::{MAX_MOUNTS, MAX_PATH_BYTES};
pub use grammar::{
    MAX_CGROUP_LEAF_CHARS, MAX_DNS_LABEL_BYTES, MAX_DNS_NAME_BYTES, MAX_PORTABLE_ID_BYTES,
    is_agent_version, is_dns_label, is_fqdn_or_wildcard, is_kubernetes_namespace, is_portable_id,
    is_sha256_ref, matches_allowlist, matches_host_pattern, sanitize_cgroup_leaf_segment,
};
pub use host::{CidrBlock, EgressHost, EgressHostError, EgressProtocol};
pub use labels::MAX_TENANT_ID_CHARS;
pub use redact::{redact_url_credentials_for_logs, redact_url_if_echoed_in_text};
pub(crate) use report::shown;
pub use resolver::{MAX_ENDPOINT_BYTES, MAX_RESOLVERS, ResolverEndpoint, ResolverEndpointError};
pub use run::{
    CPU_PERIOD_MICROS, MAX_ARGV_ENCODED_BYTES, MAX_CPU_QUOTA_MICROS, MAX_ENV_BYTES,
    MAX_GRACEFUL_SHUTDOWN_SECONDS, MAX_PIDS, MAX_USER_ID, MIN_CPU_QUOTA_MICROS, MIN_MEMORY_BYTES,
    argv_encoded_bytes,
};

use crate::{
    CellosError,
    document::{API_VERSION, ExecutionCellDocument, KIND_EXECUTION_CELL},
    source::{Problem, ProblemCode, Problems},
};
use report::Report;

/// A document that keeps every rule. There is no other way to one than [`admit`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdmittedDocument(ExecutionCellDocument);

impl AdmittedDocument {
    /// The document.
    #[must_use]
    pub fn document(&self) -> &ExecutionCellDocument {
        &self.0
    }

    /// The document, no longer known to be admitted.
    #[must_use]
    pub fn into_document(self) -> ExecutionCellDocument {
        self.0
    }
}

/// Admits a document.
///
/// # Errors
///
/// Everything that [`check`] finds.
pub fn admit(document: ExecutionCellDocument) -> Result<AdmittedDocument, Problems> {
    Problems::none_of(check(&document))?;
    Ok(AdmittedDocument(document))
}

/// Everything in a document that breaks a rule, in the published order of the rules.
#[must_use]
pub fn check(document: &ExecutionCellDocument) -> Vec<Problem> {
    let mut report = Report::default();
    let spec = &document.spec;
    envelope(document, &mut report);
    labels::check_correlation(spec, &mut report);
    authority::check_secret_refs(&spec.authority, &mut report);
    identity::check(spec, &mut report);
    environment::check_environment(spec, &mut report);
    labels::check_placement(spec, &mut report);
    environment::check_ingress(spec, &mut report);
    run::check(spec, &mut report);
    authority::check(&spec.authority, &mut report);
    dns::check(&spec.authority, &mut report);
    derivation::check(&spec.authority, &mut report);
    export::check(spec, &mut report);
    telemetry::check(spec, &mut report);
    report.problems
}

/// Checks a document and gives the first violation, in the published order.
///
/// # Errors
///
/// [`CellosError::ArgvTooLarge`] for an oversized `run.argv`, [`CellosError::InvalidSpec`] for
/// everything else; its text names the field by its path.
pub fn validate_execution_cell_document(
    document: &ExecutionCellDocument,
) -> Result<(), CellosError> {
    let Some(first) = check(document).into_iter().next() else {
        return Ok(());
    };
    if let (ProblemCode::ArgvTooLarge, Some(run)) = (first.code, &document.spec.run) {
        return Err(CellosError::ArgvTooLarge {
            encoded_bytes: argv_encoded_bytes(&run.argv),
            limit_bytes: MAX_ARGV_ENCODED_BYTES,
        });
    }
    // Consumers search for these texts.
    let prefix = match first.code {
        ProblemCode::IdentityFieldIrrelevantForKind => "identity_field_irrelevant_for_kind: ",
        ProblemCode::TelemetryWithoutEgress => "telemetry_without_egress: ",
        _ => "",
    };
    Err(CellosError::InvalidSpec(format!("{prefix}{first}")))
}

fn envelope(document: &ExecutionCellDocument, report: &mut Report) {
    for (path, found, expected) in [
        ("apiVersion", &document.api_version, API_VERSION),
        ("kind", &document.kind, KIND_EXECUTION_CELL),
    ] {
        if found != expected {
            let message = format!("is `{}`, this version reads `{expected}`", shown(found));
            report.refuse(ProblemCode::UnsupportedDocument, path, message);
        }
    }
    portable_id("spec.id", &document.spec.id, report);
}

/// Refuses what is no portable id.
fn portable_id(path: &str, text: &str, report: &mut Report) {
    if !is_portable_id(text) {
        report.refuse_with(
            ProblemCode::InvalidName,
            path,
            format!("`{}` is not a portable id", shown(text)),
            grammar::PORTABLE_ID_RULE,
        );
    }
}

/// Refuses a secret reference that is not listed in `authority.secretRefs`.
fn declared_secret(path: &str, name: &str, declared: Option<&Vec<String>>, report: &mut Report) {
    if !declared.is_some_and(|names| names.iter().any(|declared| declared == name)) {
        report.refuse_with(
            ProblemCode::SecretNotDeclared,
            path,
            format!(
                "secret `{}` is not listed in spec.authority.secretRefs",
                shown(name)
            ),
            "list it there, so that all secrets of a cell stand in one place",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};
    use serde_json::json;

    #[test]
    fn envelope_is_exact() {
        let mut document = document(json!({}));
        document.api_version = "cellos.io/v2".into();
        document.kind = "executioncell".into();
        document.spec.id = "a/b".into();
        let found: Vec<_> = check(&document)
            .into_iter()
            .map(|problem| problem.path)
            .collect();
        assert_eq!(found, ["apiVersion", "kind", "spec.id"]);
    }

    #[test]
    fn the_first_violation_carries_the_published_texts() {
        for (spec, texts) in [
            (
                json!({"run": {"argv": ["a", "b\u{0}"]}}),
                &["NUL byte", "argv[1]"][..],
            ),
            (
                json!({"run": {"argv": ["a"], "timeoutMs": 60001}}),
                &["timeoutMs", "ttlSeconds"],
            ),
            (
                json!({"placement": {"poolId": "a/b"}}),
                &["spec.placement.poolId"],
            ),
            (
                json!({"environment": {"imageReference": "a", "imageDigest": "x"}}),
                &["imageDigest"],
            ),
            (
                json!({"environment": {"imageReference": "a", "templateId": "x/"}}),
                &["templateId"],
            ),
            (
                json!({"correlation": {"tenantId": "a.b"}}),
                &["NATS-reserved char"],
            ),
            (
                json!({"telemetry": {"channel": "vsock-cbor", "events": [], "agentVersion": "1.0.0"}}),
                &["spec.telemetry.events"],
            ),
            (
                json!({"telemetry": {"channel": "vsock-cbor", "events": ["a"], "agentVersion": "1"}}),
                &["agentVersion"],
            ),
            (
                json!({"telemetry": {"channel": "vsock-cbor", "events": [" NET.x"], "agentVersion": "1.0.0"}}),
                &["telemetry_without_egress"],
            ),
            (
                json!({"authority": {"dnsAuthority": {"refreshPolicy": {"minTtlSeconds": 2, "maxStaleSeconds": 1}}}}),
                &["minTtlSeconds", "maxStaleSeconds"],
            ),
            (
                json!({"authority": {"dnsAuthority": {"hostnameAllowlist": ["localhost"]}}}),
                &["authority.dnsAuthority.hostnameAllowlist"],
            ),
            (
                json!({"authority": {"cdnAuthority": {"providers": [
                    {"providerId": "a", "hostnamePattern": "a.b"}, {"providerId": "a", "hostnamePattern": "a.b"}]}}}),
                &["duplicates value"],
            ),
            (
                json!({"authority": {"secretRefs": ["S"]}, "identity": {"kind": {"awsAssumeRole": {"role_arn": "a"}},
                    "provider": "x", "audience": "", "secretRef": "S"}}),
                &["identity_field_irrelevant_for_kind"],
            ),
        ] {
            let error = validate_execution_cell_document(&document(spec.clone())).unwrap_err();
            let CellosError::InvalidSpec(message) = &error else {
                panic!("{error}")
            };
            for text in texts {
                assert!(message.contains(text), "{spec}: {message}");
            }
        }
    }

    #[test]
    fn oversized_argv_has_an_error_of_its_own_only_when_it_is_the_first() {
        let long = "a".repeat(2301);
        let error = validate_execution_cell_document(&document(json!({"run": {"argv": [long]}})));
        assert_eq!(
            error,
            Err(CellosError::ArgvTooLarge {
                encoded_bytes: 3076,
                limit_bytes: 3072
            })
        );
        let error =
            validate_execution_cell_document(&document(json!({"id": "", "run": {"argv": [long]}})));
        assert!(matches!(error, Err(CellosError::InvalidSpec(_))));
    }

    #[test]
    fn the_smallest_document_is_admitted() {
        assert!(admit(document(json!({}))).is_ok());
    }
}
