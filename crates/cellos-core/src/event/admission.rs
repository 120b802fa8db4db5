//! Payloads about documents that were turned away before there was a cell.

use serde::{Deserialize, Serialize};

use super::{EventData, EventKind, Scope};

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
