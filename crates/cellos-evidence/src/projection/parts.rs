//! The parts of what is known about one run.

use jiff::Timestamp;
use serde::Serialize;

use super::network::EgressView;
use crate::finding::Place;

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRef {
    /// Its id.
    pub id: String,
    /// Its type without `dev.cellos.events.`.
    #[serde(rename = "type")]
    pub ty: String,
    /// When it happened.
    pub time: Option<Timestamp>,
    /// Where it stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

/// A step of the run in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// What was reached.
    pub reached: &'static str,
    /// When.
    pub at: Timestamp,
    /// Since the step before, in microseconds.
    pub micros: i64,
}

/// `spec.correlation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CorrelationView {
    /// The platform that asked for the run.
    pub platform: Option<String>,
    /// Its run.
    pub external_run_id: Option<String>,
    /// Its job.
    pub external_job_id: Option<String>,
    /// What ties events of several systems together.
    pub correlation_id: Option<String>,
}

/// `spec.placement`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementView {
    /// The pool.
    pub pool_id: Option<String>,
    /// The namespace.
    pub kubernetes_namespace: Option<String>,
    /// The queue.
    pub queue_name: Option<String>,
}

/// Digests of what a machine was booted from, bare hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineDigests {
    /// The kernel.
    pub kernel: Option<String>,
    /// The root file system.
    pub rootfs: Option<String>,
    /// The initial RAM disk.
    pub initrd: Option<String>,
    /// The monitor.
    pub monitor: Option<String>,
}

/// What the document declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Declared {
    /// Connections.
    pub egress_rules: Vec<EgressRule>,
    /// Secrets.
    pub secret_refs: Vec<String>,
    /// Files and folders of the host.
    pub mounts: Vec<Mount>,
    /// Files that may leave the cell.
    pub artifacts: Vec<Artifact>,
    /// Where they may go.
    pub export_targets: Vec<String>,
    /// Limits.
    pub limits: Limits,
    /// `run.timeoutMs`.
    pub timeout_ms: Option<u64>,
    /// Whether everything that is declared is here.
    pub complete: bool,
}

/// One egress rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// Name, address or network.
    pub host: String,
    /// Port.
    pub port: u64,
    /// Protocol.
    pub protocol: Option<String>,
}

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// On the host.
    pub source: String,
    /// In the cell.
    pub target: String,
    /// Reading or writing.
    pub access: String,
}

/// One artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Its name.
    pub name: String,
    /// Its path in the cell.
    pub path: Option<String>,
    /// The target it goes to.
    pub target: Option<String>,
}

/// `run.limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Memory in bytes.
    pub memory_max_bytes: Option<u64>,
    /// CPU time per period, in microseconds.
    pub cpu_quota_micros: Option<u64>,
    /// Length of a period, in microseconds.
    pub cpu_period_micros: Option<u64>,
    /// Processes.
    pub pids_max: Option<u64>,
    /// Seconds between the polite request to end and the kill.
    pub graceful_shutdown_seconds: Option<u64>,
}

/// Isolation of the workload's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostureView {
    /// Whether the workload's own process was asked.
    pub observed: Option<bool>,
    /// Whether it has every capability.
    pub privileged: Option<bool>,
    /// Effective capabilities.
    pub cap_eff: Option<String>,
    /// Bounding set.
    pub cap_bnd: Option<String>,
    /// User id outside the cell.
    pub host_uid: Option<u64>,
    /// Kinds of namespaces that are not the host's.
    pub private_namespaces: Vec<String>,
    /// `NoNewPrivs`.
    pub no_new_privs: Option<bool>,
    /// Mode of seccomp; 2 is filter.
    pub seccomp_mode: Option<u64>,
    /// Number of seccomp filters.
    pub seccomp_filters: Option<u64>,
    /// ABI of Landlock, 0 for none.
    pub landlock_abi: Option<u64>,
    /// The virtual machine around it.
    pub machine: Option<MachineView>,
}

/// The virtual machine of a cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineView {
    /// The monitor.
    pub monitor: Option<String>,
    /// Its version.
    pub monitor_version: Option<String>,
    /// Who executes the guest.
    pub execution: Option<String>,
    /// Release of the guest's kernel.
    pub guest_kernel: Option<String>,
    /// Release of the guest's PID 1.
    pub guest_version: Option<String>,
    /// Virtual processors.
    pub vcpus: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Where the machine came from.
    pub origin: Option<String>,
    /// How its exit code is authenticated.
    pub exit_authentication: Option<String>,
}

/// The command of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandView {
    /// Program and arguments, as far as they were kept.
    pub argv: Vec<String>,
    /// Its code; -1 when it never ran or a deadline ended it.
    pub exit_code: Option<i64>,
    /// From start to end, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Why it never ran, or which deadline ended it.
    pub spawn_error: Option<String>,
    /// Who or what ended it.
    pub ended_by: Option<String>,
    /// Number of the signal that ended it.
    pub signal: Option<i64>,
}

/// One identity that became a secret of the cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityView {
    /// The secret.
    pub secret_ref: String,
    /// What kind.
    pub kind: Option<String>,
    /// Who gives it.
    pub provider: Option<String>,
    /// For whom.
    pub audience: Option<String>,
    /// What became of it.
    pub stage: IdentityStage,
    /// Where the event stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

/// What became of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityStage {
    /// It was given.
    Materialized,
    /// It was not given.
    MaterializeFailed,
    /// It was taken back.
    Revoked,
    /// It could not be taken back.
    RevokeFailed,
}

/// One artifact that left the cell, or did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportView {
    /// Its name.
    pub name: String,
    /// Kind of the target.
    pub target_kind: Option<String>,
    /// Name of the target.
    pub target_name: Option<String>,
    /// Where it went.
    pub destination: Option<String>,
    /// Its size.
    pub bytes_written: Option<u64>,
    /// Its SHA-256.
    pub sha256: Option<String>,
    /// Why it did not.
    pub failure: Option<String>,
    /// Where the event stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

/// What the command used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageView {
    /// From the first instruction to the end, in microseconds.
    pub wall_micros: Option<u64>,
    /// CPU time in user mode, in microseconds.
    pub cpu_user_micros: Option<u64>,
    /// CPU time in kernel mode, in microseconds.
    pub cpu_system_micros: Option<u64>,
    /// Highest memory use, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Largest resident set, in bytes.
    pub max_rss_bytes: Option<u64>,
    /// Processes killed for memory.
    pub oom_kills: Option<u64>,
    /// Most processes at once.
    pub pids_peak: Option<u64>,
    /// Bytes of standard output.
    pub stdout_bytes: Option<u64>,
    /// Bytes of standard error.
    pub stderr_bytes: Option<u64>,
}

/// A limit that was hit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    /// Which.
    pub kind: String,
    /// The limit.
    pub limit: Option<u64>,
    /// How often.
    pub times: Option<u64>,
}

/// The last event of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndView {
    /// What became of the cell.
    pub how: EndKind,
    /// `succeeded` or `failed`.
    pub outcome: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// The same in full.
    pub reason_detail: Option<String>,
    /// Errors after the first.
    pub later_errors: Vec<String>,
    /// Who or what ended the run.
    pub ended_by: Option<String>,
    /// The command's code.
    pub exit_code: Option<i64>,
    /// Number of the signal that ended the command.
    pub signal: Option<i64>,
    /// How the end of the workload is known.
    pub terminal_state: Option<String>,
    /// What kind of remains.
    pub residue_class: Option<String>,
    /// What was looked for; `None` where nobody looked.
    pub residue_looked_for: Option<Vec<String>>,
    /// What was found.
    pub residue_found: Vec<String>,
    /// What the cell did with its network; published logs do not say.
    pub egress: Option<EgressView>,
    /// When.
    pub at: Option<Timestamp>,
    /// Where the event stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

/// What was decided about a document before there was a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionView {
    /// Whether it may run.
    pub admitted: bool,
    /// Why, in a word of the contract.
    pub reason: Option<String>,
    /// All that is wrong with it.
    pub problems: Vec<String>,
    /// When.
    pub at: Option<Timestamp>,
    /// Where the event stands.
    #[serde(serialize_with = "super::view::place")]
    pub place: Place,
}

/// What became of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndKind {
    /// It was taken apart.
    Destroyed,
    /// It was never made.
    NotCreated,
    /// It was never asked for, because its document was refused.
    Refused,
}
