//! `spec.identity`: a cloud identity for the workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::PORTABLE_ID;

/// A cloud identity to obtain for the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadIdentity {
    /// What kind of identity.
    pub kind: WorkloadIdentityKind,
    /// Token provider; empty for cloud kinds.
    pub provider: String,
    /// Token audience; empty for cloud kinds.
    pub audience: String,
    /// Token subject; absent or empty for cloud kinds.
    pub subject: Option<String>,
    /// Life of the credential in seconds; at most the cell's.
    #[schemars(range(min = 1))]
    pub ttl_seconds: Option<u64>,
    /// Secret name the credential is known by; listed in `authority.secretRefs`.
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub secret_ref: String,
}

/// The kinds of identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WorkloadIdentityKind {
    /// A federated OpenID Connect token.
    FederatedOidc,
    /// AWS `AssumeRole`. Field names are snake case in the published contract.
    #[serde(rename_all = "snake_case")]
    AwsAssumeRole {
        /// The role's ARN.
        #[serde(alias = "roleArn")]
        #[schemars(length(min = 1))]
        role_arn: String,
        /// A session policy, JSON text.
        #[serde(alias = "stsSessionPolicy", skip_serializing_if = "Option::is_none")]
        sts_session_policy: Option<String>,
    },
    /// An Azure managed identity.
    #[serde(rename_all = "snake_case")]
    AzureManagedIdentity {
        /// The identity's resource id.
        #[serde(alias = "resourceId")]
        #[schemars(length(min = 1))]
        resource_id: String,
    },
}
