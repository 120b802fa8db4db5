//! The authorization policy: who may run cells, where, and under which packs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    CellosError, ExecutionCellSpec,
    document::API_VERSION,
    strict_json::{self, StrictJsonError},
};

/// The `kind` of an authorization policy.
const KIND_AUTHORIZATION_POLICY: &str = "AuthorizationPolicy";

/// Who may run cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicyDocument {
    /// Exactly `cellos.io/v1`.
    pub api_version: String,
    /// Exactly `AuthorizationPolicy`.
    pub kind: String,
    /// The policy itself.
    pub spec: AuthorizationPolicySpec,
}

/// The policy itself. Texts compare exactly; there are no patterns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Subjects that may run cells; at least one.
    pub subjects: Vec<String>,
    /// Pools that cells may name; any, and none at all, when empty.
    #[serde(default)]
    pub allowed_pools: Vec<String>,
    /// Policy packs that cells may name; any, and none at all, when empty.
    #[serde(default)]
    pub allowed_policy_packs: Vec<String>,
    /// Most cells per hour. Part of the format, and refused: a process that runs one cell and ends
    /// cannot count those of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cells_per_hour: Option<u32>,
}

/// Why an authorization policy was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizationPolicyError {
    /// The text is no authorization policy.
    #[error("authorization policy is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// `apiVersion` is another.
    #[error("authorization policy: apiVersion must be {API_VERSION}, found {found:?}")]
    ApiVersion {
        /// What it is.
        found: String,
    },
    /// `kind` is another.
    #[error("authorization policy: kind must be {KIND_AUTHORIZATION_POLICY}, found {found:?}")]
    Kind {
        /// What it is.
        found: String,
    },
    /// There is no subject.
    #[error("authorization policy: spec.subjects must name at least one subject")]
    NoSubjects,
    /// An entry is blank.
    #[error("authorization policy: spec.{field}[{index}] must not be blank")]
    Blank {
        /// The list.
        field: &'static str,
        /// Position, from 0.
        index: usize,
    },
    /// A rate of zero.
    #[error("authorization policy: spec.maxCellsPerHour must be greater than 0")]
    ZeroRate,
    /// A rate that nobody would enforce.
    #[error(
        "authorization policy: spec.maxCellsPerHour is {rate}, and cannot be enforced here: each \
         run is a process of its own that does not see the others; remove the field, and limit the \
         rate where cells are requested"
    )]
    RateNotEnforceable {
        /// The rate.
        rate: u32,
    },
}

impl From<AuthorizationPolicyError> for CellosError {
    fn from(error: AuthorizationPolicyError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

/// Why a document is not authorized, as written into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationReason {
    /// The tenant is absent or no subject.
    SubjectNotAuthorized,
    /// The pool is absent or not listed.
    PoolNotAllowed,
    /// The policy pack is absent or not listed.
    PolicyPackNotAllowed,
    /// Too many cells. No policy that could lead here is loaded by a process that cannot count.
    RateLimitExceeded,
}

impl AuthorizationReason {
    /// The name in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubjectNotAuthorized => "subject_not_authorized",
            Self::PoolNotAllowed => "pool_not_allowed",
            Self::PolicyPackNotAllowed => "policy_pack_not_allowed",
            Self::RateLimitExceeded => "rate_limit_exceeded",
        }
    }
}

/// A document that is not authorized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .reason.as_str())]
pub struct AuthorizationRejection {
    /// Why.
    pub reason: AuthorizationReason,
    /// In words.
    pub message: String,
    /// The subject, where the document names one.
    pub subject: Option<String>,
    /// The pool, where it is the reason and the document names one.
    pub denied_pool_id: Option<String>,
    /// The policy pack, where it is the reason and the document names one.
    pub denied_policy_pack_id: Option<String>,
}

/// Reads an authorization policy and checks it.
///
/// # Errors
/// [`AuthorizationPolicyError`].
pub fn parse_authorization_policy(
    text: &[u8],
) -> Result<AuthorizationPolicyDocument, AuthorizationPolicyError> {
    let policy: AuthorizationPolicyDocument = strict_json::from_slice(text)?;
    validate_authorization_policy(&policy)?;
    Ok(policy)
}

/// Checks an authorization policy.
///
/// # Errors
/// [`AuthorizationPolicyError`], also for a rule that nobody here would enforce.
pub fn validate_authorization_policy(
    policy: &AuthorizationPolicyDocument,
) -> Result<(), AuthorizationPolicyError> {
    if policy.api_version != API_VERSION {
        return Err(AuthorizationPolicyError::ApiVersion {
            found: policy.api_version.clone(),
        });
    }
    if policy.kind != KIND_AUTHORIZATION_POLICY {
        return Err(AuthorizationPolicyError::Kind {
            found: policy.kind.clone(),
        });
    }
    let spec = &policy.spec;
    if spec.subjects.is_empty() {
        return Err(AuthorizationPolicyError::NoSubjects);
    }
    let lists = [
        ("subjects", &spec.subjects),
        ("allowedPools", &spec.allowed_pools),
        ("allowedPolicyPacks", &spec.allowed_policy_packs),
    ];
    for (field, entries) in lists {
        if let Some(index) = entries.iter().position(|entry| entry.trim().is_empty()) {
            return Err(AuthorizationPolicyError::Blank { field, index });
        }
    }
    match spec.max_cells_per_hour {
        None => Ok(()),
        Some(0) => Err(AuthorizationPolicyError::ZeroRate),
        Some(rate) => Err(AuthorizationPolicyError::RateNotEnforceable { rate }),
    }
}

/// Evaluates the policy on a document: subject, then pool, then pack; the first that fails decides.
///
/// The subject is the document's `correlation.tenantId`. Whoever runs this for other people has to
/// make sure that the tenant is the authenticated caller's before.
///
/// # Errors
/// [`AuthorizationRejection`].
pub fn evaluate_authorization(
    policy: &AuthorizationPolicySpec,
    spec: &ExecutionCellSpec,
) -> Result<(), AuthorizationRejection> {
    let subject = spec
        .correlation
        .as_ref()
        .and_then(|origin| origin.tenant_id.clone());
    let pool = spec
        .placement
        .as_ref()
        .and_then(|placement| placement.pool_id.clone());
    let pack = spec
        .policy
        .as_ref()
        .and_then(|policy| policy.pack_id.clone());
    let rejection = |reason, message| AuthorizationRejection {
        reason,
        message,
        subject: subject.clone(),
        denied_pool_id: None,
        denied_policy_pack_id: None,
    };
    if !lists(&policy.subjects, subject.as_deref()) {
        let message = denial("spec.correlation.tenantId", subject.as_deref());
        return Err(rejection(
            AuthorizationReason::SubjectNotAuthorized,
            message,
        ));
    }
    if !policy.allowed_pools.is_empty() && !lists(&policy.allowed_pools, pool.as_deref()) {
        let message = denial("spec.placement.poolId", pool.as_deref());
        return Err(AuthorizationRejection {
            denied_pool_id: pool,
            ..rejection(AuthorizationReason::PoolNotAllowed, message)
        });
    }
    if !policy.allowed_policy_packs.is_empty()
        && !lists(&policy.allowed_policy_packs, pack.as_deref())
    {
        let message = denial("spec.policy.packId", pack.as_deref());
        return Err(AuthorizationRejection {
            denied_policy_pack_id: pack,
            ..rejection(AuthorizationReason::PolicyPackNotAllowed, message)
        });
    }
    Ok(())
}

fn lists(entries: &[String], value: Option<&str>) -> bool {
    value.is_some_and(|value| entries.iter().any(|entry| entry == value))
}

fn denial(field: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{field} {value:?} is not in the authorization policy"),
        None => format!("{field} is absent, and the authorization policy lists what it may be"),
    }
}
