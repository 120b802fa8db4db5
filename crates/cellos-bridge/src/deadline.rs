//! The deadlines that run for an end.

use std::time::{Duration, Instant};

use crate::BridgeError;

/// A point in time at which something must have come, and what it means that it has not.
pub(crate) struct Deadline {
    at: Instant,
    error: BridgeError,
}

impl Deadline {
    /// `waited` after `from`; `None` where that is beyond what a clock can show.
    pub(crate) fn after(from: Instant, waited: Duration, error: BridgeError) -> Option<Self> {
        from.checked_add(waited).map(|at| Self { at, error })
    }
}

/// The point in time of the first deadline.
pub(crate) fn first<const N: usize>(deadlines: [Option<Deadline>; N]) -> Option<Instant> {
    deadlines
        .into_iter()
        .flatten()
        .map(|deadline| deadline.at)
        .min()
}

/// The error of the first deadline that has passed.
pub(crate) fn passed<const N: usize>(
    deadlines: [Option<Deadline>; N],
    now: Instant,
) -> Result<(), BridgeError> {
    deadlines
        .into_iter()
        .flatten()
        .filter(|deadline| deadline.at <= now)
        .min_by_key(|deadline| deadline.at)
        .map_or(Ok(()), |deadline| Err(deadline.error))
}
