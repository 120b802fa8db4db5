//! How long is waited for the lock between processes.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
    time::{Duration, Instant},
};

use super::storage::Status;

/// Longest wait for another process's lock while nothing happens to the log. The lock is held for
/// microseconds, and while a segment is sealed for less than a second, so this is reached only when
/// that process was stopped meanwhile, or when a foreign program locks the file.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Longest wait while others append and flush: a hundred processes on a busy machine get their turn within a
/// few seconds.
const LOCK_WAIT_BEHIND_OTHERS: Duration = Duration::from_secs(30);
/// How often it is looked whether they do.
const LOCK_LOOK: Duration = Duration::from_millis(100);
/// First and longest time between two tries for the lock, each shortened by chance to between a half
/// and the whole, so that those who wait do not come at the same time again and again. A hundred
/// who came more often would take the processor from the one that holds the lock.
const LOCK_RETRY: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(10));

/// What changes while others append and flush.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) live: Option<Status>,
    pub(super) head: Option<Vec<u8>>,
}

/// Waiting for the lock between processes.
pub(super) struct Wait {
    start: Instant,
    /// When the log was seen to change last.
    moved: Instant,
    looked: Instant,
    progress: Progress,
    pause: Duration,
    chance: RandomState,
}

impl Default for Wait {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            moved: now,
            looked: now,
            progress: Progress::default(),
            pause: LOCK_RETRY.0,
            chance: RandomState::new(),
        }
    }
}

impl Wait {
    /// Whether it has taken too long; `progress` looks at the log.
    pub(super) fn is_over(&mut self, progress: impl FnOnce() -> Progress) -> bool {
        let now = Instant::now();
        if now - self.looked >= LOCK_LOOK {
            self.looked = now;
            let progress = progress();
            if progress != self.progress {
                self.progress = progress;
                self.moved = now;
            }
        }
        now - self.moved >= LOCK_WAIT || now - self.start >= LOCK_WAIT_BEHIND_OTHERS
    }

    pub(super) fn waited_ms(&self) -> u128 {
        self.start.elapsed().as_millis()
    }

    pub(super) fn pause(&mut self) {
        let half = self.pause / 2;
        let chance = self.chance.hash_one(self.start.elapsed()) % 1024;
        thread::sleep(half + half * u32::try_from(chance).unwrap_or_default() / 1024);
        self.pause = (self.pause * 2).min(LOCK_RETRY.1);
    }
}
