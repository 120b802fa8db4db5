//! What a process holds of its host, to find what a backend leaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::PathBuf,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

/// Longest wait for things that end on their own after a call has returned, such as a thread that
/// was told to stop.
const SETTLE: Duration = Duration::from_secs(3);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the calling process holds of its host at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSnapshot {
    /// Open descriptors by number, with what they refer to.
    pub descriptors: BTreeMap<u32, PathBuf>,
    /// Threads of this process.
    pub threads: usize,
    /// Live tasks of the current tokio runtime, 0 outside of one.
    pub tasks: usize,
    /// All processes that descend from this one, with their names; zombies included.
    pub processes: BTreeMap<u32, String>,
    /// Mounts in this process's mount namespace, the lines of `/proc/self/mountinfo`.
    pub mounts: BTreeSet<String>,
}

/// What one snapshot has more than an earlier one, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth(Vec<String>);

impl Growth {
    /// Whether nothing grew.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl ResourceSnapshot {
    /// Looks now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors()?,
            threads: fs::read_dir("/proc/self/task")?.count(),
            tasks: Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
            processes: descendants(std::process::id())?,
            mounts: fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .map(str::to_owned)
                .collect(),
        })
    }

    /// What this one has more than an earlier one. Counts are compared, so that a descriptor that
    /// was closed and opened again is no growth; mounts are compared one by one.
    #[must_use]
    pub fn growth_since(&self, earlier: &Self) -> Growth {
        let mut lines = Vec::new();
        if self.descriptors.len() > earlier.descriptors.len() {
            let new = self
                .descriptors
                .iter()
                .filter(|(fd, target)| earlier.descriptors.get(fd) != Some(target))
                .map(|(fd, target)| format!("{fd} -> {}", target.display()));
            lines.push(grew(
                "descriptors",
                earlier.descriptors.len(),
                self.descriptors.len(),
                new,
            ));
        }
        if self.threads > earlier.threads {
            lines.push(grew("threads", earlier.threads, self.threads, []));
        }
        if self.tasks > earlier.tasks {
            lines.push(grew("tasks", earlier.tasks, self.tasks, []));
        }
        if self.processes.len() > earlier.processes.len() {
            let new = self
                .processes
                .iter()
                .filter(|(pid, _)| !earlier.processes.contains_key(pid))
                .map(|(pid, name)| format!("{pid} {name}"));
            lines.push(grew(
                "processes",
                earlier.processes.len(),
                self.processes.len(),
                new,
            ));
        }
        let new: Vec<_> = self.mounts.difference(&earlier.mounts).cloned().collect();
        if !new.is_empty() {
            lines.push(grew("mounts", earlier.mounts.len(), self.mounts.len(), new));
        }
        Growth(lines)
    }

    /// The growth that stays: looks again and again for a few seconds, because a backend may let
    /// threads and killed processes end after its call has returned.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub async fn lasting_growth(&self) -> io::Result<Growth> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let growth = Self::take()?.growth_since(self);
            if growth.is_empty() || Instant::now() >= deadline {
                return Ok(growth);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Most entries that a message lists.
const LISTED: usize = 8;

fn grew(what: &str, before: usize, after: usize, new: impl IntoIterator<Item = String>) -> String {
    let listed: Vec<_> = new.into_iter().take(LISTED).collect();
    let list = match listed.is_empty() {
        true => String::new(),
        false => format!(" ({})", listed.join(", ")),
    };
    format!("{what} grew from {before} to {after}{list}")
}

fn descriptors() -> io::Result<BTreeMap<u32, PathBuf>> {
    let folder = fs::read_dir("/proc/self/fd")?;
    let mut open = BTreeMap::new();
    for entry in folder {
        let entry = entry?;
        let Ok(number) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // Another thread may have closed it meanwhile.
        if let Ok(target) = fs::read_link(entry.path()) {
            open.insert(number, target);
        }
    }
    // The listing's own descriptor.
    let own = PathBuf::from(format!("/proc/{}/fd", std::process::id()));
    open.retain(|_, target| *target != own);
    Ok(open)
}

/// Every process below `root`, found by the parent numbers in `/proc/PID/stat`.
fn descendants(root: u32) -> io::Result<BTreeMap<u32, String>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if let Some((name, parent)) = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .as_deref()
            .and_then(name_and_parent)
        {
            parents.insert(pid, (name, parent));
        }
    }
    let is_below = |mut pid: u32| {
        // Bounded, because numbers may be reused while the folder is read.
        for _ in 0..parents.len() {
            match parents.get(&pid) {
                Some((_, parent)) if *parent == root => return true,
                Some((_, parent)) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    Ok(parents
        .iter()
        .filter(|(pid, _)| is_below(**pid))
        .map(|(pid, (name, _))| (*pid, name.clone()))
        .collect())
}

/// Processes anywhere on this host that were started with an argument, zombies excluded.
pub(crate) fn processes_with_argument(argument: &str) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process that is gone or not ours to read is not one that a cell of ours left.
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command
            .split(|byte| *byte == 0)
            .any(|part| part == argument.as_bytes())
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// `PID (name) state parent …`; the name may hold spaces and parentheses, proc_pid_stat(5).
fn name_and_parent(stat: &str) -> Option<(String, u32)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let name = stat.get(open + 1..close)?.to_owned();
    let parent = stat.get(close + 1..)?.split_whitespace().nth(1)?;
    Some((name, parent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process::Command};

    use super::*;
    use crate::alone::{Place, finished, rerun};

    #[test]
    fn reads_names_with_parentheses() {
        assert_eq!(
            name_and_parent("12 (a) (b) S 7 12 12 0"),
            Some(("a) (b".into(), 7))
        );
        assert_eq!(name_and_parent("12 broken"), None);
    }

    #[test]
    fn sees_descriptors_threads_and_processes() {
        match rerun(crate::test_name!(), &[]) {
            Place::Parent(result) => result.unwrap(),
            Place::Alone => {
                let before = ResourceSnapshot::take().unwrap();
                let again = ResourceSnapshot::take().unwrap();
                assert!(
                    again.growth_since(&before).is_empty(),
                    "{before:?} {again:?}"
                );

                let file = File::open("/dev/null").unwrap();
                let (stop, stopped) = std::sync::mpsc::channel::<()>();
                let thread = std::thread::spawn(move || stopped.recv());
                let mut child = Command::new("sleep").arg("60").spawn().unwrap();
                let growth = ResourceSnapshot::take()
                    .unwrap()
                    .growth_since(&before)
                    .to_string();
                child.kill().unwrap();
                child.wait().unwrap();
                drop((file, stop));
                let _ = thread.join().unwrap();

                for expected in ["/dev/null", "threads grew", "sleep"] {
                    assert!(growth.contains(expected), "{expected} not in {growth}");
                }
                let after = ResourceSnapshot::take().unwrap().growth_since(&before);
                assert!(after.is_empty(), "{after}");
                finished();
            }
        }
    }

    #[tokio::test]
    async fn sees_tasks() {
        let before = ResourceSnapshot::take().unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        let after = ResourceSnapshot::take().unwrap();
        task.abort();
        assert_eq!(after.tasks, before.tasks + 1);
    }
}
