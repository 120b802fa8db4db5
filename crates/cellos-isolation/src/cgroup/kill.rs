//! Killing everything in a cell's leaves.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    CgroupError, Controller, Operation, Version,
    group::{Leaf, processes_of},
};

/// How long killing may take. A killed process needs far less, unless it waits for a device.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// Rounds of killing before forking is stopped by `pids.max`. A workload that is not a fork bomb is
/// gone by then, and its count of refused forks is left as it was.
const ROUNDS_BEFORE_NO_FORKS: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_micros(50);
const PAUSE_LONGEST: Duration = Duration::from_millis(5);

/// Kills until every leaf is empty.
pub(super) fn kill_all(leaves: &[Leaf]) -> Result<(), CgroupError> {
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    let mut round = 0_u32;
    loop {
        let mut left: Option<(&Leaf, Vec<i32>)> = None;
        for leaf in leaves {
            let members = processes_of(&leaf.directory)?;
            if members.is_empty() {
                continue;
            }
            if round == 0 || !has_kill_file(leaf) {
                kill_round(leaf, &members)?;
            }
            left = left.or(Some((leaf, members)));
        }
        let Some((leaf, pids)) = left else {
            return Ok(());
        };
        if started.elapsed() >= KILL_TIMEOUT {
            return Err(CgroupError::Survivors {
                path: leaf.directory.path().to_owned(),
                pids,
                waited: KILL_TIMEOUT,
            });
        }
        round = round.saturating_add(1);
        if round == ROUNDS_BEFORE_NO_FORKS {
            stop_forks(leaves);
        }
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(PAUSE_LONGEST);
    }
}

fn has_kill_file(leaf: &Leaf) -> bool {
    let none = rustix::fs::AtFlags::empty();
    leaf.version == Version::V2
        && rustix::fs::statat(leaf.directory.fd(), c"cgroup.kill", none).is_ok()
}

fn kill_round(leaf: &Leaf, members: &[i32]) -> Result<(), CgroupError> {
    let fail = |e| CgroupError::io(Operation::Kill, leaf.directory.path(), e);
    if leaf.version == Version::V2 {
        match leaf.directory.write_raw(c"cgroup.kill", b"1") {
            Ok(()) => return Ok(()),
            // Before Linux 5.14. A frozen v2 cgroup cannot fork, and its processes can be killed.
            Err(Errno::NOENT) => {
                let _ = leaf.directory.write_raw(c"cgroup.freeze", b"1");
            }
            Err(Errno::NODEV) => return Ok(()),
            Err(e) => return Err(fail(e)),
        }
    }
    // A process id may be reused between reading and killing. So: take handles, read again, and kill
    // only what is still listed. A handle of something else is not listed; a listed id whose handle is
    // of a dead process gets ESRCH and is met in the next round.
    let handles: Vec<_> = members
        .iter()
        .filter_map(|id| {
            let handle = pidfd_open(Pid::from_raw(*id)?, PidfdFlags::empty()).ok()?;
            Some((*id, handle))
        })
        .collect();
    let still = processes_of(&leaf.directory)?;
    for (id, handle) in handles {
        if !still.contains(&id) {
            continue;
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(())
}

/// Lets nothing in the cell fork any more, where the pids controller is there.
fn stop_forks(leaves: &[Leaf]) {
    for leaf in leaves {
        if leaf.controllers.contains(&Controller::Pids) {
            // Without it the rounds go on all the same.
            let _ = leaf.directory.write_raw(c"pids.max", b"0");
        }
    }
}
