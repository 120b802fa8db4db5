//! How long to wait between two tries.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// Wait after the first failure, before jitter.
pub const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait that doubling leads to, before jitter.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Waits that double from failure to failure. Each is cut by up to a half at random, so that many
/// senders do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure, and says how long to wait: at least as long as the receiver asked for.
    pub(super) fn after_failure(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1_u32 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(LONGEST_WAIT);
        let jittered = whole.mul_f64(0.5 + 0.5 * random_fraction());
        jittered.max(asked.unwrap_or_default())
    }
}

/// From 0 to 1. The keys of the standard library's hash maps are random; this is no cryptography.
fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    let bits = u32::try_from(random >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_vary() {
        let mut backoff = Backoff::default();
        for doubling in [1, 2, 4, 8] {
            let wait = backoff.after_failure(None);
            let whole = FIRST_WAIT * doubling;
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?}");
        }
        for _ in 0..100 {
            assert!(backoff.after_failure(None) <= LONGEST_WAIT);
        }
        let asked = Duration::from_secs(100);
        assert_eq!(backoff.after_failure(Some(asked)), asked);
        backoff.reset();
        assert!(backoff.after_failure(None) <= FIRST_WAIT);
        let waits: std::collections::HashSet<_> = (0..20)
            .map(|_| Backoff::default().after_failure(None))
            .collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
