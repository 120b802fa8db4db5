//! Payloads about documents that were turned away before there was a cell.

use serde::{Deserialize, Serialize};

use super::{EventData, EventKind, Scope};
use crate::authority::{AdmissionReason, EnforcementBinding};

/// What an admission was decided by, in the published words.
const CEILING_PREDICATE: &str = "ceiling.is_superset_of(spec.authority)";
/// The same where the document was compared with its backend; ours.
const BACKEND_PREDICATE: &str = "backend.enforces(spec)";

/// Why a document was admitted or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdmissionCode {
    /// By an authority ceiling, or for want of one.
    Ceiling(AdmissionReason),
    /// By its own rules and its backend.
    Backend(BackendVerdict),
}

/// How a document stands to its own rules and its backend; ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendVerdict {
    /// The backend enforces all that it asks for.
    AdmittedForBackend,
    /// It breaks a rule, or asks for what the backend does not enforce.
    DocumentRefused,
}

/// What computes signatures here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CryptoProvider {
    /// Its name: `dalek`.
    pub name: String,
    /// Whether it is a validated module in its validated mode.
    pub fips_mode: bool,
    /// Number of the module's certificate.
    pub module_cert: Option<String>,
}

impl Default for CryptoProvider {
    fn default() -> Self {
        Self {
            name: "dalek".into(),
            fips_mode: false,
            module_cert: None,
        }
    }
}

/// How a document was judged, before there was a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionFacts {
    /// Whether the cell may be made.
    pub admitted: bool,
    /// Why.
    pub reason: AdmissionCode,
    /// What was asked.
    pub predicate: String,
    /// SHA-256 of the document's bytes, bare hexadecimal.
    pub spec_hash: String,
    /// Who makes the admitted authority true.
    pub enforcement_binding: EnforcementBinding,
    /// What computes signatures here.
    pub provider_identity: CryptoProvider,
    /// Name of the backend; ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// All that is wrong with a refused document, for people; ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl AdmissionFacts {
    /// Judged by an authority ceiling, or for want of one.
    #[must_use]
    pub fn by_ceiling(
        admitted: bool,
        reason: AdmissionReason,
        enforcement_binding: EnforcementBinding,
        spec_hash: impl Into<String>,
    ) -> Self {
        Self {
            admitted,
            reason: AdmissionCode::Ceiling(reason),
            predicate: CEILING_PREDICATE.into(),
            spec_hash: spec_hash.into(),
            enforcement_binding,
            provider_identity: CryptoProvider::default(),
            backend: None,
            problems: Vec::new(),
        }
    }

    /// Judged by its own rules and this backend. Nothing is wrong with an admitted document.
    #[must_use]
    pub fn by_backend(
        backend: impl Into<String>,
        problems: Vec<String>,
        spec_hash: impl Into<String>,
    ) -> Self {
        let admitted = problems.is_empty();
        Self {
            admitted,
            reason: AdmissionCode::Backend(match admitted {
                true => BackendVerdict::AdmittedForBackend,
                false => BackendVerdict::DocumentRefused,
            }),
            predicate: BACKEND_PREDICATE.into(),
            spec_hash: spec_hash.into(),
            enforcement_binding: EnforcementBinding::DeclaredAudit,
            provider_identity: CryptoProvider::default(),
            backend: Some(backend.into()),
            problems,
        }
    }
}

/// Data of `admission.v1.allowed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdmissionAllowed(pub AdmissionFacts);

impl EventData for AdmissionAllowed {
    const KIND: EventKind = EventKind::AdmissionAllowed;
    const SCOPE: Scope = Scope::SpecAndRun;
}

/// Data of `admission.v1.rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdmissionRejected(pub AdmissionFacts);

impl EventData for AdmissionRejected {
    const KIND: EventKind = EventKind::AdmissionRejected;
    const SCOPE: Scope = Scope::SpecAndRun;
}

/// Data of `identity.v1.universal_token_accepted_in_permissive_mode`: a derivation token that names
/// no run was accepted, because the operator allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UniversalTokenAccepted {
    /// SHA-256 of the document's bytes, bare hexadecimal.
    pub spec_hash: Option<String>,
    /// Role the token was derived from.
    pub role_root: Option<String>,
    /// What was accepted.
    pub reason: String,
    /// What to do about it.
    pub remediation: String,
}

impl EventData for UniversalTokenAccepted {
    const KIND: EventKind = EventKind::UniversalTokenAccepted;
}

/// One rule of a policy pack that a document violates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyViolation {
    /// Name of the rule.
    pub rule: String,
    /// What is wrong.
    pub message: String,
}

/// Data of `policy.v1.rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRejected {
    /// How many rules are violated.
    pub violation_count: usize,
    /// The violated rules.
    pub violations: Vec<PolicyViolation>,
    /// The pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_pack_id: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_pack_version: Option<String>,
}

impl PolicyRejected {
    /// Rejected for these violations. The pack is named by the caller.
    #[must_use]
    pub fn new(violations: Vec<PolicyViolation>) -> Self {
        Self {
            violation_count: violations.len(),
            violations,
            policy_pack_id: None,
            policy_pack_version: None,
        }
    }
}

impl EventData for PolicyRejected {
    const KIND: EventKind = EventKind::PolicyRejected;
    const SCOPE: Scope = Scope::Spec;
}

/// Why an authorization policy rejected a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthzReason {
    /// The tenant is absent or not listed.
    SubjectNotAuthorized,
    /// The pool is not allowed for the tenant.
    PoolNotAllowed,
    /// The policy pack is not allowed for the tenant.
    PolicyPackNotAllowed,
    /// Too many cells in an hour.
    RateLimitExceeded,
}

/// Data of `authz.v1.rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthzRejected {
    /// Why.
    pub reason: AuthzReason,
    /// The same for people.
    pub message: String,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Whom the policy was asked about: the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The pool that is not allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_pool_id: Option<String>,
    /// The policy pack that is not allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_policy_pack_id: Option<String>,
}

impl EventData for AuthzRejected {
    const KIND: EventKind = EventKind::AuthzRejected;
    const SCOPE: Scope = Scope::Spec;
}
