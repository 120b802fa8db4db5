//! What is known about one run.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::finding::{Finding, FindingKind, Place, RunKey, Severity};

/// Most items of one list of a run that are kept; all are counted.
pub const MAX_KEPT: usize = 256;
/// Longest text that is kept whole, in bytes; of a longer one the beginning is.
pub const MAX_TEXT_BYTES: usize = 1024;
/// Most bytes of texts and items that are kept of one run.
pub const MAX_RUN_BYTES: usize = 1024 * 1024;
/// Bytes of those that lists of what a run used leave to what is said about the run itself: its
/// ids, its isolation, its command and its end. Each of these is said once and is short.
pub(super) const RESERVED_BYTES: usize = MAX_RUN_BYTES / 2;
/// Most texts of one list in what is said about the run itself.
pub(super) const MAX_TEXTS: usize = 64;

/// A list of which the first [`MAX_KEPT`] items are kept and all are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept<T> {
    /// The first ones.
    pub items: Vec<T>,
    /// How many there were.
    pub total: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            total: 0,
        }
    }
}

impl<T> Kept<T> {
    /// Whether every item is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.items.len() as u64 == self.total
    }
}

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
    #[serde(serialize_with = "place")]
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
    #[serde(serialize_with = "place")]
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

/// Where a decision about the network was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowLayer {
    /// Packets.
    Packet,
    /// The name a connection asks for.
    Name,
    /// A name query.
    Query,
}

/// One decision about the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// Where it was made.
    pub layer: FlowLayer,
    /// `allow` or `deny`.
    pub decision: String,
    /// Address or name.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u64>,
    /// Protocol.
    pub protocol: Option<String>,
    /// Why.
    pub reason_code: Option<String>,
    /// The rule, as the event names it.
    pub rule: Option<String>,
    /// Whether it is about a connection out of the cell that the document has to declare.
    pub needs_rule: bool,
    /// Where the event stands.
    #[serde(serialize_with = "place")]
    pub place: Place,
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
    #[serde(serialize_with = "place")]
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
    /// When.
    pub at: Option<Timestamp>,
    /// Where the event stands.
    #[serde(serialize_with = "place")]
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
}

/// What is known about one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    /// The run.
    #[serde(serialize_with = "key")]
    pub key: RunKey,
    /// Where its first event stands.
    #[serde(serialize_with = "place")]
    pub first: Place,
    /// `spec.id` of the document.
    pub spec_id: Option<String>,
    /// Session, a ULID.
    pub session: Option<String>,
    /// The tenant.
    pub tenant_id: Option<String>,
    /// `spec.correlation`.
    pub correlation: Option<CorrelationView>,
    /// `spec.placement`.
    pub placement: Option<PlacementView>,
    /// SHA-256 of the document, with `sha256:`.
    pub document_digest: Option<String>,
    /// SHA-256 of the document's bytes, bare hexadecimal.
    pub spec_hash: Option<String>,
    /// SHA-256 of the typed specification, with `sha256:`.
    pub typed_spec_hash: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// Role that a verified derivation token came from.
    pub derivation_role: Option<String>,
    /// Run that the derivation token is of.
    pub parent_run_id: Option<String>,
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: Option<u64>,
    /// How many egress rules the document declares, by the count alone.
    pub egress_rule_count: Option<u64>,
    /// How many secrets the document declares, by the count alone.
    pub secret_count: Option<u64>,
    /// The policy pack.
    pub policy_pack: Option<String>,
    /// How secrets reach the command.
    pub secret_delivery_mode: Option<String>,
    /// Whether `started` is there.
    pub started: Option<EventRef>,
    /// What the document declares; published logs do not say.
    pub declared: Option<Declared>,
    /// What a machine was booted from.
    pub machine_digests: MachineDigests,
    /// Isolation.
    pub posture: Option<PostureView>,
    /// The program, once it was executed.
    pub program: Option<String>,
    /// Whether its execution was seen.
    pub program_observed: Option<bool>,
    /// The command's end.
    pub command: Option<CommandView>,
    /// The command's code in the summary.
    pub summary_exit_code: Option<i64>,
    /// Identities that became secrets.
    pub identities: Kept<IdentityView>,
    /// Decisions about the network.
    pub flows: Kept<FlowView>,
    /// Addresses that declared names resolved to.
    pub resolved: Kept<(String, String)>,
    /// Artifacts.
    pub exports: Kept<ExportView>,
    /// What the command used.
    pub usage: Option<UsageView>,
    /// Limits that were hit.
    pub limits_hit: Vec<LimitView>,
    /// How it ended; `None` where it did not.
    pub end: Option<EndView>,
    /// Its steps in time.
    pub phases: Kept<Phase>,
    /// Its events.
    pub events: Kept<EventRef>,
    /// What was found about it.
    #[serde(serialize_with = "findings")]
    pub findings: Kept<Finding>,
    /// How many of the findings are errors.
    pub errors: u64,
    /// Bytes that may still be kept.
    #[serde(skip)]
    pub(super) left: usize,
    /// Whether something was not kept.
    pub cut: bool,
}

impl RunView {
    /// A run of which nothing is known yet.
    #[must_use]
    pub(super) fn new(key: RunKey, first: Place) -> Self {
        Self {
            key,
            first,
            spec_id: None,
            session: None,
            tenant_id: None,
            correlation: None,
            placement: None,
            document_digest: None,
            spec_hash: None,
            typed_spec_hash: None,
            backend: None,
            derivation_role: None,
            parent_run_id: None,
            ttl_seconds: None,
            egress_rule_count: None,
            secret_count: None,
            policy_pack: None,
            secret_delivery_mode: None,
            started: None,
            declared: None,
            machine_digests: MachineDigests::default(),
            posture: None,
            program: None,
            program_observed: None,
            command: None,
            summary_exit_code: None,
            identities: Kept::default(),
            flows: Kept::default(),
            resolved: Kept::default(),
            exports: Kept::default(),
            usage: None,
            limits_hit: Vec::new(),
            end: None,
            phases: Kept::default(),
            events: Kept::default(),
            findings: Kept::default(),
            errors: 0,
            left: MAX_RUN_BYTES,
            cut: false,
        }
    }

    /// Whether all is well with it, as far as its events say. A run without an end is not.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.errors == 0 && self.end.is_some()
    }

    /// When the cell was there, else the time of its first event.
    #[must_use]
    pub fn began(&self) -> Option<Timestamp> {
        self.started
            .as_ref()
            .and_then(|started| started.time)
            .or_else(|| self.events.items.iter().find_map(|event| event.time))
    }

    /// From its beginning to its end, in microseconds.
    #[must_use]
    pub fn lasted_micros(&self) -> Option<i64> {
        let end = self.end.as_ref()?.at?;
        Some(micros_between(self.began()?, end))
    }

    /// Whether a declared rule covers a decision about the network.
    #[must_use]
    pub fn covers(&self, rule: &EgressRule, flow: &FlowView) -> bool {
        super::grants::covers(self, rule, flow)
    }

    /// Adds a finding about it, to `findings` as well.
    pub fn find(
        &mut self,
        findings: &mut Vec<Finding>,
        place: &Place,
        kind: FindingKind,
        detail: impl Into<String>,
    ) {
        let finding = Finding {
            place: place.clone(),
            run: Some(self.key.clone()),
            kind,
            detail: detail.into(),
        };
        if kind.severity() == Severity::Error {
            self.errors += 1;
        }
        self.findings.total += 1;
        if self.findings.items.len() < MAX_KEPT {
            self.findings.items.push(finding.clone());
        }
        findings.push(finding);
    }

    /// A text, as far as it may be kept.
    pub(super) fn text(&mut self, text: &str) -> String {
        let room = MAX_TEXT_BYTES.min(self.left);
        let kept = if text.len() <= room {
            text
        } else {
            self.cut = true;
            cut_to(text, room)
        };
        self.left -= kept.len();
        kept.to_owned()
    }

    /// The first texts of a list, as far as they may be kept.
    pub(super) fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) -> Vec<String> {
        let mut kept = Vec::new();
        for text in texts {
            if kept.len() == MAX_TEXTS {
                self.cut = true;
                break;
            }
            kept.push(self.text(text));
        }
        kept
    }

    /// Makes something of texts that are cut, and not yet kept; its size in bytes.
    pub(super) fn weigh<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> (T, usize) {
        let left = std::mem::replace(&mut self.left, MAX_RUN_BYTES);
        let made = make(self);
        let size = MAX_RUN_BYTES - self.left + size_of::<T>();
        self.left = left;
        (made, size)
    }

    /// Whether a list may take so many bytes more; they are then taken.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) if left >= RESERVED_BYTES => {
                self.left = left;
                true
            }
            _ => {
                self.cut = true;
                false
            }
        }
    }
}

/// The beginning of a text, of at most so many bytes.
pub(super) fn cut_to(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// From one point in time to another, in microseconds.
#[must_use]
pub(super) fn micros_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_microsecond() - from.as_microsecond()
}

#[derive(Serialize)]
struct PlaceOut<'a> {
    file: std::borrow::Cow<'a, str>,
    line: u64,
}

impl<'a> From<&'a Place> for PlaceOut<'a> {
    fn from(place: &'a Place) -> Self {
        Self {
            file: place.file.to_string_lossy(),
            line: place.line,
        }
    }
}

fn place<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    PlaceOut::from(place).serialize(serializer)
}

fn key<S: Serializer>(key: &RunKey, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Out<'a> {
        cell_id: &'a str,
        run_id: &'a str,
    }
    let out = Out {
        cell_id: &key.cell_id,
        run_id: &key.run_id,
    };
    out.serialize(serializer)
}

fn findings<S: Serializer>(kept: &Kept<Finding>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Out<'a> {
        kind: &'static str,
        severity: &'static str,
        detail: &'a str,
        place: PlaceOut<'a>,
    }
    let items = kept
        .items
        .iter()
        .map(|finding| Out {
            kind: finding.kind.as_str(),
            severity: match finding.kind.severity() {
                Severity::Note => "note",
                Severity::Error => "error",
            },
            detail: &finding.detail,
            place: PlaceOut::from(&finding.place),
        })
        .collect();
    let out = Kept {
        items,
        total: kept.total,
    };
    out.serialize(serializer)
}
