//! How a cell's workload ended, what it used, and which limits it hit.

use std::time::Duration;

use cellos_core::ports::workload::{ExitReport, LimitHit, Usage, WorkloadEnd};

use super::{Cell, KilledBy};

impl Cell {
    /// How the workload ended. `Err` when nobody knows: init was killed from outside.
    pub(super) fn report(&self, init_usage: Option<libc::rusage>) -> Result<ExitReport, String> {
        let (usage, limits_hit) = self.usage(init_usage);
        let end = match (self.exited, self.killed_by) {
            (Some((status, _)), _) if libc::WIFEXITED(status) => WorkloadEnd::Exited {
                code: libc::WEXITSTATUS(status),
            },
            (Some((status, _)), _) => WorkloadEnd::Signalled {
                signal: libc::WTERMSIG(status),
            },
            (None, Some(KilledBy::Backstop)) => WorkloadEnd::Backstop,
            (None, Some(KilledBy::Request)) => WorkloadEnd::Signalled {
                signal: libc::SIGKILL,
            },
            // The kernel kills init too when the cell's memory is used up, always on v2 and on v1
            // when killing the others did not help.
            (None, None)
                if limits_hit
                    .iter()
                    .any(|hit| matches!(hit, LimitHit::Memory { .. })) =>
            {
                WorkloadEnd::Signalled {
                    signal: libc::SIGKILL,
                }
            }
            (None, None) => {
                return Err("the cell's init was killed by somebody else".to_owned());
            }
        };
        Ok(ExitReport {
            end,
            usage,
            limits_hit,
        })
    }

    fn usage(&self, init_usage: Option<libc::rusage>) -> (Usage, Vec<LimitHit>) {
        let mut usage = Usage {
            wall: self
                .started
                .map(|started| started.elapsed())
                .unwrap_or_default(),
            max_rss_bytes: self.exited.map(|(_, bytes)| bytes),
            ..Usage::default()
        };
        let (setup_user, setup_system) = self
            .ready
            .as_ref()
            .map(|ready| ready.setup_cpu_micros)
            .unwrap_or_default();
        let without_setup = |time: libc::timeval, setup: u64| {
            let micros = duration(time).saturating_sub(Duration::from_micros(setup));
            Some(micros)
        };
        if let Some(all) = init_usage {
            usage.cpu_user = without_setup(all.ru_utime, setup_user);
            usage.cpu_system = without_setup(all.ru_stime, setup_system);
        }
        let mut limits_hit = Vec::new();
        if let Ok(stats) = self.cgroup.stats() {
            usage.memory_peak_bytes = stats.memory_peak_bytes;
            usage.oom_kills = stats.oom_kills;
            usage.pids_peak = stats.pids_peak;
            // A parent that ignores SIGCHLD keeps its children's times from all who wait for it
            // (wait(2)); the control group counts them nevertheless.
            let counted = |time: Option<Duration>, setup: u64| {
                time.map(|time| time.saturating_sub(Duration::from_micros(setup)))
            };
            usage.cpu_user = usage.cpu_user.max(counted(stats.cpu_user, setup_user));
            usage.cpu_system = usage
                .cpu_system
                .max(counted(stats.cpu_system, setup_system));
            if let (Some(limit_bytes), Some(kills @ 1..)) =
                (self.plan.memory_max_bytes, stats.oom_kills)
            {
                limits_hit.push(LimitHit::Memory { limit_bytes, kills });
            }
            if let (Some(limit), Some(refusals @ 1..)) = (self.plan.pids_max, stats.pids_limit_hits)
            {
                limits_hit.push(LimitHit::Pids { limit, refusals });
            }
        }
        (usage, limits_hit)
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}
