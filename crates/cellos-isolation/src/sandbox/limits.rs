//! Resource limits of a cell's processes (setrlimit(2)), beside its cgroup.
//!
//! Limits are only ever lowered: raising a hard limit needs `CAP_SYS_RESOURCE` in the initial user
//! namespace, which a rootless cell never has.

use std::io;

use libc::rlim_t;
use rustix::process::{Resource as Rlimit, getrlimit, setrlimit};

/// A resource limit could not be read or lowered.
#[derive(Debug, thiserror::Error)]
#[error("lower the resource limit {resource:?}")]
pub struct LimitError {
    /// The limit in question.
    pub resource: Resource,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// A limit that is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// `RLIMIT_CORE`: bytes of a core file.
    CoreFile,
    /// `RLIMIT_NOFILE`: descriptors per process.
    OpenFiles,
    /// `RLIMIT_NPROC`: tasks of the user in the user namespace.
    Processes,
    /// `RLIMIT_MEMLOCK`: bytes kept out of swap.
    LockedMemory,
    /// `RLIMIT_MSGQUEUE`: bytes in POSIX message queues, which are kernel memory.
    MessageQueues,
    /// `RLIMIT_RTPRIO`: highest real-time priority.
    RealtimePriority,
    /// `RLIMIT_NICE`: how far the nice value may be lowered.
    Nice,
}

/// Descriptors per process that a program gets unless it asks for more: the field's usual value,
/// and the most that `select` can take.
pub const OPEN_FILES_SOFT: u64 = 1024;
/// Descriptors per process that a program may ask for, which bounds the kernel memory of its
/// descriptor tables.
pub const OPEN_FILES_HARD: u64 = 65_536;
/// Bytes that a process may lock: the kernel's own default since Linux 5.16.
pub const LOCKED_MEMORY_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes in POSIX message queues: the kernel's own default.
pub const MESSAGE_QUEUE_BYTES: u64 = 819_200;

/// Lowers all limits of the calling process to those of a cell. `processes` is the most tasks its
/// user may have in the user namespace, where the document gives one.
///
/// # Errors
/// [`LimitError`] with the limit in question; those before it are lowered by then.
pub fn lower(processes: Option<u64>) -> Result<(), LimitError> {
    lower_one(Resource::CoreFile, 0, 0)?;
    lower_one(Resource::OpenFiles, OPEN_FILES_SOFT, OPEN_FILES_HARD)?;
    lower_one(
        Resource::LockedMemory,
        LOCKED_MEMORY_BYTES,
        LOCKED_MEMORY_BYTES,
    )?;
    lower_one(
        Resource::MessageQueues,
        MESSAGE_QUEUE_BYTES,
        MESSAGE_QUEUE_BYTES,
    )?;
    lower_one(Resource::RealtimePriority, 0, 0)?;
    lower_one(Resource::Nice, 0, 0)?;
    match processes {
        Some(most) => lower_one(Resource::Processes, most, most),
        None => Ok(()),
    }
}

fn lower_one(resource: Resource, soft: rlim_t, hard: rlim_t) -> Result<(), LimitError> {
    let failed = || LimitError {
        resource,
        source: io::Error::last_os_error(),
    };
    let number = match resource {
        Resource::CoreFile => libc::RLIMIT_CORE,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::MessageQueues => libc::RLIMIT_MSGQUEUE,
        Resource::RealtimePriority => libc::RLIMIT_RTPRIO,
        Resource::Nice => libc::RLIMIT_NICE,
    };
    let mut current = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `current` is a valid place for one rlimit and lives through the call.
    if unsafe { libc::getrlimit(number, &raw mut current) } != 0 {
        return Err(failed());
    }
    let lowered = lowered(current, soft, hard);
    if lowered.rlim_cur == current.rlim_cur && lowered.rlim_max == current.rlim_max {
        return Ok(());
    }
    // SAFETY: `lowered` is an initialised rlimit and is only read.
    if unsafe { libc::setrlimit(number, &raw const lowered) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// Lets the calling process have this many descriptors, or as many as its hard limit allows.
/// Returns the soft limit that it had.
///
/// # Errors
/// The kernel's, setrlimit(2).
pub(crate) fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let limit = getrlimit(Rlimit::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let possible = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    if before < possible {
        set_open_files(possible)?;
    }
    Ok(before)
}

/// Sets the soft limit on descriptors.
///
/// # Errors
/// The kernel's, setrlimit(2).
pub(crate) fn set_open_files(soft: u64) -> io::Result<()> {
    let mut limit = getrlimit(Rlimit::Nofile);
    limit.current = (soft != u64::MAX).then_some(soft);
    Ok(setrlimit(Rlimit::Nofile, limit)?)
}

/// `RLIM_INFINITY` is the largest value, so the lesser of two limits is the stricter one.
fn lowered(current: libc::rlimit, soft: rlim_t, hard: rlim_t) -> libc::rlimit {
    let rlim_max = current.rlim_max.min(hard);
    libc::rlimit {
        rlim_cur: current.rlim_cur.min(soft).min(rlim_max),
        rlim_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_only_ever_lowered() {
        let infinity = libc::RLIM_INFINITY;
        let cases = [
            ((infinity, infinity), (1024, 65_536), (1024, 65_536)),
            ((20_000, 20_000), (1024, 65_536), (1024, 20_000)),
            ((256, 512), (1024, 65_536), (256, 512)),
            ((900, 900), (1024, 512), (512, 512)),
            ((0, infinity), (0, 0), (0, 0)),
        ];
        for ((cur, max), (soft, hard), expected) in cases {
            let current = libc::rlimit {
                rlim_cur: cur,
                rlim_max: max,
            };
            let result = lowered(current, soft, hard);
            assert_eq!(
                (result.rlim_cur, result.rlim_max),
                expected,
                "{cur} {max} {soft} {hard}"
            );
        }
    }
}
