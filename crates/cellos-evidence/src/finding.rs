//! What a check has to say about a log, and where.

use std::{fmt, path::PathBuf, sync::Arc};

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// Number of the line in it, from 1; 0 for the file as a whole.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; all is well nevertheless.
    Note,
    /// Not all is well.
    Error,
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// The run it is about, where it is about one.
    pub run: Option<RunKey>,
    /// What kind of thing.
    pub kind: FindingKind,
    /// What exactly, for people.
    pub detail: String,
}

/// What identifies a run: cell ids repeat from run to run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunKey {
    /// The cell.
    pub cell_id: String,
    /// The run.
    pub run_id: String,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal $severity:ident,)*) => {
        /// The kinds of findings; each has a stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FindingKind { $($(#[$doc])* $name,)* }

        impl FindingKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands in reports.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// How much it weighs.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    /// The last line is not ended.
    TornEnd = "torn_end" Error,
    /// A line is longer than lines may be.
    LineTooLong = "line_too_long" Error,
    /// A line is no JSON of the format it should have.
    Unreadable = "unreadable" Error,
    /// A line says one thing to one reader and another to the next: equal keys, or not canonical.
    Ambiguous = "ambiguous" Error,
    /// A line belongs to another log.
    OtherLog = "other_log" Error,
    /// Lines are missing.
    Gap = "gap" Error,
    /// A line stands there again, or earlier than its number says.
    Repeated = "repeated" Error,
    /// The line before is not the one that this line refers to.
    ChainBroken = "chain_broken" Error,
    /// No signature speaks for a line.
    Unsigned = "unsigned" Error,
    /// A signature is not by the key that it names.
    SignatureInvalid = "signature_invalid" Error,
    /// A signature is by a key that is not in the keyset.
    UnknownKey = "unknown_key" Error,
    /// A signature is by a revoked key.
    RevokedKey = "revoked_key" Error,
    /// A signature is by a key that was not valid at the time of the event.
    KeyOutsideValidity = "key_outside_validity" Error,
    /// There are signatures and no keys to check them with.
    SignaturesUnchecked = "signatures_unchecked" Error,
    /// Lines that were there have been cut off.
    CutOff = "cut_off" Error,
    /// A signed log has no head, so nothing says whether lines have been cut off.
    HeadMissing = "head_missing" Error,
    /// The log does not begin with its first line.
    Pruned = "pruned" Error,
    /// Lines that were there have been replaced.
    TailReplaced = "tail_replaced" Error,
    /// The head of a published chain names an earlier row than the last, as after a crash.
    HeadBehind = "head_behind" Note,
    /// A seal does not fit its segment.
    SealBroken = "seal_broken" Error,
    /// The clock went backwards.
    ClockBackwards = "clock_backwards" Error,
    /// Lines were written before the log was signed, and sealed by its first signer.
    UnsignedBefore = "unsigned_before" Note,
    /// A torn line was set aside by a later writer.
    Recovered = "recovered" Note,
    /// An event id stands there twice.
    DuplicateId = "duplicate_id" Error,
    /// A run has no end.
    NeverEnded = "never_ended" Error,
    /// A run ends twice.
    EndedTwice = "ended_twice" Error,
    /// An event of a run stands after its end.
    AfterEnd = "after_end" Error,
    /// An event of a run stands before its beginning.
    BeforeStart = "before_start" Error,
    /// Something of a cell was left.
    Residue = "residue" Error,
    /// Nobody looked for what a cell left.
    ResidueNotMeasured = "residue_not_measured" Note,
    /// A run was finished by the reaper, because its supervisor disappeared.
    SupervisorLost = "supervisor_lost" Note,
    /// A cell lived longer than its document allows.
    LifetimeExceeded = "lifetime_exceeded" Error,
    /// A secret that the document does not declare.
    UndeclaredSecret = "undeclared_secret" Error,
    /// A connection that the document does not declare.
    UndeclaredFlow = "undeclared_flow" Error,
    /// What the end says about the network is not what the events told.
    NetworkMismatch = "network_mismatch" Error,
    /// A run was not held to its document, in order to learn what it needs.
    LearnedNetwork = "learned_network" Note,
    /// An artifact that the document does not declare.
    UndeclaredExport = "undeclared_export" Error,
    /// Two events give different exit codes.
    ExitCodeMismatch = "exit_code_mismatch" Error,
    /// The outcome does not follow from the events.
    OutcomeMismatch = "outcome_mismatch" Error,
    /// Two events of a run name different documents, specifications or sessions.
    IdentityChanged = "identity_changed" Error,
    /// A run starts twice.
    StartedTwice = "started_twice" Error,
    /// The command of a run ends twice.
    CompletedTwice = "completed_twice" Error,
    /// What a cell left stays for a documented reason.
    ResidueDocumented = "residue_documented" Note,
    /// A run is told in an order that its times contradict.
    TimeDisorder = "time_disorder" Error,
    /// A field of an event is of another type than it has, or what has to be there is missing.
    Malformed = "malformed" Error,
    /// A side task of a run reported after the end what it had seen before.
    LateObservation = "late_observation" Note,
    /// More than is kept at once: what was not kept was not checked.
    NotFollowed = "not_followed" Error,
    /// A rule of the verification policy is violated.
    Policy = "policy" Error,
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
