//! An init that builds what every cell has, before or after its document is known.
//!
//! Most of what a cell costs does not depend on its document, so the launcher keeps an init or
//! two that have got that far. They hold nothing but the host's read-only system and wait.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use cellos_core::document::RunUser;
use rustix::{
    net::SendFlags,
    process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use super::{Shared, host, is_running};
use crate::{
    cgroup::Cgroup,
    init::{self, InitContext, InitParts},
    message,
    protocol::{Failure, to_init},
    sys::{self, Cloned},
};

/// A cell's init and the launcher's ends of its sockets.
pub(super) struct Seed {
    pub(super) init: Pid,
    pub(super) init_descriptor: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) workload: OwnedFd,
}

impl Seed {
    /// Creates an init in the given control groups and lets it build what does not depend on a
    /// document.
    pub(super) fn make(
        shared: &Shared,
        user: RunUser,
        writable_bytes: u64,
        cgroup: &Cgroup,
    ) -> Result<Self, Failure> {
        let sockets = || -> io::Result<_> {
            let (control, init_control) = message::pair()?;
            let (workload, init_workload) = message::pair()?;
            message::ask_for_sender(workload.as_fd())?;
            Ok((control, init_control, workload, init_workload))
        };
        let (control, init_control, workload, init_workload) =
            sockets().map_err(|error| host("make sockets", &error))?;
        // SAFETY: the launcher has a single thread.
        match unsafe { sys::clone_process(sys::INIT_NAMESPACES, cgroup.unified_directory()) } {
            Err(error) => Err(clone_failure(&error)),
            Ok(Cloned::Child) => init::run(InitContext {
                parts: InitParts {
                    user,
                    writable_bytes,
                    cgroup,
                    base: &shared.base,
                    filter: &shared.filter,
                    mounts: shared.identity.mount_origin(),
                    groups: shared.identity.groups(),
                },
                control: init_control,
                workload: init_workload,
            }),
            Ok(Cloned::Parent { pid, pidfd }) => {
                let seed = Self {
                    init: pid,
                    init_descriptor: pidfd,
                    control,
                    workload,
                };
                let gone = shared.identity.map(pid, user).and_then(|()| {
                    message::send(seed.control.as_fd(), to_init::GO, &[], SendFlags::empty())
                });
                match gone {
                    Ok(()) => Ok(seed),
                    Err(error) => {
                        seed.discard();
                        Err(host("map the cell's user", &error))
                    }
                }
            }
        }
    }

    /// Whether its init still runs.
    pub(super) fn is_alive(&self) -> bool {
        is_running(self.init_descriptor.as_fd())
    }

    /// Ends an init that no cell came of.
    pub(super) fn discard(self) {
        // An init that has ended by itself is collected all the same.
        let _ = pidfd_send_signal(&self.init_descriptor, Signal::KILL);
        let _ = waitid(
            WaitId::PidFd(self.init_descriptor.as_fd()),
            WaitIdOptions::EXITED,
        );
    }
}

fn clone_failure(error: &io::Error) -> Failure {
    let mend = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; user namespaces are forbidden here: allow them (sysctl \
             kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0) or run as root"
        }
        Some(libc::ENOSPC | libc::EUSERS) => {
            "; the limit on namespaces is reached or 0: raise sysctl user.max_user_namespaces \
             (and user.max_{mnt,pid,net,ipc,uts}_namespaces)"
        }
        Some(libc::EAGAIN) => "; the caller's limit on processes is reached",
        Some(libc::ENOSYS) => "; clone3 is missing: Linux 5.7 or later is needed",
        _ => "",
    };
    Failure::Host(format!("create the cell's namespaces: {error}{mend}"))
}
