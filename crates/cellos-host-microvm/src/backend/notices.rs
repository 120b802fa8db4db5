//! What has to go on record about cells.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use cellos_core::ports::workload::Notice;

/// Notices that are kept for a caller who never asks; beyond that the oldest go.
const MAX_KEPT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<VecDeque<(String, Notice)>>);

impl Notices {
    pub(super) fn add(&self, cell_id: &str, notice: Notice) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((cell_id.to_owned(), notice));
    }

    /// Those of one cell, in order.
    pub(super) fn take(&self, cell_id: &str) -> Vec<Notice> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *kept);
        let (own, others) = all.into_iter().partition(|(id, _)| id == cell_id);
        *kept = others;
        VecDeque::into_iter(own).map(|(_, notice)| notice).collect()
    }
}
