//! Control groups: limits, figures and a sure kill for the processes of one cell.
//!
//! [`CgroupHost::detect`] reads once what this host has (cgroup v1, v2 or both, and which cgroup is
//! ours in each); [`CgroupHost::create`] then makes one leaf per hierarchy that the declared limits
//! need, and no other: on v1 each costs 50 to 95 µs to make with its limit, 20 µs to join and 35 to
//! 55 µs to remove. A cell that declares no limits gets no leaf (its figures come from `wait4`, its
//! end from its PID namespace) unless [`Accounting::Always`] is asked for.
//!
//! How a process gets into a leaf matters more than anything else here. Writing a process id to
//! `cgroup.procs` takes a kernel-wide lock that waits for an RCU grace period: 5 to 20 ms on an idle
//! machine. The launcher therefore uses `CLONE_INTO_CGROUP` ([`Cgroup::unified_directory`]) for v2,
//! and lets the still single-threaded child move itself ([`Cgroup::join_v1_from_child`]) for v1, which
//! takes no such lock. [`Cgroup::add_process`] is for everybody else.
//!
//! Swap counts: a cell never has more than its limit in memory and swap together. On v1 that is
//! `memory.memsw.limit_in_bytes`; on v2 the cell may not swap at all (`memory.swap.max` is 0), since v2
//! has no limit on the sum. A host with swap on and no swap accounting cannot hold the limit, so a
//! memory limit is refused there.
//!
//! Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v2` and `admin-guide/cgroup-v1`.

#![deny(unsafe_code)]

mod control;
mod delegation;
mod error;
mod group;
mod host;
mod kill;
mod layout;
mod leaf_name;
mod limits;
mod scope;
mod stale;
mod stats;

pub use error::{CgroupError, Operation, ScopeError, Unavailable};
pub use group::Cgroup;
pub use host::CgroupHost;
pub use leaf_name::{Creator, LEAF_NAME_MAX, leaf_name};
pub use limits::{Accounting, CpuMax, EffectiveLimits, Limits};
pub use scope::{BUSCTL_TIMEOUT, start_user_scope};
pub use stale::{ReapReport, remove_stale};
pub use stats::Stats;

#[cfg(test)]
mod real_tests;

use std::fmt;

/// A kernel controller that enforces a limit of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// `run.limits.memoryMaxBytes`.
    Memory,
    /// `run.limits.cpuMax`.
    Cpu,
    /// `run.limits.pidsMax`.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name, as in `cgroup.controllers` and in the mount options of v1.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of the kernel's two cgroup interfaces a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What enforces a limit here. Displays as `cgroup v1 memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mechanism {
    /// The interface.
    pub version: Version,
    /// The controller.
    pub controller: Controller,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        write!(f, "cgroup {version} {}", self.controller)
    }
}
