//! How many flows there may be at once, so that no cell takes the descriptors of the others, or of
//! the supervisor.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most flows of one cell at once.
pub(crate) const MAX_CELL_FLOWS: usize = 4096;
/// Flows that each cell may have whatever the others do.
pub(crate) const RESERVED_FLOWS: usize = 8;
/// The part of the flows of all cells, beyond the reserved ones, that one cell may have.
const CELL_SHARE: usize = 4;
/// Descriptors of one flow: two sockets. Pipes are bounded for themselves.
const FLOW_DESCRIPTORS: u64 = 2;
/// The part of the process's descriptors that flows may take.
const DESCRIPTOR_SHARE: u64 = 2;
/// What is assumed when the process has no limit, or does not say.
const DEFAULT_DESCRIPTORS: u64 = 20_000;

/// What all cells of the process share.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSlots {
    shared: Arc<Semaphore>,
    each: usize,
}

/// What one cell may have.
#[derive(Debug)]
pub(crate) struct CellSlots {
    reserved: Arc<Semaphore>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// The right to one flow, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Why there is no room for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The cell has as many flows as it may have.
    #[error("the cell has as many connections at once as it may have")]
    Cell,
    /// All cells together have.
    #[error("the cells of this host have as many connections at once as its descriptors allow")]
    Process,
}

impl ProcessSlots {
    /// As many as this process's limit of descriptors allows.
    pub(crate) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        Self::for_descriptors(limit.unwrap_or(DEFAULT_DESCRIPTORS))
    }

    pub(super) fn for_descriptors(limit: u64) -> Self {
        let flows = limit / DESCRIPTOR_SHARE / FLOW_DESCRIPTORS;
        let flows = usize::try_from(flows).unwrap_or(usize::MAX);
        let flows = flows.min(Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Semaphore::new(flows)),
            each: (flows / CELL_SHARE).min(MAX_CELL_FLOWS),
        }
    }

    /// Those of one more cell.
    pub(crate) fn for_cell(&self) -> CellSlots {
        CellSlots {
            reserved: Arc::new(Semaphore::new(RESERVED_FLOWS)),
            own: Arc::new(Semaphore::new(self.each)),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl CellSlots {
    /// Room for one flow.
    pub(crate) fn take(&self) -> Result<Slot, Full> {
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        if let Some(permit) = take(&self.reserved) {
            return Ok(Slot {
                _permits: [Some(permit), None],
            });
        }
        let own = take(&self.own).ok_or(Full::Cell)?;
        let shared = take(&self.shared).ok_or(Full::Process)?;
        Ok(Slot {
            _permits: [Some(own), Some(shared)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_cell_leaves_room_for_others() {
        let process = ProcessSlots::for_descriptors(20_000);
        let greedy = process.for_cell();
        let taken: Vec<_> = std::iter::from_fn(|| greedy.take().ok()).collect();
        assert_eq!(taken.len(), 5000 / CELL_SHARE + RESERVED_FLOWS);
        assert_eq!(greedy.take().unwrap_err(), Full::Cell);
        assert!(process.for_cell().take().is_ok());
        drop(taken);
        assert!(greedy.take().is_ok());
    }

    #[test]
    fn every_cell_has_a_few_when_all_are_taken() {
        let process = ProcessSlots::for_descriptors(64);
        let cells: Vec<_> = (0..20).map(|_| process.for_cell()).collect();
        let _taken: Vec<_> = cells
            .iter()
            .flat_map(|cell| std::iter::from_fn(|| cell.take().ok()).collect::<Vec<_>>())
            .collect();
        let late = process.for_cell();
        let few: Vec<_> = std::iter::from_fn(|| late.take().ok()).collect();
        assert_eq!(few.len(), RESERVED_FLOWS);
        assert_eq!(late.take().unwrap_err(), Full::Process);
    }
}
