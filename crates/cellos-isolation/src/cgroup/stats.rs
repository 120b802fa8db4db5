//! What a cell used, as its leaves counted it.

use std::time::Duration;

use super::{
    CgroupError, Controller, Version,
    control::{Directory, keyed},
};

/// Figures of one cell. `None`: no leaf or no kernel counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Most memory at one time, in bytes; with swap where v1 counts it.
    pub memory_peak_bytes: Option<u64>,
    /// How often memory ran into the limit (and was mostly reclaimed). On v1 Linux 6.18 counts none
    /// of them when swap is limited too; [`Stats::oom_kills`] is right everywhere.
    pub memory_limit_hits: Option<u64>,
    /// Processes that the kernel killed for lack of memory. Where a cell is killed as one (v2), the
    /// kernel counts the process that it chose first twice.
    pub oom_kills: Option<u64>,
    /// Processor time in user mode.
    pub cpu_user: Option<Duration>,
    /// Processor time in the kernel.
    pub cpu_system: Option<Duration>,
    /// Periods in which the cell wanted more than its quota.
    pub cpu_throttled_periods: Option<u64>,
    /// How long its processors were held back, summed up.
    pub cpu_throttled: Option<Duration>,
    /// Most tasks at one time.
    pub pids_peak: Option<u64>,
    /// Forks and clones that the limit refused.
    pub pids_limit_hits: Option<u64>,
}

impl Stats {
    /// Adds what this leaf counted.
    pub(super) fn read(
        &mut self,
        leaf: &Directory,
        version: Version,
        controllers: &[Controller],
    ) -> Result<(), CgroupError> {
        for controller in controllers {
            match (controller, version) {
                (Controller::Memory, Version::V1) => self.read_memory_v1(leaf)?,
                (Controller::Memory, Version::V2) => self.read_memory_v2(leaf)?,
                (Controller::Cpu, Version::V1) => self.read_cpu_v1(leaf)?,
                // Every v2 cgroup has `cpu.stat`, see below.
                (Controller::Cpu, Version::V2) => {}
                (Controller::Pids, _) => {
                    self.pids_peak = leaf.number(c"pids.peak")?;
                    let events = leaf.read_optional(c"pids.events")?;
                    self.pids_limit_hits = events.and_then(|text| keyed(&text, "max"));
                }
            }
        }
        if version == Version::V2 {
            self.read_cpu_v2(leaf)?;
        }
        Ok(())
    }

    fn read_memory_v1(&mut self, leaf: &Directory) -> Result<(), CgroupError> {
        let memory = leaf.number(c"memory.max_usage_in_bytes")?;
        let with_swap = leaf.number(c"memory.memsw.max_usage_in_bytes")?;
        self.memory_peak_bytes = memory.max(with_swap);
        let hits = leaf.number(c"memory.failcnt")?;
        self.memory_limit_hits = hits.max(leaf.number(c"memory.memsw.failcnt")?);
        let control = leaf.read_optional(c"memory.oom_control")?;
        self.oom_kills = control.and_then(|text| keyed(&text, "oom_kill"));
        Ok(())
    }

    fn read_memory_v2(&mut self, leaf: &Directory) -> Result<(), CgroupError> {
        self.memory_peak_bytes = leaf.number(c"memory.peak")?;
        if let Some(events) = leaf.read_optional(c"memory.events")? {
            self.memory_limit_hits = keyed(&events, "max");
            self.oom_kills = keyed(&events, "oom_kill");
        }
        Ok(())
    }

    fn read_cpu_v1(&mut self, leaf: &Directory) -> Result<(), CgroupError> {
        // Only where `cpuacct` is mounted together with `cpu`, as distributions do.
        self.cpu_user = leaf
            .number(c"cpuacct.usage_user")?
            .map(Duration::from_nanos);
        self.cpu_system = leaf.number(c"cpuacct.usage_sys")?.map(Duration::from_nanos);
        if let Some(stat) = leaf.read_optional(c"cpu.stat")? {
            self.cpu_throttled_periods = keyed(&stat, "nr_throttled");
            self.cpu_throttled = keyed(&stat, "throttled_time").map(Duration::from_nanos);
        }
        Ok(())
    }

    fn read_cpu_v2(&mut self, leaf: &Directory) -> Result<(), CgroupError> {
        let Some(stat) = leaf.read_optional(c"cpu.stat")? else {
            return Ok(());
        };
        // On a hybrid host the v1 leaf has the better figures of what it counts.
        let micros = |key| keyed(&stat, key).map(Duration::from_micros);
        self.cpu_user = self.cpu_user.or_else(|| micros("user_usec"));
        self.cpu_system = self.cpu_system.or_else(|| micros("system_usec"));
        self.cpu_throttled = self.cpu_throttled.or_else(|| micros("throttled_usec"));
        self.cpu_throttled_periods = self
            .cpu_throttled_periods
            .or_else(|| keyed(&stat, "nr_throttled"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(version: Version, files: &[(&str, &str)]) -> Stats {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        let leaf = Directory::open(root.path()).unwrap();
        let mut stats = Stats::default();
        stats.read(&leaf, version, &Controller::ALL).unwrap();
        stats
    }

    #[test]
    fn v2_files_become_figures() {
        let stats = read(
            Version::V2,
            &[
                ("memory.peak", "8388608\n"),
                (
                    "memory.events",
                    "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\n",
                ),
                (
                    "cpu.stat",
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 4\nthrottled_usec 5\n",
                ),
                ("pids.peak", "6\n"),
                ("pids.events", "max 2\n"),
            ],
        );
        let want = Stats {
            memory_peak_bytes: Some(8_388_608),
            memory_limit_hits: Some(12),
            oom_kills: Some(3),
            cpu_user: Some(Duration::from_micros(20)),
            cpu_system: Some(Duration::from_micros(10)),
            cpu_throttled_periods: Some(4),
            cpu_throttled: Some(Duration::from_micros(5)),
            pids_peak: Some(6),
            pids_limit_hits: Some(2),
        };
        assert_eq!(stats, want);
    }

    #[test]
    fn v1_files_become_figures() {
        let stats = read(
            Version::V1,
            &[
                ("memory.max_usage_in_bytes", "100\n"),
                ("memory.memsw.max_usage_in_bytes", "150\n"),
                ("memory.failcnt", "7\n"),
                (
                    "memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
                ),
                ("cpuacct.usage_user", "2000\n"),
                ("cpuacct.usage_sys", "1000\n"),
                (
                    "cpu.stat",
                    "nr_periods 9\nnr_throttled 8\nthrottled_time 77\n",
                ),
                ("pids.events", "max 5\n"),
            ],
        );
        let want = Stats {
            memory_peak_bytes: Some(150),
            memory_limit_hits: Some(7),
            oom_kills: Some(1),
            cpu_user: Some(Duration::from_nanos(2000)),
            cpu_system: Some(Duration::from_nanos(1000)),
            cpu_throttled_periods: Some(8),
            cpu_throttled: Some(Duration::from_nanos(77)),
            pids_peak: None,
            pids_limit_hits: Some(5),
        };
        assert_eq!(stats, want);
    }

    #[test]
    fn what_an_old_kernel_does_not_count_is_absent() {
        assert_eq!(read(Version::V2, &[]), Stats::default());
        assert_eq!(read(Version::V1, &[]), Stats::default());
    }
}
