//! What is known about one run.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::network::{FlowView, NetworkTotals};
use super::parts::{
    AdmissionView, CommandView, CorrelationView, Declared, EgressRule, EndView, EventRef,
    ExportView, IdentityView, LimitView, MachineDigests, Phase, PlacementView, PostureView,
    UsageView,
};
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
    /// What was decided about the document; published logs of runs do not say.
    pub admission: Option<AdmissionView>,
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
    /// Their sums.
    pub network: NetworkTotals,
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
            admission: None,
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
            network: NetworkTotals::default(),
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
pub(crate) fn cut_to(text: &str, bytes: usize) -> &str {
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

pub(super) fn place<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
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
