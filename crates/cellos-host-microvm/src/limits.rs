//! Control groups of monitors: the host's bound on a whole machine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use cellos_isolation::cgroup::{
    Accounting, Cgroup, CgroupHost, Controller, CpuMax, Creator, Limits, leaf_name,
};

use crate::vmm::{MonitorLimits, VmmError};

/// Most threads of a monitor: its virtual processors (at most 32) and the workers of its disks,
/// of which QEMU makes up to 64. Firecracker has one thread for each processor and two others, and the
/// tether two processes.
const MONITOR_TASKS: u64 = 128;

/// Number of the next group: with the process that makes it, it tells groups apart.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Makes the control groups of monitors.
#[derive(Debug)]
pub(crate) struct MonitorGroups {
    host: CgroupHost,
    creator: Creator,
}

/// The control groups of one monitor. One that is dropped without having been removed, as by a
/// boot that its caller gave up, is removed behind the scenes.
#[derive(Debug)]
pub(crate) struct MonitorGroup {
    group: Arc<Cgroup>,
    removed: AtomicBool,
}

impl MonitorGroups {
    /// Looks at this host. `parent` is the operator's choice of a control group to make others in.
    ///
    /// # Errors
    /// [`VmmError::Host`] without `/proc`.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Self, VmmError> {
        Ok(Self {
            host: CgroupHost::detect(parent),
            creator: Creator::current().map_err(|source| VmmError::Host {
                step: "find out who makes control groups".to_owned(),
                source,
            })?,
        })
    }

    /// Makes what these limits need, for the machine of this name. The number of threads is
    /// bounded wherever the host can.
    ///
    /// # Errors
    /// [`VmmError::Host`] with the limit that this host cannot hold; nothing is left then.
    pub(crate) fn make(
        &self,
        machine: &str,
        limits: MonitorLimits,
    ) -> Result<MonitorGroup, VmmError> {
        let limits = Limits {
            memory_max_bytes: limits.memory_bytes,
            cpu_max: limits.cpu_max.map(|(quota_micros, period_micros)| CpuMax {
                quota_micros,
                period_micros,
            }),
            pids_max: self
                .host
                .support(Controller::Pids)
                .is_ok()
                .then_some(MONITOR_TASKS),
            accounting: Accounting::WithLimits,
        };
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let leaf = leaf_name(machine, &self.creator, sequence);
        let made = self.host.create(&leaf, &limits);
        made.map(|group| MonitorGroup {
            group: Arc::new(group),
            removed: AtomicBool::new(false),
        })
        .map_err(|error| VmmError::Host {
            step: format!("make the control group of machine {machine}"),
            source: io::Error::other(with_causes(&error)),
        })
    }
}

impl MonitorGroup {
    /// The group itself, for whoever joins it.
    pub(crate) fn group(&self) -> Arc<Cgroup> {
        Arc::clone(&self.group)
    }

    /// All its directories, for the helper that joins them.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.group.paths().map(Path::to_owned).collect()
    }

    /// The directory that stands for it in evidence.
    pub(crate) fn primary(&self) -> Option<PathBuf> {
        self.group.primary_path().map(Path::to_owned)
    }

    /// Kills what is in it, removes it, and looks for what is left: one line for each. Blocks for
    /// as long as the kernel still counts what has ended, at most some seconds.
    pub(crate) fn remove(&self) -> Vec<String> {
        self.removed.store(true, Ordering::Relaxed);
        let mut left = Vec::new();
        for result in [self.group.kill(), self.group.remove()] {
            left.extend(result.err().map(|error| with_causes(&error)));
        }
        let there = self.group.paths().filter(|path| path.exists());
        left.extend(there.map(|path| format!("control group {} is still there", path.display())));
        left
    }
}

impl Drop for MonitorGroup {
    fn drop(&mut self) {
        if *self.removed.get_mut() || self.group.primary_path().is_none() {
            return;
        }
        let group = Arc::clone(&self.group);
        // Nobody waits for it. What fails here is found and removed by a later run, by its name.
        let _ = thread::Builder::new().spawn(move || {
            let _ = group.kill();
            let _ = group.remove();
        });
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_causes(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_its_limits_and_leaves_nothing() {
        cellos_testkit::require!("cgroups");
        let groups = MonitorGroups::new(None).unwrap();
        let limits = MonitorLimits {
            memory_bytes: Some(64 << 20),
            cpu_max: None,
        };
        let group = groups.make("m1", limits).unwrap();
        let held = group.group.effective_limits().unwrap();
        assert_eq!(held.memory_max_bytes, Some(64 << 20));
        let paths = group.paths();
        assert!(paths.iter().all(|path| path.is_dir()), "{paths:?}");
        assert_eq!(group.remove(), [""; 0]);
        assert!(!paths.iter().any(|path| path.exists()), "{paths:?}");
        assert_eq!(group.remove(), [""; 0]);
    }

    #[test]
    fn a_group_that_is_dropped_is_removed_all_the_same() {
        cellos_testkit::require!("cgroups");
        let groups = MonitorGroups::new(None).unwrap();
        let limits = MonitorLimits {
            memory_bytes: Some(64 << 20),
            cpu_max: None,
        };
        let group = groups.make("m2", limits).unwrap();
        let paths = group.paths();
        drop(group);
        let begun = std::time::Instant::now();
        while paths.iter().any(|path| path.exists()) {
            assert!(begun.elapsed().as_secs() < 5, "{paths:?}");
            thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_parent_that_is_not_there_is_an_error_by_its_name() {
        let groups = MonitorGroups::new(Some(Path::new("/sys/fs/cgroup/no-such-group"))).unwrap();
        let limits = MonitorLimits {
            memory_bytes: Some(64 << 20),
            cpu_max: None,
        };
        let error = groups.make("m1", limits).unwrap_err();
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("no-such-group")
        );
    }
}
