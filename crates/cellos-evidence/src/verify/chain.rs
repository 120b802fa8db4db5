//! Checking a chained log line by line.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Beginning, canonical,
    heads::Heads,
    report::{PublishedHead, Unchecked},
    seals::{self, Sealed},
    session::{RunTag, Session, read_facts},
    signatures::{Group, Member, Signatures},
};
use crate::{
    facts::Facts,
    finding::{FindingKind, Place},
    line::{self, LineHash, LineSignature, MAX_LINES_PER_SIGNATURE, ParsedLine, genesis},
    log::{LineEnd, RawLine},
};

/// How every line begins; serde alone would take the fields of a struct as an array too.
const LINE_START: &[u8] = b"{\"entry\":{";

/// Checks the lines of one log, over all of its files.
pub(super) struct Chain<'k> {
    log_id: Option<String>,
    /// Number that the next line should have.
    next: u64,
    /// Hash that the next line should refer to; `None` after a line that could not be read.
    prev: Option<LineHash>,
    /// Lines since the last good one that have no number, because they could not be read.
    unreadable: u64,
    /// Where the numbers went on before they jumped.
    before_jump: Option<u64>,
    /// Lines that stand where they should not.
    astray: Astray,
    /// The line before, wherever it belongs.
    last: Option<(u64, LineHash)>,
    /// Lines that no signature speaks for yet, each referring to the one before.
    group: Vec<Member>,
    unsigned: Unsigned,
    signatures: Option<Signatures<'k>>,
    /// Whether any line carries a signature.
    is_signed: bool,
    heads: Heads,
    sealed: Option<Sealed>,
}

/// What kind of line was reported last as being in the wrong place; one finding for many.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Astray {
    No,
    OtherLog(String),
    Repeated,
}

/// Lines in a row that no signature speaks for.
#[derive(Default)]
struct Unsigned {
    first: Option<Place>,
    count: u64,
    last_line: u64,
}

impl<'k> Chain<'k> {
    pub(super) fn new(signatures: Option<Signatures<'k>>) -> Self {
        Self {
            log_id: None,
            next: 0,
            prev: None,
            unreadable: 0,
            before_jump: None,
            astray: Astray::No,
            last: None,
            group: Vec::new(),
            unsigned: Unsigned::default(),
            signatures,
            is_signed: false,
            heads: Heads::default(),
            sealed: None,
        }
    }

    /// Demands what was published elsewhere.
    pub(super) fn published_head(&mut self, head: PublishedHead) {
        self.heads.published(head);
    }

    /// The log begins with what stands beside this file.
    pub(super) fn begin_log(&mut self, session: &mut Session<'_>, log: &Path) {
        match seals::head(log, session.checks.keys) {
            Ok(Some(head)) => self.heads.beside(head),
            Ok(None) => {}
            Err((kind, detail)) => {
                self.heads.spoilt();
                session.find(session.place(0), kind, detail);
            }
        }
    }

    /// A file of the log begins.
    pub(super) fn begin_file(&mut self, session: &mut Session<'_>, path: &Path) {
        self.sealed = match Sealed::beside(path, session.checks.keys) {
            Ok(sealed) => sealed,
            Err((kind, detail)) => {
                session.find(session.place(0), kind, detail);
                None
            }
        };
        let Some(sealed) = &self.sealed else {
            return;
        };
        let body = &sealed.seal.body;
        let vouches = sealed.is_vouched || session.checks.keys.is_none();
        if self.log_id.is_none() && body.first > 0 && vouches {
            session.summary.not_checked(Unchecked::Pruned);
            if session.checks.beginning == Beginning::Demanded {
                let detail = format!(
                    "the log begins with line {} here: the segments before it have been removed",
                    body.first
                );
                session.find(session.place(0), FindingKind::Pruned, detail);
            }
            session.summary.log_id = Some(body.log_id.clone());
            self.log_id = Some(body.log_id.clone());
            self.next = body.first;
            self.prev = Some(body.before);
        }
    }

    /// Whether the lines of this file were written before the log was signed, and its first signer
    /// vouches for them.
    fn is_from_before(&self) -> bool {
        !self.is_signed && self.sealed.as_ref().is_some_and(|sealed| sealed.is_vouched)
    }

    /// Takes one line in.
    pub(super) fn line(&mut self, session: &mut Session<'_>, raw: &RawLine<'_>) {
        if let Some(sealed) = &mut self.sealed {
            sealed.line(raw);
        }
        let unreadable = match raw.end {
            LineEnd::Ended => match canonical::check(raw.bytes) {
                Ok(()) => None,
                Err(error) => Some((error.finding(), error.to_string())),
            },
            LineEnd::Torn => Some((
                FindingKind::TornEnd,
                "the last line has no end: its writer died, or is writing it now".to_owned(),
            )),
            LineEnd::TooLong => Some((
                FindingKind::LineTooLong,
                format!("longer than {} bytes", line::MAX_LINE_BYTES),
            )),
        };
        if let Some((kind, detail)) = unreadable {
            return self.unreadable(session, raw.number, kind, detail);
        }
        let parsed = match line::parse(raw.bytes) {
            Ok(parsed) if raw.bytes.starts_with(LINE_START) => parsed,
            Ok(_) => {
                let detail = "no object with an entry that is an object".to_owned();
                return self.unreadable(session, raw.number, FindingKind::Unreadable, detail);
            }
            Err(error) => {
                return self.unreadable(
                    session,
                    raw.number,
                    FindingKind::Unreadable,
                    error.to_string(),
                );
            }
        };
        let facts = match read_facts(parsed.event.get()) {
            Ok(facts) => facts,
            Err(error) => {
                let detail = format!("its event: {error}");
                session.find(session.place(raw.number), FindingKind::Unreadable, detail);
                Facts::default()
            }
        };
        let tag = session.tag(&facts);
        let hash = LineHash::of_line(raw.bytes);
        let belongs = self.position(session, raw.number, &parsed, hash, tag);
        let time = if belongs && !facts.ty.is_empty() {
            session.event(&facts, raw.number)
        } else {
            facts.time.as_deref().and_then(|time| time.parse().ok())
        };
        if belongs {
            self.heads.meet(session, raw.number, parsed.seq, hash);
        }
        let member = Member {
            line: raw.number,
            tag,
            time,
        };
        self.sign(session, member, &parsed);
        self.last = Some((parsed.seq, hash));
    }

    fn unreadable(
        &mut self,
        session: &mut Session<'_>,
        number: u64,
        kind: FindingKind,
        detail: String,
    ) {
        let place = session.place(number);
        session.find(place.clone(), kind, detail);
        session.missing_before(place);
        self.give_up_group(session);
        self.unreadable += 1;
        self.prev = None;
        self.last = None;
    }

    /// Checks a line's log, number and reference. Whether it stands where it belongs.
    fn position(
        &mut self,
        session: &mut Session<'_>,
        number: u64,
        parsed: &ParsedLine<'_>,
        hash: LineHash,
        tag: RunTag,
    ) -> bool {
        if self.log_id.is_none() {
            self.begin(session, parsed);
        }
        if self.log_id.as_deref() != Some(parsed.log_id) {
            if self.astray != Astray::OtherLog(parsed.log_id.to_owned()) {
                let detail = format!("from here on lines are of log {:?}", parsed.log_id);
                session.find(session.place(number), FindingKind::OtherLog, detail);
                self.astray = Astray::OtherLog(parsed.log_id.to_owned());
            }
            session.break_run(tag);
            return false;
        }
        if parsed.seq < self.next && !self.jumped_wrongly(parsed.seq) {
            return self.earlier(session, number, parsed, tag);
        }
        self.astray = Astray::No;
        let missing = parsed.seq.saturating_sub(self.next);
        // Lines that could not be read have been reported.
        if missing > self.unreadable {
            let detail = match missing {
                1 => format!("line {} of the log is missing before this", self.next),
                _ => format!(
                    "lines {} to {} of the log are missing before this",
                    self.next,
                    parsed.seq - 1
                ),
            };
            let place = session.place(number);
            session.find(place.clone(), FindingKind::Gap, detail);
            session.missing_before(place);
            self.before_jump = Some(self.next);
        } else {
            if missing == 0 && self.prev.is_some_and(|prev| prev != parsed.prev) {
                let detail = "the line before is not the one that this line refers to";
                let place = session.place(number);
                session.find(place.clone(), FindingKind::ChainBroken, detail);
                session.missing_before(place);
                session.break_run(tag);
            }
            self.before_jump = None;
        }
        self.unreadable = 0;
        self.prev = Some(hash);
        self.next = parsed.seq.saturating_add(1);
        let summary = &mut session.summary;
        summary.first_seq.get_or_insert(parsed.seq);
        summary.last_seq = Some(parsed.seq);
        true
    }

    fn begin(&mut self, session: &mut Session<'_>, parsed: &ParsedLine<'_>) {
        self.log_id = Some(parsed.log_id.to_owned());
        session.summary.log_id = Some(parsed.log_id.to_owned());
        if self.unreadable == 0 {
            self.prev = Some(genesis(parsed.log_id));
        }
    }

    /// Whether the number of the line before was wrong and not this one: numbers jumped there, and
    /// this line has the number that follows without the jump.
    fn jumped_wrongly(&mut self, seq: u64) -> bool {
        match self.before_jump {
            Some(before) if seq == before.saturating_add(1) => {
                self.next = seq;
                self.prev = None;
                self.before_jump = None;
                true
            }
            _ => false,
        }
    }

    /// A line whose number has been passed. Whether it is one that was missed.
    fn earlier(
        &mut self,
        session: &mut Session<'_>,
        number: u64,
        parsed: &ParsedLine<'_>,
        tag: RunTag,
    ) -> bool {
        if self.astray != Astray::Repeated {
            let detail = format!(
                "line {} of the log stands here, where line {} belongs",
                parsed.seq, self.next
            );
            session.find(session.place(number), FindingKind::Repeated, detail);
            self.astray = Astray::Repeated;
        }
        session.break_run(tag);
        self.before_jump.is_some_and(|before| before <= parsed.seq)
    }

    /// Adds a line to the group that waits for a signature, and checks the one that it carries.
    fn sign(&mut self, session: &mut Session<'_>, member: Member, parsed: &ParsedLine<'_>) {
        let follows = self.last.is_some_and(|(seq, hash)| {
            seq.checked_add(1) == Some(parsed.seq) && hash == parsed.prev
        });
        if !follows {
            self.give_up_group(session);
        }
        if self.group.len() == MAX_LINES_PER_SIGNATURE as usize {
            self.give_up_group(session);
        }
        self.group.push(member);
        if let Some(signature) = &parsed.signature {
            self.signature(session, member, signature, parsed.entry, follows);
        }
    }

    fn signature(
        &mut self,
        session: &mut Session<'_>,
        member: Member,
        signature: &LineSignature<'_>,
        entry: &[u8],
        follows: bool,
    ) {
        self.is_signed = true;
        let place = session.place(member.line);
        let signs = usize::try_from(signature.signs).unwrap_or(usize::MAX);
        if signs > self.group.len() && follows {
            let detail = format!(
                "the signature speaks for {signs} lines, and only {} wait for one",
                self.group.len()
            );
            session.find(place.clone(), FindingKind::SignatureInvalid, detail);
            session.break_run(member.tag);
        }
        let uncovered = self.group.len().saturating_sub(signs);
        let covered = self.group.split_off(uncovered);
        self.give_up_group(session);
        self.group = covered;
        self.report_unsigned(session);
        if let Some(policy) = session.checks.policy
            && !policy.may_sign(signature.kid)
        {
            let detail = format!("key {:?} may not sign this log", signature.kid);
            session.find(place.clone(), FindingKind::Policy, detail);
            session.break_run(member.tag);
        }
        match &mut self.signatures {
            Some(signatures) => {
                let group = Group {
                    place,
                    before: self.group.len() - 1,
                    members: &self.group,
                };
                signatures.add(session, group, signature, entry);
            }
            None => session.signatures_unchecked(place),
        }
        self.group.clear();
        if self.signatures.is_none() {
            session.settle();
        }
    }

    /// No signature will speak for the lines that wait.
    fn give_up_group(&mut self, session: &mut Session<'_>) {
        for member in std::mem::take(&mut self.group) {
            self.unsigned(session, member);
        }
        match &mut self.signatures {
            None => session.settle(),
            // Nothing else would give them theirs where no line is signed.
            Some(signatures) if session.many_wait() => signatures.flush(session),
            Some(_) => {}
        }
    }

    fn unsigned(&mut self, session: &mut Session<'_>, member: Member) {
        let unsigned = &mut self.unsigned;
        if unsigned.first.is_none() {
            unsigned.first = Some(session.place(member.line));
        }
        unsigned.count += 1;
        unsigned.last_line = member.line;
        session.summary.unsigned_lines += 1;
        if session.checks.demand_signatures() && !self.is_from_before() {
            session.break_run(member.tag);
        }
    }

    /// One finding for all lines in a row that no signature speaks for.
    fn report_unsigned(&mut self, session: &mut Session<'_>) {
        let unsigned = std::mem::take(&mut self.unsigned);
        let Some(first) = unsigned.first else {
            return;
        };
        if !self.is_signed && !session.checks.demand_signatures() {
            session.summary.not_checked(Unchecked::NotSigned);
            return;
        }
        if self.is_from_before() {
            let detail = format!(
                "{} lines were written before the log was signed; their seal is signed",
                unsigned.count
            );
            return session.find(first, FindingKind::UnsignedBefore, detail);
        }
        let detail = match unsigned.count {
            1 => "no signature speaks for this line".to_owned(),
            count => format!(
                "no signature speaks for {count} lines, from this one to line {}",
                unsigned.last_line
            ),
        };
        session.find(first, FindingKind::Unsigned, detail);
    }

    /// The end of a file; the log may go on in another. Lines that are written together stand in
    /// one file.
    pub(super) fn end_file(&mut self, session: &mut Session<'_>) {
        if let Some(sealed) = &mut self.sealed
            && let Some(detail) = session.expired(sealed.seal.kid.as_deref())
        {
            sealed.is_vouched = false;
            // Lines without signatures are believed for their seal alone.
            if !self.is_signed {
                session.break_waiting();
            }
            let place = session.place(0);
            let detail = format!("its seal: {detail}");
            session.find(place, FindingKind::KeyOutsideValidity, detail);
        }
        self.give_up_group(session);
        if self.is_from_before() {
            self.report_unsigned(session);
        }
        if let Some((kind, detail)) = self.sealed.take().and_then(|it| it.fault(self.last)) {
            if !self.is_signed {
                session.break_waiting();
            }
            let place = session.place(0);
            session.find(place.clone(), kind, detail);
            session.missing_before(place);
        }
    }

    /// The end of the log.
    pub(super) fn finish(mut self, session: &mut Session<'_>, file: &Arc<PathBuf>) {
        self.give_up_group(session);
        self.report_unsigned(session);
        if let Some(signatures) = self.signatures.take() {
            signatures.finish(session);
        }
        let end = Place {
            file: Arc::clone(file),
            line: 0,
        };
        self.heads.finish(session, self.next, &end);
        session.summary.head = session
            .summary
            .last_seq
            .and(self.prev)
            .map(LineHash::to_hex);
    }
}
