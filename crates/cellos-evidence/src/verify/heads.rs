//! Statements of where a log was at some time: its own head, and one that was published elsewhere.

use super::{
    End,
    report::{PublishedHead, Unchecked},
    session::Session,
};
use crate::{
    finding::{FindingKind, Place},
    head::Head,
    line::LineHash,
};

/// What is stated about the log, compared with its lines.
#[derive(Default)]
pub(super) struct Heads {
    stated: Vec<Stated>,
    /// Whether something is wrong with the log's own head, which has been said.
    is_spoilt: bool,
}

struct Stated {
    head: PublishedHead,
    /// Who states it, for people.
    by: &'static str,
    /// The key that signed it.
    kid: Option<String>,
    met: bool,
}

impl Heads {
    /// Demands what was published elsewhere.
    pub(super) fn published(&mut self, head: PublishedHead) {
        self.demand(head, "the published head", None);
    }

    /// Demands what the head beside the log states.
    pub(super) fn beside(&mut self, head: Head) {
        // The head of an empty log names no line.
        if let Some(seq) = head.next_seq.checked_sub(1) {
            let hash = head.last_hash.to_hex();
            self.demand(PublishedHead { seq, hash }, "the head file", head.kid);
        }
    }

    /// Something is wrong with the head beside the log, so it states nothing.
    pub(super) fn spoilt(&mut self) {
        self.is_spoilt = true;
    }

    fn demand(&mut self, head: PublishedHead, by: &'static str, kid: Option<String>) {
        self.stated.push(Stated {
            head,
            by,
            kid,
            met: false,
        });
    }

    /// Compares a line in its place, whose event has been taken in, with what is stated.
    pub(super) fn meet(
        &mut self,
        session: &mut Session<'_>,
        number: u64,
        seq: u64,
        hash: LineHash,
    ) {
        for stated in self.stated.iter_mut().filter(|it| it.head.seq == seq) {
            stated.met = true;
            let by = stated.by;
            if stated.head.hash != hash.to_hex() {
                let place = session.place(number);
                let detail = format!(
                    "line {seq} is another one than {by} states: its hash is {hash}, not {}",
                    stated.head.hash
                );
                session.find(place.clone(), FindingKind::TailReplaced, detail);
                session.missing_before(place);
            }
            // A head states what was there before it. Whoever holds a key that expired can date
            // the head, but not the line, which another key signed.
            if let Some(detail) = session.expired(stated.kid.as_deref()) {
                let place = session.place(number);
                let detail = format!("{by} states line {seq}: {detail}");
                session.find(place, FindingKind::KeyOutsideValidity, detail);
            }
        }
    }

    /// The end of the log; `next` is the number of the line that would come.
    pub(super) fn finish(self, session: &mut Session<'_>, next: u64, end: &Place) {
        if self.stated.is_empty() {
            session.summary.not_checked(Unchecked::End);
            let matters = session.checks.keys.is_some() && session.checks.end == End::Demanded;
            if matters && !self.is_spoilt {
                let detail =
                    "there is no head, which every signed log has: lines may have been cut off";
                session.find(end.clone(), FindingKind::HeadMissing, detail);
            }
        }
        for stated in self.stated.iter().filter(|stated| !stated.met) {
            let has = match next {
                0 => "there is none".to_owned(),
                next => format!("the last one is line {}", next - 1),
            };
            let detail = format!(
                "{} states line {} of the log, and {has}: lines have been cut off",
                stated.by, stated.head.seq
            );
            session.find(end.clone(), FindingKind::CutOff, detail);
            session.missing_before(end.clone());
        }
    }
}
