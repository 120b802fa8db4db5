//! Checking the published chain, `axiom.audit.v1`: rows in a file or in a bundle.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use cellos_core::{canonical::canonical_json_bytes, strict_json};
use serde_json::{Map, Value};

use super::{
    published::{self, Envelopes, Unsigned, json_fault},
    report::{PublishedHead, Unchecked},
    row_seal::RowSeal,
    session::{Session, read_facts},
};
use crate::{
    finding::{FindingKind, Place},
    line::MAX_LINE_BYTES,
    log::{LineEnd, RawLine},
};

/// `schema` of every row.
const SCHEMA: &str = "axiom.audit.v1";
/// `prev_hash` of the first row.
const FIRST_PREV: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The keys that the hash of a row covers; others are not covered by anything.
const HASHED: [&str; 6] = ["schema", "seq", "at", "event", "body", "prev_hash"];

/// Checks rows in their order.
pub(super) struct Rows {
    next: u64,
    prev: String,
    envelopes: Envelopes,
    unsigned: Unsigned,
    /// What `audit-trail.head` says, and the row that has it.
    head: Option<(String, Option<u64>)>,
    seal: Option<RowSeal>,
    /// Whether the row that was published elsewhere was there.
    has_published: bool,
    rows: u64,
}

impl Rows {
    pub(super) fn new(envelopes: Envelopes, head: Option<String>) -> Self {
        Self {
            next: 0,
            prev: FIRST_PREV.to_owned(),
            envelopes,
            unsigned: Unsigned::default(),
            head: head.map(|hash| (hash, None)),
            seal: None,
            has_published: false,
            rows: 0,
        }
    }

    /// The rows of a file begin.
    pub(super) fn begin(&mut self, session: &mut Session<'_>, path: &Arc<PathBuf>) {
        self.seal = RowSeal::beside(session, path, &self.envelopes);
    }

    /// Takes one line in.
    pub(super) fn line(&mut self, session: &mut Session<'_>, raw: &RawLine<'_>) {
        if raw.bytes.trim_ascii().is_empty() && raw.end == LineEnd::Ended {
            return;
        }
        let place = session.place(raw.number);
        let (kind, detail) = match raw.end {
            LineEnd::Ended => match strict_json::value_from_slice(raw.bytes) {
                Ok(row) => return self.row(session, raw.number, row),
                Err(error) => (json_fault(&error), error.to_string()),
            },
            LineEnd::Torn => (
                FindingKind::TornEnd,
                "the last row has no end: its writer died, or is writing it now".to_owned(),
            ),
            LineEnd::TooLong => (
                FindingKind::LineTooLong,
                format!("longer than {MAX_LINE_BYTES} bytes"),
            ),
        };
        session.find(place.clone(), kind, detail);
        session.missing_before(place);
        self.next += 1;
        self.prev.clear();
    }

    fn row(&mut self, session: &mut Session<'_>, number: u64, row: Value) {
        let place = session.place(number);
        let Value::Object(row) = row else {
            return session.find(place, FindingKind::Unreadable, "no row of a chain");
        };
        if let Some(other) = row
            .keys()
            .find(|key| !HASHED.contains(&key.as_str()) && *key != "row_hash")
        {
            let detail = format!("the row's hash does not cover its key {other:?}");
            session.find(place.clone(), FindingKind::Ambiguous, detail);
        }
        let (Some(Value::String(schema)), Some(seq), Some(Value::String(prev))) = (
            row.get("schema"),
            row.get("seq").and_then(Value::as_u64),
            row.get("prev_hash"),
        ) else {
            return session.find(place, FindingKind::Unreadable, "no row of a chain");
        };
        if schema != SCHEMA {
            let detail = format!("schema {schema:?}, not {SCHEMA}");
            return session.find(place, FindingKind::Unreadable, detail);
        }
        let mut is_intact = self.hash(session, &place, &row);
        is_intact &= self.position(session, &place, seq, prev);
        let row_hash = row
            .get("row_hash")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if let Some((head, met)) = &mut self.head
            && head == row_hash
        {
            *met = Some(seq);
        }
        if let Some(published) = &session.checks.head
            && published.seq == seq
        {
            self.has_published = true;
            if published.hash != row_hash {
                let detail = format!("row {seq} is another one than the published head states");
                session.find(place.clone(), FindingKind::TailReplaced, detail);
                session.missing_before(place.clone());
            }
        }
        if let Some(seal) = &self.seal {
            seal.row(session, seq, row_hash);
        }
        self.prev = row_hash.to_owned();
        self.next = seq.saturating_add(1);
        self.rows += 1;
        session.summary.first_seq.get_or_insert(seq);
        session.summary.last_seq = Some(seq);
        session.summary.head = Some(row_hash.to_owned());
        self.body(session, number, &row, is_intact);
    }

    fn hash(&self, session: &mut Session<'_>, place: &Place, row: &Map<String, Value>) -> bool {
        let hashed: BTreeMap<&str, &Value> = HASHED
            .iter()
            .filter_map(|key| Some((*key, row.get(*key)?)))
            .collect();
        let stated = row.get("row_hash").and_then(Value::as_str);
        let computed = serde_json::to_value(&hashed)
            .and_then(|value| {
                canonical_json_bytes(&value)
                    .map_err(|error| serde::ser::Error::custom(error.to_string()))
            })
            .map(|bytes| blake3::hash(&bytes).to_hex());
        match (stated, computed) {
            (Some(stated), Ok(computed)) if stated == computed.as_str() => true,
            (Some(stated), Ok(computed)) => {
                let detail = format!("the row was changed: its hash is {computed}, not {stated}");
                session.find(place.clone(), FindingKind::ChainBroken, detail);
                false
            }
            _ => {
                session.find(
                    place.clone(),
                    FindingKind::Unreadable,
                    "the row has no hash",
                );
                false
            }
        }
    }

    fn position(&self, session: &mut Session<'_>, place: &Place, seq: u64, prev: &str) -> bool {
        if seq > self.next {
            let detail = format!("rows {} to {} are missing before this", self.next, seq - 1);
            session.find(place.clone(), FindingKind::Gap, detail);
            session.missing_before(place.clone());
        } else if seq < self.next {
            let detail = format!("row {seq} stands here, where row {} belongs", self.next);
            session.find(place.clone(), FindingKind::Repeated, detail);
        } else if self.prev.is_empty() || self.prev == prev {
            return true;
        } else {
            let detail = "the row before is not the one that this row refers to";
            session.find(place.clone(), FindingKind::ChainBroken, detail);
            session.missing_before(place.clone());
        }
        false
    }

    fn body(
        &mut self,
        session: &mut Session<'_>,
        number: u64,
        row: &Map<String, Value>,
        is_intact: bool,
    ) {
        let place = session.place(number);
        let body = row.get("body").map(Value::to_string).unwrap_or_default();
        let opened = published::open(body.as_bytes());
        let (event, envelope) = match opened {
            Ok(opened) => opened,
            Err(error) => return session.find(place, FindingKind::Unreadable, error),
        };
        let facts = match read_facts(event) {
            Ok(facts) => facts,
            Err(error) => {
                return session.find(place, FindingKind::Unreadable, format!("no event: {error}"));
            }
        };
        let outer = row.get("body").and_then(|body| body.get("type"));
        if row.get("event") != outer {
            let detail = "`event` of the row is not the type of the event in it";
            session.find(place.clone(), FindingKind::Ambiguous, detail);
        }
        let tag = session.tag(&facts);
        match envelope {
            Some(envelope) => {
                self.unsigned.report(session, &self.envelopes);
                self.envelopes.check(session, &place, tag, envelope);
            }
            None => self.unsigned.add(session, &self.envelopes, place, tag),
        }
        if !is_intact {
            session.break_run(tag);
        }
        session.event(&facts, number);
        session.settle();
    }

    /// The end of the rows.
    pub(super) fn finish(mut self, session: &mut Session<'_>, file: &Arc<PathBuf>) {
        let end = Place {
            file: Arc::clone(file),
            line: 0,
        };
        self.unsigned.report(session, &self.envelopes);
        if let Some(seal) = &self.seal {
            seal.finish(session, self.next, &end);
        }
        // Signatures are of events alone: whoever can write the file can chain the rows anew.
        session.summary.not_checked(Unchecked::Order);
        if let Some(PublishedHead { seq, .. }) = &session.checks.head
            && !self.has_published
        {
            let detail = format!(
                "the published head states row {seq}, and there is none: rows have been cut off"
            );
            session.find(end.clone(), FindingKind::CutOff, detail);
            session.missing_before(end.clone());
        }
        match self.head {
            None if self.has_published => {}
            None => session.summary.not_checked(Unchecked::End),
            Some((_, Some(seq))) if seq.saturating_add(1) == self.next => {}
            Some((_, Some(seq))) => {
                let detail = format!("the head file names row {seq}, and rows follow it");
                session.find(end, FindingKind::HeadBehind, detail);
            }
            Some((hash, None)) => {
                let detail = format!(
                    "the head file names a row with the hash {hash:?}, and there is none: rows \
                     have been cut off or replaced"
                );
                session.find(end.clone(), FindingKind::CutOff, detail);
                session.missing_before(end);
            }
        }
    }

    /// Rows of a bundle: one document with a manifest that says what is in it.
    pub(super) fn bundle(mut self, session: &mut Session<'_>, bytes: &[u8], file: &Arc<PathBuf>) {
        let place = session.place(0);
        let document = match strict_json::value_from_slice(bytes) {
            Ok(document) => document,
            Err(error) => return session.find(place, json_fault(&error), error.to_string()),
        };
        let (Some(manifest), Some(Value::Array(rows))) =
            (document.get("manifest"), document.get("rows"))
        else {
            return session.find(place, FindingKind::Unreadable, "no manifest and rows");
        };
        let number = |key: &str| manifest.get(key).and_then(Value::as_u64);
        let text = |key: &str| manifest.get(key).and_then(Value::as_str);
        let (Some(from), Some(to), Some(count), Some(before), Some(head)) = (
            number("fromSeq"),
            number("toSeq"),
            number("rowCount"),
            text("fromPrevHash"),
            text("headRowHash"),
        ) else {
            let detail = "the manifest lacks fromSeq, toSeq, rowCount, fromPrevHash or headRowHash";
            return session.find(place, FindingKind::Unreadable, detail);
        };
        if from == 0 && before != FIRST_PREV {
            let detail = "the manifest names a row before the first";
            session.find(place.clone(), FindingKind::ChainBroken, detail);
        }
        self.next = from;
        self.prev = before.to_owned();
        self.head = Some((head.to_owned(), None));
        for (index, row) in rows.iter().enumerate() {
            session.summary.lines += 1;
            self.row(session, index as u64 + 1, row.clone());
        }
        if self.rows != count || self.next != to.saturating_add(1) {
            let detail = format!(
                "the manifest states {count} rows up to row {to}; there are {}",
                self.rows
            );
            session.find(place, FindingKind::CutOff, detail);
        }
        self.finish(session, file);
    }
}
