//! From samples to the few numbers that are shown.

use std::time::Duration;

/// What one contender needed over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Distribution {
    pub(crate) min: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Distribution {
    /// `None` without samples.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        Some(Self {
            min: *samples.first()?,
            p50: percentile(&samples, 50)?,
            p99: percentile(&samples, 99)?,
        })
    }
}

/// The nearest-rank percentile of sorted samples: the least sample that at least `percent` of
/// them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_nearest_ranks_of_unsorted_samples() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let distribution = Distribution::of(samples).unwrap();
        assert_eq!(distribution.min, Duration::from_millis(1));
        assert_eq!(distribution.p50, Duration::from_millis(100));
        assert_eq!(distribution.p99, Duration::from_millis(198));
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_no_distribution() {
        let one = Duration::from_micros(7);
        let distribution = Distribution::of(vec![one]).unwrap();
        assert_eq!(
            (distribution.min, distribution.p50, distribution.p99),
            (one, one, one)
        );
        assert_eq!(Distribution::of(Vec::new()), None);
    }
}
