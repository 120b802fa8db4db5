//! `spec.correlation`, `spec.placement` and `spec.policy`: where a cell comes from and belongs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::{KUBERNETES_NAMESPACE, PORTABLE_ID, TENANT_ID};

/// Where the request for a cell came from. Copied into every event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Correlation {
    /// The system that asked, for example a CI service.
    pub platform: Option<String>,
    /// Its name for the run.
    pub external_run_id: Option<String>,
    /// Its name for the job.
    pub external_job_id: Option<String>,
    /// The tenant; 1 to 64 visible characters without `.`, `*`, `>` and white space.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TENANT_ID))]
    pub tenant_id: Option<String>,
    /// Free labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// A trace or correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// Where a cell may run; at least one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementSpec {
    /// A pool of hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub pool_id: Option<String>,
    /// A Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = KUBERNETES_NAMESPACE))]
    pub kubernetes_namespace: Option<String>,
    /// A queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PORTABLE_ID))]
    pub queue_name: Option<String>,
}

/// The policy pack a document was written against, as a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRef {
    /// Name of the pack.
    pub pack_id: Option<String>,
    /// Its version.
    pub pack_version: Option<String>,
    /// Digest of its bundle.
    pub bundle_digest: Option<String>,
}
