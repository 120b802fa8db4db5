//! What the built programs decide, for both architectures, found by running them.

use std::collections::BTreeSet;

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT, c_int};

use super::Filter;
use super::calls::{ALLOWED, CONDITIONAL, Call, HIDDEN, NEWEST, REFUSED};
use super::interpreter::{SyscallData, interpret};
use super::rules::{Architecture, assemble};

const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(c_int),
    Kill,
}

fn decide_raw(architecture: Architecture, audit: u32, nr: u32, args: [u64; 6]) -> Action {
    let program = assemble(architecture);
    match interpret(
        &program,
        &SyscallData {
            nr,
            arch: audit,
            args,
        },
    )
    .unwrap()
    {
        libc::SECCOMP_RET_ALLOW => Action::Allow,
        libc::SECCOMP_RET_KILL_PROCESS => Action::Kill,
        value if value & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO => {
            Action::Errno(c_int::try_from(value & libc::SECCOMP_RET_DATA).unwrap())
        }
        value => panic!("unexpected filter result {value:#x}"),
    }
}

fn decide(architecture: Architecture, nr: u32, args: [u64; 6]) -> Action {
    decide_raw(architecture, architecture.audit_value(), nr, args)
}

fn every_call() -> impl Iterator<Item = &'static Call> {
    let conditional = CONDITIONAL.iter().map(|(call, _)| call);
    ALLOWED
        .iter()
        .chain(REFUSED)
        .chain(HIDDEN)
        .chain(conditional)
}

fn number(architecture: Architecture, name: &str) -> Option<u32> {
    let call = every_call().find(|call| call.0 == name);
    architecture.number(call.unwrap_or_else(|| panic!("no call is named {name}")))
}

/// Arguments with one value at a position.
fn at(position: usize, value: u64) -> [u64; 6] {
    let mut args = [0; 6];
    args[position] = value;
    args
}

#[test]
fn lists_name_each_call_and_number_once() {
    let names: BTreeSet<&str> = every_call().map(|call| call.0).collect();
    assert_eq!(names.len(), every_call().count());
    for architecture in BOTH {
        let numbers: Vec<u32> = every_call()
            .filter_map(|c| architecture.number(c))
            .collect();
        let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "{architecture:?}");
        assert_eq!(distinct.last(), Some(&NEWEST), "{architecture:?}");
    }
}

#[test]
fn native_numbers_are_those_of_libc() {
    let native = Architecture::NATIVE.unwrap();
    macro_rules! check {
        ($($name:ident $constant:ident),* $(,)?) => {
            $(assert_eq!(
                number(native, stringify!($name)).map(libc::c_long::from),
                Some(libc::$constant),
                stringify!($name)
            );)*
        };
    }
    check!(
        read SYS_read, mmap SYS_mmap, ioctl SYS_ioctl, clone SYS_clone, clone3 SYS_clone3,
        execve SYS_execve, execveat SYS_execveat, ptrace SYS_ptrace, personality SYS_personality,
        mount SYS_mount, umount2 SYS_umount2, pivot_root SYS_pivot_root, unshare SYS_unshare,
        setns SYS_setns, keyctl SYS_keyctl, add_key SYS_add_key, request_key SYS_request_key,
        bpf SYS_bpf, perf_event_open SYS_perf_event_open, userfaultfd SYS_userfaultfd,
        openat SYS_openat, openat2 SYS_openat2, mknodat SYS_mknodat, fchmod SYS_fchmod,
        fchmodat SYS_fchmodat, socket SYS_socket, socketpair SYS_socketpair, statx SYS_statx,
        io_uring_setup SYS_io_uring_setup, rseq SYS_rseq, futex_waitv SYS_futex_waitv,
        kexec_load SYS_kexec_load, init_module SYS_init_module, finit_module SYS_finit_module,
        open_by_handle_at SYS_open_by_handle_at, process_vm_writev SYS_process_vm_writev,
        pidfd_getfd SYS_pidfd_getfd, clock_settime SYS_clock_settime, reboot SYS_reboot,
        fsopen SYS_fsopen, mount_setattr SYS_mount_setattr, seccomp SYS_seccomp, mbind SYS_mbind,
    );
}

#[test]
fn every_listed_call_gets_its_verdict_and_every_other_number_is_denied() {
    for architecture in BOTH {
        let among = |calls: &[Call], nr| calls.iter().any(|c| architecture.number(c) == Some(nr));
        for nr in 0..=NEWEST + 50 {
            if CONDITIONAL
                .iter()
                .any(|(call, _)| architecture.number(call) == Some(nr))
            {
                continue;
            }
            let expected = if among(ALLOWED, nr) {
                Action::Allow
            } else if among(HIDDEN, nr) || nr > NEWEST {
                Action::Errno(ENOSYS)
            } else {
                Action::Errno(EPERM)
            };
            // Whatever the arguments: all ones would trip any check of them.
            assert_eq!(
                decide(architecture, nr, [0; 6]),
                expected,
                "{architecture:?} {nr}"
            );
            assert_eq!(
                decide(architecture, nr, [u64::MAX; 6]),
                expected,
                "{architecture:?} {nr}"
            );
        }
    }
}

#[test]
fn soft_parts_of_the_kernel_are_refused_by_name() {
    let refused = "keyctl add_key request_key bpf perf_event_open userfaultfd mount umount2 fsopen \
        fsmount move_mount open_tree mount_setattr pivot_root fspick fsconfig open_tree_attr chroot \
        setns unshare ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp kexec_load \
        kexec_file_load init_module finit_module delete_module open_by_handle_at name_to_handle_at \
        reboot swapon swapoff acct quotactl quotactl_fd settimeofday clock_settime adjtimex \
        clock_adjtime syslog nfsservctl lookup_dcookie vhangup fanotify_init fanotify_mark iopl \
        ioperm modify_ldt";
    let hidden = "clone3 openat2 io_uring_setup io_uring_enter io_uring_register move_pages mbind \
        migrate_pages set_mempolicy get_mempolicy";
    for architecture in BOTH {
        for (names, errno) in [(refused, EPERM), (hidden, ENOSYS)] {
            for name in names.split_whitespace() {
                let Some(nr) = number(architecture, name) else {
                    continue;
                };
                let action = decide(architecture, nr, [0; 6]);
                assert_eq!(action, Action::Errno(errno), "{architecture:?} {name}");
            }
        }
    }
}

#[test]
fn what_programs_need_is_allowed_by_name() {
    let needed = "read write close mmap mprotect munmap brk rt_sigaction rt_sigprocmask \
        rt_sigreturn futex futex_waitv futex_wake futex_wait futex_requeue rseq membarrier \
        set_robust_list execve execveat exit exit_group wait4 waitid kill tgkill getrandom statx \
        newfstatat faccessat2 close_range pipe2 dup3 eventfd2 epoll_create1 epoll_ctl epoll_pwait \
        epoll_pwait2 timerfd_create signalfd4 inotify_init1 memfd_create pidfd_open \
        pidfd_send_signal landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp \
        prctl mlock mlock2 sched_setaffinity sched_getaffinity copy_file_range splice sendfile \
        renameat2 linkat symlinkat mkdirat unlinkat utimensat fallocate prlimit64 setsid setpgid \
        connect bind listen accept4 sendmsg recvmsg getdents64 shmget semop msgget mq_open \
        io_setup pkey_alloc restart_syscall clock_nanosleep mseal open mkdir fork vfork arch_prctl";
    for architecture in BOTH {
        for name in needed.split_whitespace() {
            let Some(nr) = number(architecture, name) else {
                continue;
            };
            let expected = match name {
                // Decided by the flags; without any it opens for reading.
                "open" => at(2, 0),
                _ => [u64::MAX; 6],
            };
            assert_eq!(
                decide(architecture, nr, expected),
                Action::Allow,
                "{architecture:?} {name}"
            );
        }
    }
}

#[test]
fn foreign_architectures_are_killed() {
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    const AARCH64_BIG_ENDIAN: u32 = 0x8000_00b7;
    for architecture in BOTH {
        let other = BOTH
            .into_iter()
            .find(|other| *other != architecture)
            .unwrap();
        for audit in [
            I386,
            ARM,
            AARCH64_BIG_ENDIAN,
            other.audit_value(),
            0,
            u32::MAX,
        ] {
            for nr in [0, 1, 39, 63, 400] {
                assert_eq!(
                    decide_raw(architecture, audit, nr, [0; 6]),
                    Action::Kill,
                    "{audit:#x}"
                );
            }
        }
    }
}

#[test]
fn x32_calls_are_killed_and_numbers_beyond_all_calls_do_not_exist() {
    let x32 = 0x4000_0000;
    for nr in [
        x32,
        x32 + 1,
        x32 + 512,
        x32 + 547,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 1,
    ] {
        assert_eq!(
            decide(Architecture::X86_64, nr, [0; 6]),
            Action::Kill,
            "{nr:#x}"
        );
        assert_eq!(
            decide(Architecture::Aarch64, nr, [0; 6]),
            Action::Errno(ENOSYS),
            "{nr:#x}"
        );
    }
    for architecture in BOTH {
        for nr in [NEWEST + 1, 0x3fff_ffff, u32::MAX] {
            assert_eq!(
                decide(architecture, nr, [0; 6]),
                Action::Errno(ENOSYS),
                "{nr:#x}"
            );
        }
    }
}

/// Bits that the kernel drops from a 32-bit argument.
const UPPER: u64 = 0xffff_ffff_0000_0000;

#[test]
fn arguments_decide_whatever_the_upper_half_of_the_register_holds() {
    use Action::{Allow, Errno};
    const REFUSED: Action = Errno(EPERM);
    let (create, read_only, tmpfile) = (0o100 | 0o1, 0, 0o20_200_000);
    let cases = [
        ("clone", at(0, 0x003d_0f00), Allow), // what pthread_create passes
        ("clone", at(0, 0x0120_0011), Allow), // what fork passes
        ("clone", at(0, 0x0002_0000), REFUSED),
        ("clone", at(0, 0x0200_0000), REFUSED),
        ("clone", at(0, 0x0400_0000), REFUSED),
        ("clone", at(0, 0x0800_0000), REFUSED),
        ("clone", at(0, 0x1000_0000), REFUSED),
        ("clone", at(0, 0x2000_0000), REFUSED),
        ("clone", at(0, 0x4000_0011), REFUSED),
        ("ioctl", at(1, 0x5401), Allow), // TCGETS
        ("ioctl", at(1, 0x5413), Allow), // TIOCGWINSZ
        ("ioctl", at(1, 0x5412), REFUSED),
        ("ioctl", at(1, 0x541c), REFUSED),
        ("ioctl", at(1, 0x5423), REFUSED),
        ("personality", at(0, 0), Allow),
        ("personality", at(0, 8), Allow),
        ("personality", at(0, 0x4_0000), Allow),
        ("personality", at(0, 0xffff_ffff), Allow),
        ("personality", at(0, 0x40_0000), REFUSED), // READ_IMPLIES_EXEC
        ("personality", at(0, 0x10_0000), REFUSED), // MMAP_PAGE_ZERO
        ("personality", at(0, 1), REFUSED),
        ("open", [0, create, 0o644, 0, 0, 0], Allow),
        ("open", [0, create, 0o4755, 0, 0, 0], REFUSED),
        ("open", [0, create, 0o2755, 0, 0, 0], REFUSED),
        ("open", [0, read_only, 0o7777, 0, 0, 0], Allow),
        ("openat", [0, 0, create, 0o1644, 0, 0], Allow),
        ("openat", [0, 0, create, 0o4755, 0, 0], REFUSED),
        ("openat", [0, 0, tmpfile, 0o2755, 0, 0], REFUSED),
        ("openat", [0, 0, tmpfile, 0o600, 0, 0], Allow),
        ("openat", [0, 0, read_only, 0o7777, 0, 0], Allow),
        ("creat", at(1, 0o666), Allow),
        ("creat", at(1, 0o4666), REFUSED),
        ("chmod", at(1, 0o1777), Allow),
        ("chmod", at(1, 0o4755), REFUSED),
        ("chmod", at(1, 0o2755), REFUSED),
        ("fchmod", at(1, 0o755), Allow),
        ("fchmod", at(1, 0o6755), REFUSED),
        ("fchmodat", at(2, 0o755), Allow),
        ("fchmodat", at(2, 0o4755), REFUSED),
        ("fchmodat2", at(2, 0o755), Allow),
        ("fchmodat2", at(2, 0o2755), REFUSED),
        ("mknod", at(1, 0o010_644), Allow),
        ("mknod", at(1, 0o020_644), REFUSED),
        ("mknod", at(1, 0o060_644), REFUSED),
        ("mknod", at(1, 0o104_755), REFUSED),
        ("mknodat", at(2, 0o140_600), Allow),
        ("mknodat", at(2, 0o644), Allow),
        ("mknodat", at(2, 0o020_000), REFUSED),
        ("mknodat", at(2, 0o060_000), REFUSED),
        ("mknodat", at(2, 0o002_644), REFUSED),
        ("socket", [1, 2 | 0o2_000_000, 0, 0, 0, 0], Allow),
        ("socket", [1, 5, 0, 0, 0, 0], Allow),
        ("socket", [2, 1, 0, 0, 0, 0], Allow),
        ("socket", [2, 1 | 0o2_004_000, 6, 0, 0, 0], Allow),
        ("socket", [10, 2, 17, 0, 0, 0], Allow),
        ("socket", [2, 3, 1, 0, 0, 0], REFUSED), // SOCK_RAW
        ("socket", [10, 3 | 0o2_000_000, 58, 0, 0, 0], REFUSED),
        ("socket", [2, 10, 0, 0, 0, 0], REFUSED), // SOCK_PACKET
        ("socket", [2, 6, 33, 0, 0, 0], REFUSED), // DCCP
        ("socket", [2, 1, 132, 0, 0, 0], Errno(EPROTONOSUPPORT)), // SCTP
        ("socket", [10, 2, 115, 0, 0, 0], Errno(EPROTONOSUPPORT)), // L2TP
        ("socket", [2, 1, 262, 0, 0, 0], Errno(EPROTONOSUPPORT)), // MPTCP
        ("socket", [16, 3, 0, 0, 0, 0], Allow),   // NETLINK_ROUTE
        ("socket", [16, 3, 9, 0, 0, 0], Errno(EPROTONOSUPPORT)), // NETLINK_AUDIT
        ("socket", [16, 3, 12, 0, 0, 0], Errno(EPROTONOSUPPORT)), // NETLINK_NETFILTER
        ("socket", [17, 3, 0, 0, 0, 0], Errno(EAFNOSUPPORT)), // AF_PACKET
        ("socket", [38, 5, 0, 0, 0, 0], Errno(EAFNOSUPPORT)), // AF_ALG
        ("socket", [40, 1, 0, 0, 0, 0], Errno(EAFNOSUPPORT)), // AF_VSOCK
        ("socket", [0, 0, 0, 0, 0, 0], Errno(EAFNOSUPPORT)),
        ("socketpair", [1, 1, 0, 0, 0, 0], Allow),
        ("socketpair", [30, 1, 0, 0, 0, 0], Errno(EAFNOSUPPORT)), // AF_TIPC
    ];
    for architecture in BOTH {
        for (name, args, expected) in &cases {
            let Some(nr) = number(architecture, name) else {
                continue;
            };
            let found = decide(architecture, nr, *args);
            assert_eq!(&found, expected, "{architecture:?} {name} {args:x?}");
            let found = decide(architecture, nr, args.map(|argument| argument | UPPER));
            assert_eq!(
                &found, expected,
                "{architecture:?} {name} {args:x?}, upper half set"
            );
        }
    }
    let tested: BTreeSet<&str> = cases.iter().map(|case| case.0).collect();
    let rules: BTreeSet<&str> = CONDITIONAL.iter().map(|(call, _)| call.0).collect();
    assert_eq!(tested, rules, "each conditional call has cases");
}

#[test]
fn program_stays_compact() {
    // Installing copies, checks and compiles each instruction, for every cell.
    for architecture in BOTH {
        assert!(
            assemble(architecture).len() < 400,
            "{}",
            assemble(architecture).len()
        );
    }
    assert_eq!(
        Filter::build().unwrap().instructions(),
        assemble(Architecture::NATIVE.unwrap()).len()
    );
}
