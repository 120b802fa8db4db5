//! What can go wrong with control groups.

use std::{fmt, io, path::PathBuf, time::Duration};

use super::Controller;

/// Why a controller cannot be used here, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// What is missing.
    pub why: String,
    /// What mends it.
    pub mend: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.mend)
    }
}

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening a cgroup directory.
    Open,
    /// Making a leaf.
    Make,
    /// Reading a control file.
    Read,
    /// Writing a control file.
    Write,
    /// Moving a process.
    Join,
    /// Killing a process.
    Kill,
    /// Removing a leaf.
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Make => "make",
            Self::Read => "read",
            Self::Write => "write",
            Self::Join => "move a process into",
            Self::Kill => "kill the processes of",
            Self::Remove => "remove",
        })
    }
}

/// An operation on a control group that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The limit needs a controller that this host does not give.
    #[error("no {controller} limit can be set here: {unavailable}")]
    Unavailable {
        /// The controller.
        controller: Controller,
        /// Why and what mends it.
        unavailable: Unavailable,
    },
    /// The kernel has no such limit.
    #[error("{field} = {value}: {why}")]
    Limit {
        /// Field of the document.
        field: &'static str,
        /// The value asked for.
        value: String,
        /// What the kernel accepts.
        why: String,
    },
    /// The name cannot be that of a leaf.
    #[error("`{name}` is not the name of a cell's cgroup (make it with leaf_name)")]
    LeafName {
        /// The name given.
        name: String,
    },
    /// The path is not that of a cell's cgroup, so it is left alone.
    #[error("{path} is not a cell's cgroup: {why}")]
    NotALeaf {
        /// The path given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: Operation,
        /// File or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A control file holds something unexpected.
    #[error("{path} holds `{value}`, which is not a number")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Its text, shortened.
        value: String,
    },
    /// cgroup v2 forbids processes beside leaves, and some are not ours to move.
    #[error(
        "{path} holds processes that are not ours ({pids:?}), and cgroup v2 gives limits only to \
         cgroups whose parent holds none (start cellos in a cgroup of its own, or give it one with \
         CELLOS_CGROUP_PARENT)"
    )]
    OtherProcesses {
        /// The cgroup that should be the leaves' parent.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
    },
    /// Processes are left after killing for as long as is allowed.
    #[error("{path} still holds processes {pids:?} after {waited:?} of killing")]
    Survivors {
        /// The leaf.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
        /// How long was tried.
        waited: Duration,
    },
    /// The leaf stays busy.
    #[error("{path} cannot be removed after {waited:?}: it holds processes {pids:?}")]
    Busy {
        /// The leaf.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
        /// How long was tried.
        waited: Duration,
    },
    /// No delegated scope from systemd.
    #[error("cannot get a delegated scope from the user's systemd")]
    Scope(#[from] ScopeError),
}

impl CgroupError {
    pub(super) fn io(
        operation: Operation,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Why systemd's user manager gave no scope.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// busctl could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{program} did not answer within {timeout:?}")]
    Timeout {
        /// The program.
        program: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// systemd said no.
    #[error("{program} failed: {message}")]
    Refused {
        /// The program.
        program: PathBuf,
        /// The end of what it wrote to stderr.
        message: String,
    },
    /// The call succeeded, but the process was not moved.
    #[error("process {pid} was not moved into {unit} within {timeout:?}")]
    NotMoved {
        /// The process.
        pid: i32,
        /// The scope.
        unit: String,
        /// How long was waited.
        timeout: Duration,
    },
}
