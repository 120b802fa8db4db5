//! When a command has to end, and on whose account.

use std::{fmt, time::Duration};

use cellos_core::event::{EndedBy, Reason};
use tokio::time::Instant;

/// Which bound is the nearest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadlineSource {
    /// `lifetime.ttlSeconds`, from the cell's creation.
    Ttl {
        /// The declared seconds.
        seconds: u64,
    },
    /// `run.timeoutMs`, from the command's start.
    Timeout {
        /// The declared milliseconds.
        milliseconds: u64,
    },
    /// The operator's cap on run time, from the command's start.
    Operator {
        /// The cap in milliseconds.
        milliseconds: u128,
    },
}

impl DeadlineSource {
    /// The same for events.
    #[must_use]
    pub fn ended_by(self) -> EndedBy {
        match self {
            Self::Ttl { .. } => EndedBy::DeadlineTtl,
            Self::Timeout { .. } => EndedBy::DeadlineTimeout,
            Self::Operator { .. } => EndedBy::DeadlineOperator,
        }
    }

    /// The same as a reason code.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Ttl { .. } => Reason::TtlExceeded,
            Self::Timeout { .. } | Self::Operator { .. } => Reason::TimeoutExceeded,
        }
    }
}

/// The texts of the published contract, which operators search for.
impl fmt::Display for DeadlineSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ttl { seconds } => write!(
                f,
                "cell killed by TTL watchdog after {} ms (ttl_seconds={seconds})",
                u128::from(*seconds) * 1000
            ),
            Self::Timeout { milliseconds } => write!(
                f,
                "command timed out after {milliseconds} ms (spec.run.timeoutMs)"
            ),
            Self::Operator { milliseconds } => write!(
                f,
                "command timed out after {milliseconds} ms (CELLOS_RUN_TIMEOUT_MS)"
            ),
        }
    }
}

/// A point in time, fixed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) source: DeadlineSource,
}

/// Farther away than any run: where a declared time does not fit the clock.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Deadline {
    /// The end of the cell's life.
    pub(crate) fn ttl(created: Instant, seconds: u64) -> Self {
        Self {
            at: later(created, Duration::from_secs(seconds)),
            source: DeadlineSource::Ttl { seconds },
        }
    }

    /// The nearest of all bounds. A bound of the command wins over the cell's only when it is
    /// nearer.
    pub(crate) fn nearest(
        ttl: Self,
        started: Instant,
        timeout_ms: Option<u64>,
        operator: Option<Duration>,
    ) -> Self {
        let timeout = timeout_ms.map(|milliseconds| Self {
            at: later(started, Duration::from_millis(milliseconds)),
            source: DeadlineSource::Timeout { milliseconds },
        });
        let operator = operator.map(|cap| Self {
            at: later(started, cap),
            source: DeadlineSource::Operator {
                milliseconds: cap.as_millis(),
            },
        });
        [timeout, operator]
            .into_iter()
            .flatten()
            .fold(ttl, |nearest, bound| {
                if bound.at < nearest.at {
                    bound
                } else {
                    nearest
                }
            })
    }
}

fn later(from: Instant, by: Duration) -> Instant {
    from + by.min(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_bound_wins_and_is_named() {
        let created = Instant::now();
        let started = created + Duration::from_millis(200);
        let ttl = Deadline::ttl(created, 2);
        let cases: &[(Option<u64>, Option<u64>, &str, EndedBy)] = &[
            (
                None,
                None,
                "cell killed by TTL watchdog after 2000 ms (ttl_seconds=2)",
                EndedBy::DeadlineTtl,
            ),
            (
                Some(500),
                None,
                "command timed out after 500 ms (spec.run.timeoutMs)",
                EndedBy::DeadlineTimeout,
            ),
            (
                Some(500),
                Some(100),
                "command timed out after 100 ms (CELLOS_RUN_TIMEOUT_MS)",
                EndedBy::DeadlineOperator,
            ),
            (
                Some(100),
                Some(500),
                "command timed out after 100 ms (spec.run.timeoutMs)",
                EndedBy::DeadlineTimeout,
            ),
            // 1900 ms from the start are 2100 ms from the creation: the cell's life is over first.
            (
                Some(1900),
                Some(1850),
                "cell killed by TTL watchdog after 2000 ms (ttl_seconds=2)",
                EndedBy::DeadlineTtl,
            ),
        ];
        for (timeout, cap, text, ended_by) in cases {
            let nearest = Deadline::nearest(ttl, started, *timeout, cap.map(Duration::from_millis));
            assert_eq!(nearest.source.to_string(), *text);
            assert_eq!(nearest.source.ended_by(), *ended_by);
        }
    }

    #[test]
    fn lifetime_that_does_not_fit_the_clock_is_no_overflow() {
        let now = Instant::now();
        assert!(Deadline::ttl(now, u64::MAX).at > now);
    }
}
