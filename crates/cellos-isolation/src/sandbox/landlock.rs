//! File and signal limits on top of the mount tree (landlock(7)).
//!
//! The mount tree already decides what exists; Landlock is a second line that holds even if a mount
//! flag was wrong. Reading and executing is allowed beneath the given read-only folders, writing only
//! beneath the writable ones, and device ioctls only on the given devices. No rule grants making
//! device nodes. Where the kernel knows scopes (ABI 6), abstract Unix sockets and signals stop at the
//! domain; a process that joins a running cell later is outside of the domain of the cell's first
//! process and cannot signal it, nor the other way round.

use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus as KernelStatus, PathBeneath, PathFd,
    PathFdError, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// What was enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LandlockStatus {
    /// The version of Landlock that the rules use: the lesser of the kernel's and [`NEWEST_ABI`]; 0
    /// where the kernel has no Landlock or it is switched off, so nothing is enforced.
    pub abi: u32,
}

/// Restricting failed. The process must not go on to run a workload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandlockError {
    /// A path of the rules could not be opened.
    #[error("landlock rule for {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What opening it said.
        #[source]
        source: PathFdError,
    },
    /// The kernel refused the rules.
    #[error("landlock ruleset")]
    Ruleset(#[from] RulesetError),
    /// The kernel has Landlock, yet reports that nothing is enforced.
    #[error("landlock is available but was not enforced")]
    NotEnforced,
}

/// The newest version of Landlock whose rights are used. Later ones restrict more kinds of access,
/// each of which has to be thought about first.
pub const NEWEST_ABI: u32 = 6;
const ABI_USED: ABI = ABI::V6;

/// Restricts the calling thread, and all it starts, for good. `no_new_privs` must be set.
///
/// `read_only` and `read_write` are folders (or files), `devices` are device nodes, or folders of
/// them, that may be read, written and controlled by ioctl. Programs need `/dev/shm` among the
/// writable folders (POSIX semaphores and shared memory are files there) and `/proc` (threads are
/// named through it); `/dev`, where it holds only what the cell may use, makes one rule of all
/// devices. Costs three system calls for each path and four besides.
///
/// # Errors
/// A path that cannot be opened, or rules that the kernel refuses. No Landlock is not an error but
/// [`LandlockStatus::abi`] 0.
pub fn restrict(
    read_only: &[&Path],
    read_write: &[&Path],
    devices: &[&Path],
) -> Result<LandlockStatus, LandlockError> {
    let handled = AccessFs::from_all(ABI_USED);
    let read = AccessFs::from_read(ABI_USED);
    let device_nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
    let write = handled & !(device_nodes | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;

    let mut rules = Ruleset::default()
        .handle_access(handled)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    for (paths, access) in [(read_only, read), (read_write, write), (devices, device)] {
        for path in paths {
            rules = allow_beneath(rules, path, access)?;
        }
    }
    // The caller has set it already; and a system call saved is a microsecond saved.
    let status = rules.no_new_privs(false).restrict_self()?;
    enforced(&status)
}

fn allow_beneath(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, LandlockError> {
    let descriptor = PathFd::new(path).map_err(|source| LandlockError::Open {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(rules.add_rule(PathBeneath::new(descriptor, access))?)
}

fn enforced(status: &RestrictionStatus) -> Result<LandlockStatus, LandlockError> {
    match (&status.landlock, &status.ruleset) {
        (KernelStatus::NotEnabled | KernelStatus::NotImplemented, _) => {
            Ok(LandlockStatus { abi: 0 })
        }
        (KernelStatus::Available { .. }, RulesetStatus::NotEnforced) => {
            Err(LandlockError::NotEnforced)
        }
        (KernelStatus::Available { effective_abi, .. }, _) => Ok(LandlockStatus {
            abi: version(*effective_abi).min(NEWEST_ABI),
        }),
    }
}

fn version(abi: ABI) -> u32 {
    match abi {
        ABI::Unsupported => 0,
        ABI::V1 => 1,
        ABI::V2 => 2,
        ABI::V3 => 3,
        ABI::V4 => 4,
        ABI::V5 => 5,
        _ => NEWEST_ABI,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_version_is_the_one_used() {
        assert_eq!(version(ABI_USED), NEWEST_ABI);
        assert_eq!(version(ABI::V7), NEWEST_ABI);
        assert_eq!(version(ABI::V4), 4);
        assert_eq!(version(ABI::Unsupported), 0);
    }
}
