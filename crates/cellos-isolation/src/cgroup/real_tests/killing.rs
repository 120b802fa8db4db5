//! Nothing of a cell survives.

use super::*;

/// Daemons that left their parent, their session and their process group, and take no hint.
const DAEMONS: &str = "trap '' TERM HUP INT; for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM; \
                       while :; do sleep 1; done' &) ; done; exit 0";

#[test]
fn kill_reaches_double_forked_daemons() {
    let Some(host) = host_with(&[Controller::Memory, Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        memory_max_bytes: Some(64 * MIB),
        pids_max: Some(64),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    assert!(start(&group, &mut shell(DAEMONS)).wait().unwrap().success());
    eventually("daemons run", || group.0.processes().unwrap().len() >= 6);
    assert!(matches!(group.0.remove(), Err(CgroupError::Busy { pids, .. }) if pids.len() >= 3));
    group.0.kill().unwrap();
    assert_eq!(group.0.processes().unwrap(), [0_i32; 0]);
    group.0.kill().unwrap();
    group.0.remove().unwrap();
    group.0.remove().unwrap();
    assert!(gone(&group.0));
    group.0.kill().unwrap();
    assert_eq!(group.0.processes().unwrap(), [0_i32; 0]);
}

#[test]
fn kill_ends_a_fork_bomb() {
    let Some(host) = host_with(&[Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        pids_max: Some(100),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    let mut bomb = start(&group, &mut shell("b() { while :; do b & done; }; b"));
    eventually("the bomb hits its limit", || {
        group.0.stats().unwrap().pids_limit_hits.unwrap() > 0
    });
    group.0.kill().unwrap();
    bomb.wait().unwrap();
    group.0.remove().unwrap();
    assert!(gone(&group.0));
}

#[test]
fn kill_reaches_daemons_in_the_unified_tree() {
    let Some(scratch) = unified("kill") else {
        return;
    };
    let group = unified_group(&scratch);
    let mut parent = start(&group, &mut shell(&format!("sleep 0.2; {DAEMONS}")));
    assert!(parent.wait().unwrap().success());
    eventually("daemons run", || group.0.processes().unwrap().len() >= 6);
    group.0.kill().unwrap();
    assert_eq!(group.0.processes().unwrap(), [0_i32; 0]);
    assert!(group.0.stats().unwrap().cpu_user.is_some());
    group.0.remove().unwrap();
    assert!(gone(&group.0));
}

#[test]
fn a_clone_into_the_unified_leaf_starts_there() {
    let Some(scratch) = unified("clone") else {
        return;
    };
    // `linux/sched.h`; the libc crate's constant overflows.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let group = unified_group(&scratch);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&group.0.unified_directory().unwrap());
    // SAFETY: all-zero is a valid `clone_args`; the fields that matter follow.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
    args.cgroup = u64::try_from(fd).unwrap();
    // SAFETY: without CLONE_VM this is a fork; the child only waits to be killed.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    if pid == 0 {
        loop {
            // SAFETY: async-signal-safe, no arguments.
            unsafe { libc::pause() };
        }
    }
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    assert_eq!(group.0.processes().unwrap(), [i32::try_from(pid).unwrap()]);
    group.0.kill().unwrap();
    group.0.remove().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap();
}
