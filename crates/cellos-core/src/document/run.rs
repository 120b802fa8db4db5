//! `spec.run` and `spec.lifetime`: the command, its limits and its end.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::ABSOLUTE_PATH;

/// The command and how it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunSpec {
    /// Program and arguments: at least one, none empty, none with a NUL byte. A program without a
    /// slash is looked up in the cell's `PATH`.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub argv: Vec<String>,
    /// The folder the command starts in, an absolute path inside the cell. Where the cell has no
    /// such folder it becomes the cell's writable working folder. `/work` when absent.
    #[schemars(regex(pattern = ABSOLUTE_PATH))]
    pub working_directory: Option<String>,
    /// Longest run of the command, in milliseconds; at most the cell's lifetime.
    #[schemars(range(min = 1))]
    pub timeout_ms: Option<u64>,
    /// Resource limits.
    pub limits: Option<RunLimits>,
    /// How declared secrets reach the workload.
    #[serde(default)]
    pub secret_delivery: SecretDeliveryMode,
    /// Plain environment variables of the workload; nothing else is inherited. Not for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The user and group the workload sees itself as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunUser>,
}

/// Resource limits of the whole cell, enforced by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunLimits {
    /// Memory in bytes, swap included; greater than 0.
    #[schemars(range(min = 1_048_576))]
    pub memory_max_bytes: Option<u64>,
    /// CPU bandwidth.
    pub cpu_max: Option<RunCpuMax>,
    /// Seconds between the polite request to end and the kill; 0 to 120, 5 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 120))]
    pub graceful_shutdown_seconds: Option<u64>,
    /// Most processes and threads at once; greater than 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub pids_max: Option<u64>,
}

/// CPU bandwidth as `cpu.max` of cgroup v2: `quota` microseconds of CPU time in each `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunCpuMax {
    /// CPU time per period, in microseconds; at least 1000, which is the kernel's own bound.
    #[schemars(range(min = 1000))]
    pub quota_micros: u64,
    /// Length of a period, in microseconds; 1000 to 1000000, 100000 when absent.
    #[schemars(range(min = 1000, max = 1_000_000))]
    pub period_micros: Option<u64>,
}

/// The identity a workload has inside its cell. Outside it is always an unprivileged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunUser {
    /// User id, 0 to 65533.
    #[schemars(range(max = 65533))]
    pub uid: u32,
    /// Group id, 0 to 65533.
    #[schemars(range(max = 65533))]
    pub gid: u32,
}

/// How declared secrets reach the workload.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum SecretDeliveryMode {
    /// Values in the workload's environment.
    Env,
    /// Fetched over a socket inside the cell, resolved anew at each fetch.
    RuntimeBroker,
    /// The same socket, behind a lease that is prepared before the workload starts and revoked at
    /// teardown.
    #[default]
    RuntimeLeasedBroker,
}

/// How long a cell may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifetime {
    /// Seconds from the cell's creation to its end; greater than 0.
    #[schemars(range(min = 1))]
    pub ttl_seconds: u64,
}
