//! How long an answer is kept.

use std::time::Duration;

use cellos_core::document::{DnsRefreshPolicy, DnsRefreshStrategy};

/// Longest time an answer is kept where the document says nothing: long enough for the many
/// connections of one page, short enough that a move is followed.
const KEEP_DEFAULT: Duration = Duration::from_secs(5);
/// Time between two looks under `fixed-interval` without a `minTtlSeconds`.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// Longest time an answer is kept under `ttl-honor` without a `maxStaleSeconds`; RFC 8767 has
/// resolvers cap times to live at a day or more.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a failure is kept, so that a cell cannot flood resolvers with a name that fails.
pub(super) const KEEP_FAILURE: Duration = Duration::from_secs(1);

/// How long answers are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    policy: Option<DnsRefreshPolicy>,
}

impl Keep {
    pub(super) fn of(policy: Option<DnsRefreshPolicy>) -> Self {
        Self { policy }
    }

    /// How long an answer with this time to live is kept; nothing stands for always. The host's own
    /// resolver does not tell a time to live.
    pub(super) fn time(&self, ttl: Option<u32>) -> Option<Duration> {
        let ttl = ttl.map(|ttl| Duration::from_secs(ttl.into()));
        let Some(policy) = self.policy else {
            return Some(ttl.map_or(KEEP_DEFAULT, |ttl| ttl.min(KEEP_DEFAULT)));
        };
        let seconds = |value: Option<u32>| value.map(|value| Duration::from_secs(value.into()));
        let (min, max) = (
            seconds(policy.min_ttl_seconds),
            seconds(policy.max_stale_seconds),
        );
        match policy.strategy.unwrap_or(DnsRefreshStrategy::TtlHonor) {
            DnsRefreshStrategy::Manual => max,
            DnsRefreshStrategy::FixedInterval => {
                let interval = min.unwrap_or(INTERVAL_DEFAULT);
                Some(max.map_or(interval, |max| interval.min(max)))
            }
            DnsRefreshStrategy::TtlHonor => {
                let ttl = ttl.unwrap_or(KEEP_DEFAULT);
                let kept = min.map_or(ttl, |min| ttl.max(min));
                Some(kept.min(max.unwrap_or(TTL_MAX)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DnsRefreshStrategy::{FixedInterval, Manual, TtlHonor};

    #[test]
    fn answers_are_kept_within_the_policy() {
        let kept = |strategy, min, max, ttl| {
            let policy = DnsRefreshPolicy {
                min_ttl_seconds: min,
                max_stale_seconds: max,
                strategy,
            };
            Keep::of(Some(policy)).time(ttl).map(|time| time.as_secs())
        };
        let without = |ttl| Keep::of(None).time(ttl).map(|time| time.as_secs());
        assert_eq!(without(Some(3)), Some(3));
        assert_eq!(without(Some(300)), Some(5));
        assert_eq!(without(None), Some(5));
        assert_eq!(kept(None, Some(10), Some(100), Some(3)), Some(10));
        assert_eq!(
            kept(Some(TtlHonor), Some(10), Some(100), Some(50)),
            Some(50)
        );
        assert_eq!(kept(Some(TtlHonor), None, Some(100), Some(500)), Some(100));
        assert_eq!(
            kept(Some(TtlHonor), None, None, Some(u32::MAX)),
            Some(86_400)
        );
        assert_eq!(kept(Some(FixedInterval), Some(30), None, Some(1)), Some(30));
        assert_eq!(kept(Some(FixedInterval), None, Some(7), Some(1)), Some(7));
        assert_eq!(kept(Some(Manual), None, None, Some(1)), None);
        assert_eq!(kept(Some(Manual), None, Some(9), Some(1)), Some(9));
    }
}
