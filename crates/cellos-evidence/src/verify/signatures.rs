//! The signatures of a chained log: which key, whether it counts, and whether they are good.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{
    batch::{self, BatchItem, BatchKey},
    session::{RunTag, Session},
};
use crate::{
    finding::{FindingKind, Place},
    keyset::{Keyset, KeysetKey},
    line::{ENTRY_DOMAIN, LineSignature},
};

/// How many signatures are checked at once. Twice as many are hardly faster, and the verdict of a
/// run waits for the batch.
pub const BATCH_SIGNATURES: usize = 2048;
/// Most runs whose lines wait with the signatures of a batch; more make it smaller.
const MAX_WAITING_TAGS: usize = 64 * 1024;

/// The lines that one signature speaks for.
pub(super) struct Group<'g> {
    /// The line with the signature.
    pub(super) place: Place,
    /// How many lines stand before it in the group.
    pub(super) before: usize,
    /// The runs of all of them, and the times of their events.
    pub(super) members: &'g [Member],
}

/// A line of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) line: u64,
    pub(super) tag: RunTag,
    pub(super) time: Option<Timestamp>,
}

/// Checks signatures in batches.
pub(super) struct Signatures<'k> {
    keys: Vec<Key<'k>>,
    points: Vec<BatchKey>,
    by_kid: HashMap<&'k str, usize>,
    items: Vec<BatchItem>,
    waiting: Vec<Waiting>,
    tags: Vec<RunTag>,
}

struct Key<'k> {
    kid: &'k str,
    key: &'k KeysetKey,
    good: u64,
}

struct Waiting {
    place: Place,
    before: usize,
    /// Its part of the tags.
    tags: std::ops::Range<usize>,
}

impl<'k> Signatures<'k> {
    pub(super) fn new(keyset: &'k Keyset) -> Self {
        let mut keys = Vec::new();
        let mut points = Vec::new();
        let mut by_kid = HashMap::new();
        for (kid, key) in keyset.iter() {
            // Every key of a keyset is a point of large order.
            if let Some(point) = BatchKey::new(key.public.as_bytes()) {
                by_kid.insert(kid, keys.len());
                keys.push(Key { kid, key, good: 0 });
                points.push(point);
            }
        }
        Self {
            keys,
            points,
            by_kid,
            items: Vec::with_capacity(BATCH_SIGNATURES),
            waiting: Vec::with_capacity(BATCH_SIGNATURES),
            tags: Vec::new(),
        }
    }

    /// Takes a signature in; it is checked with the others of its batch.
    pub(super) fn add(
        &mut self,
        session: &mut Session<'_>,
        group: Group<'_>,
        signature: &LineSignature<'_>,
        entry: &[u8],
    ) {
        let Some(&index) = self.by_kid.get(signature.kid) else {
            let detail = format!("key {:?} is not in the keyset", signature.kid);
            return refuse(session, &group, FindingKind::UnknownKey, detail);
        };
        let (Some(key), Some(point)) = (self.keys.get(index), self.points.get(index)) else {
            return;
        };
        if let Some((kind, detail)) = fault(key, &group) {
            refuse(session, &group, kind, detail);
        }
        self.items.push(BatchItem::new(
            index,
            point,
            signature.bytes,
            [ENTRY_DOMAIN, entry],
        ));
        let start = self.tags.len();
        for member in group.members {
            if self.tags[start..].last() != Some(&member.tag) {
                self.tags.push(member.tag);
            }
        }
        self.waiting.push(Waiting {
            place: group.place,
            before: group.before,
            tags: start..self.tags.len(),
        });
        if self.items.len() >= BATCH_SIGNATURES || self.tags.len() >= MAX_WAITING_TAGS {
            self.flush(session);
        }
    }

    /// Checks what waits. The strict rule names those that are not good.
    pub(super) fn flush(&mut self, session: &mut Session<'_>) {
        let all_good = batch::all_good(&self.items, &self.points);
        for (item, waiting) in self.items.drain(..).zip(self.waiting.drain(..)) {
            if all_good || item.is_good(&self.points) {
                if let Some(key) = self.keys.get_mut(item.key) {
                    key.good += 1;
                }
                continue;
            }
            let kid = self.keys.get(item.key).map_or("", |key| key.kid);
            let detail = format!(
                "not a signature of key {kid:?} over this line{}",
                spoken_for(waiting.before)
            );
            session.find(waiting.place, FindingKind::SignatureInvalid, detail);
            for tag in &self.tags[waiting.tags] {
                session.break_run(*tag);
            }
        }
        self.tags.clear();
        session.settle();
    }

    /// Checks the rest and says how many good signatures each key made.
    pub(super) fn finish(mut self, session: &mut Session<'_>) {
        self.flush(session);
        for key in self.keys.iter().filter(|key| key.good > 0) {
            *session.summary.keys.entry(key.kid.to_owned()).or_default() += key.good;
        }
    }
}

/// Why a key does not count for a group.
fn fault(key: &Key<'_>, group: &Group<'_>) -> Option<(FindingKind, String)> {
    let judge = |member: &Member| key.key.judge_dated(key.kid, member.time).err();
    group.members.iter().find_map(judge)
}

fn refuse(session: &mut Session<'_>, group: &Group<'_>, kind: FindingKind, detail: String) {
    session.find(
        group.place.clone(),
        kind,
        format!("{detail}{}", spoken_for(group.before)),
    );
    for member in group.members {
        session.break_run(member.tag);
    }
}

fn spoken_for(before: usize) -> String {
    match before {
        0 => String::new(),
        1 => ", which speaks for the line before too".to_owned(),
        more => format!(", which speaks for the {more} lines before too"),
    }
}
