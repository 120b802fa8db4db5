//! A cell that has filled its memory and does nothing but read its programs again and again.
//!
//! The base is a file system of this machine, so its pages count for the cell that reads them first.
//! When everything else that the cell has cannot be taken away (it may not swap, and its files are
//! memory too), the kernel takes these pages, each fault of a program brings them back, and as long
//! as it finds some to take, it does not call that out of memory. Beside a decompressing file system
//! this state lasts for minutes, and the workload gets nowhere.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// How long a cell may be in that state before it counts as out of memory. A workload that needs a
/// little more for a moment comes out of it by itself.
pub const THRASHING_PATIENCE: Duration = Duration::from_secs(5);

/// Part of the memory limit that pages of files may have at most, as a divisor, for a cell to be
/// full: one with more has room for its programs.
const FILES_DIVISOR: u64 = 64;

/// How often each page of a file that the cell has must have come back since the last look, on average.
const RETURNS: u64 = 4;

/// What is known of a cell's memory.
#[derive(Default)]
pub(super) struct ThrashingWatch {
    last: Option<Figures>,
    /// When it was first seen in that state, without a break since.
    since: Option<Instant>,
}

/// Figures of a control group (cgroups v2, `memory.stat`, `memory.events`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    /// Limit in bytes.
    limit: u64,
    /// Pages of files that are not memory themselves, in bytes.
    files: u64,
    /// Pages of files that came back soon after they had been taken.
    refaults: u64,
    /// Faults that waited for a file.
    major_faults: u64,
    /// How often the limit was met.
    limit_hits: u64,
}

impl ThrashingWatch {
    /// Looks at the cell's control group; one that has thrashed for too long is made to meet the
    /// kernel's killer, which counts it as it counts every other cell without memory.
    pub(super) fn look(&mut self, cgroup: &Path, now: Instant) {
        let figures = Figures::read(cgroup);
        let thrashes = match (self.last, figures) {
            (Some(before), Some(after)) => after.thrashes_since(before),
            _ => false,
        };
        self.last = figures;
        if !thrashes {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= THRASHING_PATIENCE {
            // A cell that ended meanwhile has no group any more. One that lives on is looked at again.
            let _ = run_out_of_memory(cgroup);
            self.since = None;
        }
    }
}

impl Figures {
    /// `None` where a kernel has no such figures, or the cell has ended.
    fn read(cgroup: &Path) -> Option<Self> {
        let text = |file: &str| fs::read_to_string(cgroup.join(file)).ok();
        let stat = text("memory.stat")?;
        let events = text("memory.events")?;
        Some(Self {
            limit: text("memory.max")?.trim_end().parse().ok()?,
            files: value(&stat, "active_file")?.checked_add(value(&stat, "inactive_file")?)?,
            refaults: value(&stat, "workingset_refault_file")?,
            major_faults: value(&stat, "pgmajfault")?,
            limit_hits: value(&events, "max")?,
        })
    }

    fn thrashes_since(self, before: Self) -> bool {
        /// The least that a page can have.
        const PAGE_BYTES: u64 = 4096;

        let pages = (self.files / PAGE_BYTES).max(1);
        let returned = self.refaults.saturating_sub(before.refaults);
        self.files <= self.limit / FILES_DIVISOR
            && returned >= pages.saturating_mul(RETURNS)
            && self.major_faults > before.major_faults
            && self.limit_hits > before.limit_hits
    }
}

/// The value of a key in a file of `key value` lines.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|value| value.trim_end().parse().ok())
}

/// Lowers the limit below what the cell cannot give up. The kernel then kills all of the cell,
/// within this write (`memory.max` in the kernel's documentation of control groups, and
/// `memory.oom.group`, which every cell has set).
fn run_out_of_memory(cgroup: &Path) -> io::Result<()> {
    let current = fs::read_to_string(cgroup.join("memory.current"))?;
    let current: u64 = current.trim_end().parse().map_err(io::Error::other)?;
    fs::write(cgroup.join("memory.max"), (current / 2).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Figures = Figures {
        limit: 64 << 20,
        files: 300 << 10,
        refaults: 128,
        major_faults: 10,
        limit_hits: 11,
    };

    /// As it was seen one second later.
    const LATER: Figures = Figures {
        refaults: 3770,
        major_faults: 68,
        limit_hits: 182,
        ..FULL
    };

    #[test]
    fn only_a_full_cell_that_gets_its_pages_back_again_and_again_thrashes() {
        assert!(LATER.thrashes_since(FULL));
        let roomy = Figures {
            files: 2 << 20,
            ..LATER
        };
        let reads_once = Figures {
            refaults: FULL.refaults + 100,
            ..LATER
        };
        let reads_by_call = Figures {
            major_faults: FULL.major_faults,
            ..LATER
        };
        let under_the_limit = Figures {
            limit_hits: FULL.limit_hits,
            ..LATER
        };
        for figures in [roomy, reads_once, reads_by_call, under_the_limit, FULL] {
            assert!(!figures.thrashes_since(FULL), "{figures:?}");
        }
    }

    /// A control group as its files show it.
    fn write(group: &Path, refaults: u64) {
        let stat = format!(
            "anon 1\nfile 66392064\nfile_mapped 5\ninactive_file 1000\nactive_file 4000\n\
             workingset_refault_anon 9\nworkingset_refault_file {refaults}\npgmajfault {refaults}\n"
        );
        for (file, text) in [
            ("memory.stat", stat),
            (
                "memory.events",
                format!("low 0\nhigh 0\nmax {refaults}\noom 0\n"),
            ),
            ("memory.current", "67108864\n".to_owned()),
        ] {
            fs::write(group.join(file), text).unwrap();
        }
    }

    #[test]
    fn the_limit_falls_below_what_is_used_only_after_the_patience() {
        let group = tempfile::tempdir().unwrap();
        let limit = group.path().join("memory.max");
        fs::write(&limit, "67108864\n").unwrap();
        let mut watch = ThrashingWatch::default();
        let begun = Instant::now();
        let mut look = |second: u64, refaults: u64| {
            write(group.path(), refaults);
            watch.look(group.path(), begun + Duration::from_secs(second));
            fs::read_to_string(&limit).unwrap().trim_end().to_owned()
        };
        assert_eq!(look(0, 100), "67108864");
        assert_eq!(look(1, 200), "67108864");
        assert_eq!(look(4, 300), "67108864");
        // A second without: it begins anew.
        assert_eq!(look(5, 300), "67108864");
        assert_eq!(look(6, 400), "67108864");
        assert_eq!(look(10, 500), "67108864");
        assert_eq!(look(11, 600), "33554432");
    }

    #[test]
    fn a_group_that_is_gone_or_has_no_limit_is_left_alone() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(Figures::read(group.path()), None);
        write(group.path(), 1);
        fs::write(group.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(Figures::read(group.path()), None);
    }
}
