//! Calls that must fail inside, made from inside.
//!
//! Arguments are chosen so that the kernel itself would answer otherwise than the filter; the
//! control runs the same calls without it and sees that.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;

use cellos_isolation::sandbox::privileges;
use cellos_isolation::sandbox::seccomp::{Filter, SeccompError};
use libc::{EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT, c_int, c_long, c_ulong};

use super::child::{Sandbox, rerun};

/// The error number that a call of these arguments fails with, or 0.
fn call(number: c_long, args: [c_ulong; 6]) -> c_int {
    let [a, b, c, d, e, f] = args;
    // SAFETY: all arguments are numbers, invalid addresses, or addresses of what the caller holds;
    // the calls made here write to no memory of this process.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    } else {
        0
    }
}

const BAD_ADDRESS: c_ulong = 1;
const BAD_DESCRIPTOR: c_ulong = 0xffff_ffff;
const UPPER: c_ulong = 0x1_0000_0000;

/// Name, call, arguments, what the filter answers.
type Probe = (&'static str, c_long, [c_ulong; 6], c_int);

/// Probes that the kernel answers otherwise, even to a process without any capability.
#[rustfmt::skip]
const PROBES: &[Probe] = &[
    ("unshare without flags", libc::SYS_unshare, [0; 6], EPERM),
    ("setns of no descriptor", libc::SYS_setns, [BAD_DESCRIPTOR, 0, 0, 0, 0, 0], EPERM),
    ("ptrace of no process", libc::SYS_ptrace, [16, 0x7fff_fff0, 0, 0, 0, 0], EPERM),
    ("process_vm_readv of nothing", libc::SYS_process_vm_readv, [0; 6], EPERM),
    ("pidfd_getfd of no descriptor", libc::SYS_pidfd_getfd, [BAD_DESCRIPTOR, 0, 0, 0, 0, 0], EPERM),
    ("keyctl GET_KEYRING_ID", libc::SYS_keyctl, [0, 0xffff_fffd, 0, 0, 0, 0], EPERM),
    ("add_key at a bad address", libc::SYS_add_key, [BAD_ADDRESS, BAD_ADDRESS, 0, 0, 0, 0], EPERM),
    ("request_key at a bad address", libc::SYS_request_key, [BAD_ADDRESS, BAD_ADDRESS, 0, 0, 0, 0], EPERM),
    ("perf_event_open at a bad address", libc::SYS_perf_event_open, [BAD_ADDRESS, 0, 0, 0, 0, 0], EPERM),
    ("name_to_handle_at of a bad address", libc::SYS_name_to_handle_at, [BAD_DESCRIPTOR, BAD_ADDRESS, BAD_ADDRESS, BAD_ADDRESS, 0, 0], EPERM),
    ("adjtimex at a bad address", libc::SYS_adjtimex, [BAD_ADDRESS, 0, 0, 0, 0, 0], EPERM),
    ("io_uring_setup at a bad address", libc::SYS_io_uring_setup, [1, BAD_ADDRESS, 0, 0, 0, 0], ENOSYS),
    ("clone3 of nothing", libc::SYS_clone3, [0; 6], ENOSYS),
    ("openat2 of a bad address", libc::SYS_openat2, [0, BAD_ADDRESS, BAD_ADDRESS, 24, 0, 0], ENOSYS),
    ("clone NEWUSER and an impossible flag", libc::SYS_clone, [0x1000_0200, 0, 0, 0, 0, 0], EPERM),
    ("ioctl TIOCSTI on no descriptor", libc::SYS_ioctl, [BAD_DESCRIPTOR, 0x5412, BAD_ADDRESS, 0, 0, 0], EPERM),
    ("ioctl TIOCSTI with an upper half", libc::SYS_ioctl, [BAD_DESCRIPTOR, UPPER | 0x5412, BAD_ADDRESS, 0, 0, 0], EPERM),
    ("ioctl TIOCLINUX on no descriptor", libc::SYS_ioctl, [BAD_DESCRIPTOR, 0x541c, BAD_ADDRESS, 0, 0, 0], EPERM),
    ("personality READ_IMPLIES_EXEC", libc::SYS_personality, [0x40_0000, 0, 0, 0, 0, 0], EPERM),
    ("socket AF_PACKET", libc::SYS_socket, [17, 3, 0, 0, 0, 0], EAFNOSUPPORT),
    ("socket AF_ALG", libc::SYS_socket, [38, 99, 0, 0, 0, 0], EAFNOSUPPORT),
    ("socket NETLINK_AUDIT", libc::SYS_socket, [16, 99, 9, 0, 0, 0], EPROTONOSUPPORT),
    ("socket SOCK_RAW", libc::SYS_socket, [2, 3, 999, 0, 0, 0], EPERM),
    ("fchmod u+s of no descriptor", libc::SYS_fchmod, [BAD_DESCRIPTOR, 0o4755, 0, 0, 0, 0], EPERM),
    ("fchmodat g+s of a bad address", libc::SYS_fchmodat, [0, BAD_ADDRESS, 0o2755, 0, 0, 0], EPERM),
    ("fchmodat2 u+s of a bad address", 452, [0, BAD_ADDRESS, 0o4755, 0, 0, 0], EPERM),
    ("openat O_CREAT u+s of a bad address", libc::SYS_openat, [0, BAD_ADDRESS, 0o101, 0o4755, 0, 0], EPERM),
    ("mknodat u+s of a bad address", libc::SYS_mknodat, [0, BAD_ADDRESS, 0o104_755, 0, 0, 0], EPERM),
    ("mknodat of a device at a bad address", libc::SYS_mknodat, [0, BAD_ADDRESS, 0o020_666, 0, 0, 0], EPERM),
    ("move_pages of nothing", libc::SYS_move_pages, [0xffff_fff0, 0, 0, 0, 0, 0], ENOSYS),
];

/// Probes that the kernel, too, refuses with `EPERM` for want of capabilities.
#[rustfmt::skip]
const DOUBLY_REFUSED: &[Probe] = &[
    ("mount", libc::SYS_mount, [0; 6], EPERM),
    ("umount2", libc::SYS_umount2, [0; 6], EPERM),
    ("fsopen", libc::SYS_fsopen, [0; 6], EPERM),
    ("move_mount", libc::SYS_move_mount, [0; 6], EPERM),
    ("open_tree", libc::SYS_open_tree, [0; 6], EPERM),
    ("pivot_root", libc::SYS_pivot_root, [0; 6], EPERM),
    ("unshare NEWNS", libc::SYS_unshare, [0x2_0000, 0, 0, 0, 0, 0], EPERM),
    ("unshare NEWUSER", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0], EPERM),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 6], EPERM),
    ("bpf", libc::SYS_bpf, [0; 6], EPERM),
    ("init_module", libc::SYS_init_module, [0; 6], EPERM),
    ("finit_module", libc::SYS_finit_module, [0; 6], EPERM),
    ("kexec_load", libc::SYS_kexec_load, [0; 6], EPERM),
    ("reboot", libc::SYS_reboot, [0; 6], EPERM),
    ("swapon", libc::SYS_swapon, [0; 6], EPERM),
    ("acct", libc::SYS_acct, [0; 6], EPERM),
    ("syslog", libc::SYS_syslog, [2, 0, 0, 0, 0, 0], EPERM),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 6], EPERM),
    ("fanotify_init", libc::SYS_fanotify_init, [0; 6], EPERM),
    ("clock_settime", libc::SYS_clock_settime, [0; 6], EPERM),
    ("chroot", libc::SYS_chroot, [0; 6], EPERM),
    ("unknown call", 9999, [0; 6], ENOSYS),
];

#[test]
fn each_denied_call_fails_with_its_error() {
    rerun(
        "sandbox::denied::each_denied_call_fails_with_its_error",
        Sandbox::Whole,
        || {
            for (name, number, args, expected) in PROBES.iter().chain(DOUBLY_REFUSED) {
                assert_eq!(call(*number, *args), *expected, "{name}");
            }
        },
    );
}

#[test]
fn without_the_filter_the_kernel_answers_otherwise() {
    let test = "sandbox::denied::without_the_filter_the_kernel_answers_otherwise";
    rerun(test, Sandbox::None, || {
        for (name, number, args, expected) in PROBES {
            // Older kernels lack some of the calls, and then cannot tell the two apart.
            let found = call(*number, *args);
            assert!(
                found != *expected || found == ENOSYS,
                "{name}: {found} without the filter"
            );
        }
    });
}

#[test]
fn input_cannot_be_typed_into_a_terminal() {
    rerun(
        "sandbox::denied::input_cannot_be_typed_into_a_terminal",
        Sandbox::Whole,
        || {
            // SAFETY: plain calls on descriptors of this process; `name` is copied before it can change.
            let terminal = unsafe {
                let controller = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
                assert!(
                    controller >= 0,
                    "posix_openpt: {}",
                    io::Error::last_os_error()
                );
                assert_eq!(
                    libc::unlockpt(controller),
                    0,
                    "{}",
                    io::Error::last_os_error()
                );
                let name = libc::ptsname(controller);
                assert!(!name.is_null());
                libc::open(name, libc::O_RDWR | libc::O_NOCTTY)
            };
            assert!(
                terminal >= 0,
                "open terminal: {}",
                io::Error::last_os_error()
            );
            let descriptor = c_ulong::try_from(terminal).unwrap();
            let byte = b'x';
            let address = c_ulong::try_from((&raw const byte).addr()).unwrap();
            for request in [0x5412, UPPER | 0x5412] {
                assert_eq!(
                    call(libc::SYS_ioctl, [descriptor, request, address, 0, 0, 0]),
                    EPERM
                );
            }
            // SAFETY: asks about a descriptor of this process.
            let is_terminal = unsafe { libc::isatty(terminal) };
            assert_eq!(
                is_terminal,
                1,
                "other requests work: {}",
                io::Error::last_os_error()
            );
        },
    );
}

#[test]
fn no_set_user_id_file_can_be_left_behind() {
    rerun(
        "sandbox::denied::no_set_user_id_file_can_be_left_behind",
        Sandbox::Whole,
        || {
            let folder = std::env::current_dir().unwrap();
            let path = folder.join("program");
            std::fs::write(&path, "x").unwrap();
            let name = CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: `name` is a C string that lives through the calls.
            unsafe {
                assert_eq!(libc::chmod(name.as_ptr(), 0o755), 0);
                assert_eq!(libc::chmod(name.as_ptr(), 0o4755), -1);
                assert_eq!(io::Error::last_os_error().raw_os_error(), Some(EPERM));
                let other = CString::new(folder.join("other").as_os_str().as_bytes()).unwrap();
                let flags = libc::O_CREAT | libc::O_WRONLY;
                assert_eq!(libc::open(other.as_ptr(), flags, 0o4755), -1);
                assert_eq!(io::Error::last_os_error().raw_os_error(), Some(EPERM));
            }
            assert!(!folder.join("other").exists());
        },
    );
}

#[test]
fn the_filter_needs_no_new_privs() {
    rerun(
        "sandbox::denied::the_filter_needs_no_new_privs",
        Sandbox::None,
        || {
            let filter = Filter::build().unwrap();
            privileges::drop_capabilities().unwrap();
            let error = filter.install().unwrap_err();
            let SeccompError::Install(source) = error else {
                panic!("{error}")
            };
            assert_eq!(source.raw_os_error(), Some(libc::EACCES));
            privileges::set_no_new_privs().unwrap();
            filter.install().unwrap();
        },
    );
}
