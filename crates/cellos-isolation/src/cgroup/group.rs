//! The leaves of one cell, as one thing.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    CgroupError, Controller, EffectiveLimits, Operation, Stats, Version, control::Directory, kill,
    limits,
};

/// How long [`Cgroup::remove`] waits while the kernel still counts processes that have ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts.
const PAUSE_FIRST: Duration = Duration::from_micros(100);
const PAUSE_LONGEST: Duration = Duration::from_millis(10);
/// How deep cgroups beneath a leaf are removed too. A cell cannot make any (it sees no cgroup file
/// system); this is for what an operator's tool may have made.
const NESTING_MAX: usize = 8;

/// One directory of a cell in one hierarchy.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) version: Version,
    /// Controllers whose limits or figures this leaf has.
    pub(super) controllers: Vec<Controller>,
    pub(super) parent: Directory,
    pub(super) directory: Directory,
    pub(super) name: String,
}

/// The control groups of one cell: one leaf per hierarchy in use, or none at all.
///
/// Dropping it removes nothing, so that a leaf outlives whoever made it; call [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    pub(super) leaves: Vec<Leaf>,
}

impl Cgroup {
    /// No control groups of its own: what a cell without limits has.
    #[must_use]
    pub const fn none() -> Self {
        Self { leaves: Vec::new() }
    }

    /// Opens the leaves of a cell by their recorded paths. A path that is gone is left out.
    ///
    /// # Errors
    /// A path that is not a leaf of ours in a cgroup file system, or cannot be opened.
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self, CgroupError> {
        let mut leaves = Vec::new();
        for path in paths {
            leaves.extend(open_leaf(path.as_ref())?);
        }
        Ok(Self { leaves })
    }

    /// Directories of this cell, the primary one first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.leaves.iter().map(|leaf| leaf.directory.path())
    }

    /// The directory that stands for the cell in evidence: v2 before v1, memory before the others.
    /// `None` when no limit needed one.
    #[must_use]
    pub fn primary_path(&self) -> Option<&Path> {
        self.paths().next()
    }

    /// The v2 directory, for `CLONE_INTO_CGROUP` of `clone3(2)`. The caller needs write access to
    /// `cgroup.procs` of the common ancestor, which detection has made sure of.
    #[must_use]
    pub fn unified_directory(&self) -> Option<BorrowedFd<'_>> {
        let unified = self.leaves.iter().find(|l| l.version == Version::V2)?;
        Some(unified.directory.fd())
    }

    /// Moves the calling process into the v1 leaves: the cheap way, about 20 µs each. For a child
    /// right after `clone3` with [`Cgroup::unified_directory`], while it still has one thread and its own
    /// view of the host's cgroup file systems is not needed (everything goes through open
    /// directories). Does not allocate unless it fails. Must come before the child makes its cgroup
    /// namespace (so that the namespace's root is the leaf) and before it gives up its user.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn join_v1_from_child(&self) -> Result<(), CgroupError> {
        for leaf in self.leaves.iter().filter(|l| l.version == Version::V1) {
            join_caller(leaf)?;
        }
        Ok(())
    }

    /// As [`Cgroup::join_v1_from_child`], for a child that was made without `CLONE_INTO_CGROUP`: moves
    /// it into the v2 leaf too, at the price of [`Cgroup::add_process`] there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn join_from_child(&self) -> Result<(), CgroupError> {
        for leaf in &self.leaves {
            join_caller(leaf)?;
        }
        Ok(())
    }

    /// Moves a process, with all its threads, into every leaf. Takes 5 to 20 ms per leaf on an idle
    /// machine (see the module); the launch path has better ways.
    ///
    /// # Errors
    /// `ESRCH` when the process has ended; `EACCES` or `EPERM` when it is not ours to move; `EAGAIN`
    /// never, since a move is not counted against `pids.max`.
    pub fn add_process(&self, pid: i32) -> Result<(), CgroupError> {
        let value = pid.to_string();
        for leaf in &self.leaves {
            leaf.directory
                .write_raw(c"cgroup.procs", value.as_bytes())
                .map_err(|e| CgroupError::io(Operation::Join, leaf.directory.path(), e))?;
        }
        Ok(())
    }

    /// What was used so far. Read it before [`Cgroup::kill`], which may itself count as refused forks.
    ///
    /// # Errors
    /// A control file that is there and cannot be read or understood.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        // v1 first: see `Stats::read`.
        for version in [Version::V1, Version::V2] {
            for leaf in self.leaves.iter().filter(|l| l.version == version) {
                stats.read(&leaf.directory, version, &leaf.controllers)?;
            }
        }
        Ok(stats)
    }

    /// The limits that the kernel holds, for evidence.
    ///
    /// # Errors
    /// As [`Cgroup::stats`].
    pub fn effective_limits(&self) -> Result<EffectiveLimits, CgroupError> {
        let mut held = EffectiveLimits::default();
        for leaf in &self.leaves {
            limits::read_back(&leaf.directory, leaf.version, &leaf.controllers, &mut held)?;
        }
        Ok(held)
    }

    /// Processes in any leaf, as ids in our PID namespace.
    ///
    /// # Errors
    /// A leaf that cannot be read. One that is gone holds no process.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut all = Vec::new();
        for leaf in &self.leaves {
            all.extend(processes_of(&leaf.directory)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Kills everything in the leaves and waits until they are empty: `cgroup.kill` on v2; on v1
    /// (and v2 before Linux 5.14) in rounds, with forking stopped when a few rounds were not enough.
    ///
    /// # Errors
    /// [`CgroupError::Survivors`] when processes are left after two seconds.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill::kill_all(&self.leaves)
    }

    /// Removes the leaves; ones that are gone are fine. Waits a moment for processes that have ended
    /// but are still counted.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] names what is left. All leaves are tried, the first error is returned.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for leaf in &self.leaves {
            result = result.and(remove_leaf(leaf));
        }
        result
    }
}

/// Moves the calling process, which has one thread.
fn join_caller(leaf: &Leaf) -> Result<(), CgroupError> {
    let file = match leaf.version {
        // `tasks` with 0 moves the calling thread and needs no lock over all processes.
        Version::V1 => c"tasks",
        // Moving threads alone is for threaded cgroups only.
        Version::V2 => c"cgroup.procs",
    };
    let result = leaf.directory.write_raw(file, b"0");
    result.map_err(|e| CgroupError::io(Operation::Join, leaf.directory.path(), e))
}

/// Processes of one leaf; none when it is gone.
pub(super) fn processes_of(leaf: &Directory) -> Result<Vec<i32>, CgroupError> {
    match leaf.processes() {
        // A removed cgroup: its files are gone (ENOENT), or answer ENODEV through an open directory.
        Err(CgroupError::Io { source, .. })
            if [Errno::NOENT, Errno::NODEV]
                .iter()
                .any(|e| source.raw_os_error() == Some(e.raw_os_error())) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn remove_leaf(leaf: &Leaf) -> Result<(), CgroupError> {
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        match leaf.parent.remove_child(&leaf.name) {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => remove_beneath(&leaf.directory, NESTING_MAX)?,
            Err(e) => return Err(CgroupError::io(Operation::Remove, leaf.directory.path(), e)),
        }
        if started.elapsed() >= REMOVE_TIMEOUT {
            return Err(CgroupError::Busy {
                path: leaf.directory.path().to_owned(),
                pids: processes_of(&leaf.directory)?,
                waited: REMOVE_TIMEOUT,
            });
        }
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(PAUSE_LONGEST);
    }
}

fn remove_beneath(directory: &Directory, depth: usize) -> Result<(), CgroupError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Ok(());
    };
    for name in directory.children()? {
        if let Ok(child) = directory.open_child(&name) {
            remove_beneath(&child, depth)?;
        }
        // Busy here is busy above, and reported there.
        let _ = directory.remove_child(&name);
    }
    Ok(())
}

/// Opens one recorded leaf; `None` when it is gone.
fn open_leaf(path: &Path) -> Result<Option<Leaf>, CgroupError> {
    let refuse = |why| CgroupError::NotALeaf {
        path: path.to_owned(),
        why,
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| super::leaf_name::creator_of(name).is_some());
    let (Some(name), Some(parent)) = (name, path.parent()) else {
        return Err(refuse("its name was not made by leaf_name"));
    };
    let parent = match Directory::open(parent) {
        Ok(parent) => parent,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let version = version_of(&parent)
        .map_err(|e| CgroupError::io(Operation::Open, path, e))?
        .ok_or_else(|| refuse("it is not in a cgroup file system"))?;
    match parent.open_child(name) {
        Ok(directory) => Ok(Some(Leaf {
            version,
            controllers: present_controllers(&directory, version),
            parent,
            directory,
            name: name.to_owned(),
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(CgroupError::io(Operation::Open, path, e)),
    }
}

fn is_absent(error: &CgroupError) -> bool {
    matches!(error, CgroupError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Which interface the file system beneath an open directory speaks (`statfs(2)`).
pub(super) fn version_of(directory: &Directory) -> Result<Option<Version>, Errno> {
    const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    let kind = rustix::fs::fstatfs(directory.fd())?.f_type;
    Ok(match u64::try_from(kind) {
        Ok(CGROUP_SUPER_MAGIC) => Some(Version::V1),
        Ok(CGROUP2_SUPER_MAGIC) => Some(Version::V2),
        _ => None,
    })
}

/// Controllers whose files a leaf has.
fn present_controllers(leaf: &Directory, version: Version) -> Vec<Controller> {
    let file = |controller| match (controller, version) {
        (Controller::Memory, Version::V1) => c"memory.limit_in_bytes",
        (Controller::Memory, Version::V2) => c"memory.max",
        (Controller::Cpu, Version::V1) => c"cpu.cfs_quota_us",
        (Controller::Cpu, Version::V2) => c"cpu.max",
        (Controller::Pids, _) => c"pids.max",
    };
    let mut all = Controller::ALL.to_vec();
    all.retain(|controller| {
        let none = rustix::fs::AtFlags::empty();
        rustix::fs::statat(leaf.fd(), file(*controller), none).is_ok()
    });
    all
}

/// Makes one leaf beneath a parent. The caller removes it if a later step fails.
pub(super) fn make_leaf(
    parent: &Directory,
    name: &str,
    version: Version,
    controllers: Vec<Controller>,
) -> Result<Leaf, CgroupError> {
    let path = || -> PathBuf { parent.path().join(name) };
    rustix::fs::mkdirat(parent.fd(), name, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|e| CgroupError::io(Operation::Make, path(), e))?;
    match parent.open_child(name) {
        Ok(directory) => Ok(Leaf {
            version,
            controllers,
            parent: parent.clone(),
            directory,
            name: name.to_owned(),
        }),
        Err(e) => {
            let _ = parent.remove_child(name);
            Err(CgroupError::io(Operation::Open, path(), e))
        }
    }
}
