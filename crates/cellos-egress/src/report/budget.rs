//! How many events of each kind are told at once, and which are summed up.

use std::{collections::HashMap, hash::Hash, time::Instant};

use super::{OWN_EVENT_AGAIN, OWN_EVENTS};

/// Kinds are few, since they consist of enumerations: so this is small whatever a cell does.
#[derive(Debug)]
pub(super) struct Budget<K, E> {
    kinds: HashMap<K, Kind<E>>,
}

#[derive(Debug)]
struct Kind<E> {
    left: u32,
    /// When `left` was last raised.
    raised: Instant,
    /// The last one that had no event of its own, and how many it stands for.
    waiting: Option<(E, u64)>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn<E> {
    /// It is told.
    Own(E),
    /// It is counted.
    SummedUp,
}

impl<K, E> Default for Budget<K, E> {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, E> Budget<K, E> {
    /// Takes an event that stands for `count` happenings.
    pub(super) fn take(&mut self, kind: K, event: E, count: u64, now: Instant) -> Turn<E> {
        let kind = self.kinds.entry(kind).or_insert(Kind {
            left: OWN_EVENTS,
            raised: now,
            waiting: None,
        });
        let periods = now.duration_since(kind.raised).as_secs() / OWN_EVENT_AGAIN.as_secs();
        if let Ok(more @ 1..) = u32::try_from(periods) {
            kind.left = kind.left.saturating_add(more).min(OWN_EVENTS);
            kind.raised = now;
        }
        match kind.left.checked_sub(1) {
            Some(left) => {
                kind.left = left;
                Turn::Own(event)
            }
            None => {
                let waiting = kind.waiting.take().map_or(0, |(_, count)| count);
                kind.waiting = Some((event, waiting.saturating_add(count)));
                Turn::SummedUp
            }
        }
    }

    /// What was counted since the last time: the last event of each kind and how many there were.
    pub(super) fn drain(&mut self) -> Vec<(E, u64)> {
        let kinds = self.kinds.values_mut();
        kinds.filter_map(|kind| kind.waiting.take()).collect()
    }
}
