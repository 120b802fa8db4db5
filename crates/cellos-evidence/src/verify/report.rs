//! What a check reports: findings as they come, verdicts of runs, and a summary.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use crate::{
    finding::{Finding, FindingKind, Severity},
    line::LineHash,
    projection::RunView,
};

/// Most findings of one kind that are reported one by one; of the rest only the number is kept.
pub const MAX_FINDINGS_PER_KIND: u64 = 100;

/// Whoever wants to know what a check finds while it goes on.
pub trait Observer {
    /// Something was found. At most [`MAX_FINDINGS_PER_KIND`] of each kind come.
    fn finding(&mut self, finding: &Finding);
    /// A run has ended, or the log has.
    fn verdict(&mut self, verdict: &Verdict);
    /// So many bytes have been read.
    fn progress(&mut self, bytes: u64);
}

/// An observer that only wants the summary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn finding(&mut self, _: &Finding) {}
    fn verdict(&mut self, _: &Verdict) {}
    fn progress(&mut self, _: u64) {}
}

/// What a check says about one run.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The run.
    pub run: RunView,
    /// What was found about it, by kind. A finding about an event after its end comes later.
    pub findings: BTreeMap<FindingKind, u64>,
    /// Whether the lines that tell of it can be believed.
    pub lines: Lines,
}

/// Whether the lines of a run can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Nothing is wrong with any of them, and none is missing between them.
    Intact,
    /// One was changed, is not signed as it should be, or lines are missing between the first and
    /// the last of them.
    Broken,
}

impl Verdict {
    /// Whether all is well with the run.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lines == Lines::Intact
            && self.run.errors == 0
            && self
                .findings
                .keys()
                .all(|kind| kind.severity() < Severity::Error)
    }
}

/// The form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Chained lines of this program.
    Chained,
    /// One CloudEvent a line, wrapped in signed envelopes or not.
    Events,
    /// Rows of the published chain, `axiom.audit.v1`.
    AuditChain,
    /// Rows of that chain in one document.
    AuditBundle,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chained => "chained log",
            Self::Events => "plain or wrapped events",
            Self::AuditChain => "axiom.audit.v1 chain",
            Self::AuditBundle => "axiom.audit.v1 bundle",
        })
    }
}

/// Something that a check did not look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unchecked {
    /// There are signatures and no keys.
    Signatures,
    /// Nothing is signed, so whoever can write the files can write them anew.
    NotSigned,
    /// Nothing says where the log ended, so lines may have been cut off.
    End,
    /// No signature covers the order of the lines, so some may be missing.
    Order,
    /// Earlier segments were removed; a seal vouches for them.
    Pruned,
}

impl Unchecked {
    /// The code as it stands in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signatures => "signatures",
            Self::NotSigned => "not_signed",
            Self::End => "end",
            Self::Order => "order",
            Self::Pruned => "pruned",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Signatures => "signatures: no keys were given",
            Self::NotSigned => {
                "authorship: lines without signatures can be written anew by whoever can write the file"
            }
            Self::End => {
                "the end: nothing states where the log ended, so a cut-off tail would go unnoticed"
            }
            Self::Order => {
                "completeness: no signature covers the order of these lines, so some may be missing"
            }
            Self::Pruned => "earlier segments: they were removed, and a seal vouches for them",
        }
    }
}

/// What a check comes to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The files, in order, with the form of each.
    pub files: Vec<(PathBuf, LogFormat)>,
    /// Bytes read.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Events taken in.
    pub events: u64,
    /// Id of the log, of a chained one.
    pub log_id: Option<String>,
    /// Number of the first line, of a chain.
    pub first_seq: Option<u64>,
    /// Number of the last line, of a chain.
    pub last_seq: Option<u64>,
    /// Hash of the last line, 64 hexadecimal digits, of a chain: what is published as the head.
    pub head: Option<String>,
    /// Good signatures by key id.
    pub keys: BTreeMap<String, u64>,
    /// Lines that no signature speaks for.
    pub unsigned_lines: u64,
    /// Findings by kind, all of them.
    pub counts: BTreeMap<FindingKind, u64>,
    /// Runs with which all is well.
    pub runs_well: u64,
    /// Runs with which not all is well.
    pub runs_not_well: u64,
    /// What was not looked at.
    pub unchecked: Vec<Unchecked>,
}

impl Summary {
    /// Whether all is well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.runs_not_well == 0
            && self
                .counts
                .keys()
                .all(|kind| kind.severity() < Severity::Error)
    }

    pub(super) fn not_checked(&mut self, what: Unchecked) {
        if let Err(at) = self.unchecked.binary_search(&what) {
            self.unchecked.insert(at, what);
        }
    }
}

/// A head of a log that was published somewhere else: `SEQ:HASH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedHead {
    /// Number of a line.
    pub seq: u64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
}

/// A text that is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a head is SEQ:HASH, the number of a line and its hash in 64 lower-case hexadecimal digits"
)]
pub struct NotAHead;

impl std::str::FromStr for PublishedHead {
    type Err = NotAHead;

    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let (seq, hash) = text.split_once(':').ok_or(NotAHead)?;
        let hash: LineHash = hash.parse().map_err(|_| NotAHead)?;
        Ok(Self {
            seq: seq.parse().map_err(|_| NotAHead)?,
            hash: hash.to_hex(),
        })
    }
}
