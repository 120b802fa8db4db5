//! Finding and ending processes.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

/// Longest sweep: far more than the kernel needs to end any number of processes, and short
/// enough that one in uninterruptible sleep does not hold teardown up for ever.
const SWEEP_BOUND: Duration = Duration::from_secs(5);

/// Pause between two looks while killed processes have not ended yet.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// What a sweep came to.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Processes that were there and were killed, the main one not counted.
    pub(super) killed: u64,
    /// Processes that are still there.
    pub(super) still_there: Vec<u32>,
}

/// Kills every descendant of this process, which must be their subreaper.
///
/// Only own children are signalled: their ids cannot be reused before they are waited for. Their
/// children become ours when they die, and are killed in the next round, until the kernel says
/// that there are no children. `ended` is told about each child that was waited for.
pub(super) fn kill_all(main: Pid, mut ended: impl FnMut(Pid, WaitStatus)) -> Sweep {
    let deadline = Instant::now() + SWEEP_BOUND;
    let mut sweep = Sweep::default();
    let mut signalled = std::collections::BTreeSet::new();
    loop {
        for pid in children() {
            if rustix::process::kill_process(pid, Signal::KILL).is_ok()
                && signalled.insert(pid.as_raw_pid())
                && pid != main
            {
                sweep.killed += 1;
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    signalled.remove(&pid.as_raw_pid());
                    ended(pid, status);
                }
                Ok(None) => break,
                Err(Errno::INTR) => {}
                // ECHILD: nothing is left.
                Err(_) => return sweep,
            }
        }
        if Instant::now() >= deadline {
            sweep.still_there = children().map(number).collect();
            return sweep;
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
}

/// Kills every process of a session, for when its helper is gone. Best effort: processes that made
/// a session of their own are not found.
pub(super) fn kill_session(session: u32) {
    for process in processes().filter(|process| process.session == session) {
        if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// CPU time of every child that was waited for and of theirs, in microseconds: user, kernel.
pub(super) fn cpu_of_ended_children() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = after_command(&stat)?.split_ascii_whitespace().skip(13);
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut micros = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        ticks.checked_mul(1_000_000)?.checked_div(ticks_per_second)
    };
    Some((micros()?, micros()?))
}

/// Own children that run.
fn children() -> impl Iterator<Item = Pid> {
    let own = std::process::id();
    processes()
        .filter(move |process| process.parent == own && !process.zombie)
        .filter_map(|process| i32::try_from(process.pid).ok().and_then(Pid::from_raw))
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_pid().unsigned_abs()
}

struct Process {
    pid: u32,
    parent: u32,
    session: u32,
    /// It has ended and only waits to be waited for.
    zombie: bool,
}

/// All processes that can be seen. One that ends meanwhile is left out.
fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| read_process(pid).ok().flatten())
}

fn read_process(pid: u32) -> io::Result<Option<Process>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(parse_stat(pid, &stat))
}

/// State, parent and session out of `/proc/PID/stat`, proc_pid_stat(5).
fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    let mut fields = after_command(stat)?.split_ascii_whitespace();
    let zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        session,
        zombie,
    })
}

/// What follows the command name, which may itself contain spaces and parentheses.
fn after_command(stat: &str) -> Option<&str> {
    Some(&stat[stat.rfind(')')? + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_name_with_parentheses_does_not_shift_the_fields() {
        let process = parse_stat(7, "7 (a) R 1 (b) c) S 42 43 44 0 -1").unwrap();
        assert_eq!((process.parent, process.session), (42, 44));
    }

    #[test]
    fn own_process_is_seen_with_its_parent() {
        let own = processes()
            .find(|process| process.pid == std::process::id())
            .unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
    }
}
