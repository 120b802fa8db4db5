//! Who a cell is outside: its user namespace maps, and mounts mapped to match.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use cellos_core::document::RunUser;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::{
    init::{MountOrigin, SupplementaryGroups},
    sys::{self, Cloned},
};

/// First host id of cells that root creates. A cell's id is this plus the process id of its
/// init, so no two live cells share one. The range up to pid_max (2^22) lies inside the one that
/// container managers use for dynamic ids (524288 to 1879048191), at its top.
const CELL_ID_BASE: u32 = 0x6800_0000;

/// Largest process id, `PID_MAX_LIMIT` of 64-bit kernels.
const PID_MAX: u32 = 1 << 22;

/// How cells get their identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdentityMode {
    /// As root: each cell is a host user of its own.
    OwnUser,
    /// Without privileges: a cell is the caller, seen through a map.
    Caller { uid: u32, gid: u32 },
}

impl IdentityMode {
    /// Root has users of its own for its cells only where the kernel knows them: in a user
    /// namespace that maps little more than one user, root is not more than that user.
    pub(crate) fn detect() -> Self {
        let uid = rustix::process::geteuid();
        let has_cell_ids = |map| fs::read_to_string(map).is_ok_and(|map| maps_cell_ids(&map));
        if uid.is_root() && has_cell_ids("/proc/self/uid_map") && has_cell_ids("/proc/self/gid_map")
        {
            Self::OwnUser
        } else {
            Self::Caller {
                uid: uid.as_raw(),
                gid: rustix::process::getegid().as_raw(),
            }
        }
    }

    /// Where a cell's mounts come from: the launcher has to map them where the cell is a host
    /// user of its own.
    pub(crate) fn mount_origin(self) -> MountOrigin {
        match self {
            Self::OwnUser => MountOrigin::Launcher,
            Self::Caller { .. } => MountOrigin::Cell,
        }
    }

    pub(crate) fn groups(self) -> SupplementaryGroups {
        match self {
            Self::OwnUser => SupplementaryGroups::Drop,
            Self::Caller { .. } => SupplementaryGroups::Keep,
        }
    }

    /// Host user and group of the cell whose init is `init`.
    pub(crate) fn host_ids(self, init: Pid) -> (u32, u32) {
        match self {
            Self::OwnUser => {
                let id = CELL_ID_BASE.wrapping_add(init.as_raw_nonzero().get().cast_unsigned());
                (id, id)
            }
            Self::Caller { uid, gid } => (uid, gid),
        }
    }

    /// Writes the maps of the user namespace that `init` is in (user_namespaces(7)).
    pub(crate) fn map(self, init: Pid, user: RunUser) -> io::Result<()> {
        let (host_uid, host_gid) = self.host_ids(init);
        if matches!(self, Self::Caller { .. }) {
            write_proc(init, "setgroups", "deny")?;
        }
        write_proc(init, "uid_map", &format!("{} {host_uid} 1\n", user.uid))?;
        write_proc(init, "gid_map", &format!("{} {host_gid} 1\n", user.gid))
    }
}

/// Whether a map in the form of user_namespaces(7) has every id that a cell of root's may get.
fn maps_cell_ids(map: &str) -> bool {
    let last = u64::from(CELL_ID_BASE) + u64::from(PID_MAX);
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inside)), Some(_), Some(Ok(count))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        inside <= u64::from(CELL_ID_BASE) && inside.saturating_add(count) > last
    })
}

/// A user namespace that maps the owner of a folder to a cell's host ids, for
/// `MOUNT_ATTR_IDMAP` of mount_setattr(2).
pub(crate) fn mapping_namespace(owner: (u32, u32), host_ids: (u32, u32)) -> io::Result<OwnedFd> {
    let launcher = rustix::process::getpid();
    // SAFETY: the launcher has a single thread.
    match unsafe { sys::clone_process(libc::CLONE_NEWUSER as u64, None)? } {
        Cloned::Child => loop {
            // It only has to exist until its namespace has been opened, and has to end with a
            // launcher that is killed before then.
            let end = rustix::process::set_parent_process_death_signal(Some(
                rustix::process::Signal::KILL,
            ));
            if end.is_err() || rustix::process::getppid() != Some(launcher) {
                sys::exit_now(1);
            }
            let _ = rustix::thread::nanosleep(&rustix::time::Timespec {
                tv_sec: 60,
                tv_nsec: 0,
            });
        },
        Cloned::Parent { pid, pidfd } => {
            let namespace = write_proc(pid, "uid_map", &format!("{} {} 1\n", owner.0, host_ids.0))
                .and_then(|()| {
                    write_proc(pid, "gid_map", &format!("{} {} 1\n", owner.1, host_ids.1))
                })
                .and_then(|()| fs::File::open(proc_path(pid, "ns/user")));
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
            rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
            Ok(namespace?.into())
        }
    }
}

fn proc_path(pid: Pid, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()))
}

fn write_proc(pid: Pid, file: &str, content: &str) -> io::Result<()> {
    fs::write(proc_path(pid, file), content)
        .map_err(|error| io::Error::new(error.kind(), format!("write {file}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_map_with_the_whole_range_has_ids_for_cells() {
        for (map, has) in [
            ("         0          0 4294967295\n", true),
            ("         0       1000          1\n", false),
            ("0 1000 1\n1 100000 65536\n", false),
            ("0 1000 1\n1744830464 200000 4194304\n", false),
            ("0 1000 1\n1744830464 200000 4194305\n", true),
            ("", false),
        ] {
            assert_eq!(maps_cell_ids(map), has, "{map:?}");
        }
    }
}
