//! What the kernel says of a process that gave everything up.

use std::collections::HashMap;
use std::fs;

use super::child::{Sandbox, open_after_close_except, rerun};

fn status() -> HashMap<String, String> {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

#[test]
fn nothing_is_left_of_privileges() {
    rerun(
        "sandbox::privileges::nothing_is_left_of_privileges",
        Sandbox::Whole,
        || {
            let status = status();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(u64::from_str_radix(&status[set], 16), Ok(0), "{set}");
            }
            assert_eq!(status["NoNewPrivs"], "1");
            assert_eq!(status["Seccomp"], "2");
            // SAFETY: takes no pointer.
            let securebits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
            assert_eq!(securebits, 0b1110_1111);
        },
    );
}

#[test]
fn a_user_namespace_alone_leaves_them() {
    // The control of the test above: without the sandbox the same child has all of it.
    rerun(
        "sandbox::privileges::a_user_namespace_alone_leaves_them",
        Sandbox::None,
        || {
            let status = status();
            assert_ne!(u64::from_str_radix(&status["CapEff"], 16), Ok(0));
            assert_eq!(status["Seccomp"], "0");
        },
    );
}

#[test]
fn limits_are_low_and_cannot_be_raised() {
    rerun(
        "sandbox::privileges::limits_are_low_and_cannot_be_raised",
        Sandbox::Whole,
        || {
            let get = |resource| {
                let mut limit = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                // SAFETY: `limit` is a valid place for the result.
                assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
                (limit.rlim_cur, limit.rlim_max)
            };
            assert_eq!(get(libc::RLIMIT_CORE), (0, 0));
            assert_eq!(get(libc::RLIMIT_RTPRIO), (0, 0));
            assert_eq!(get(libc::RLIMIT_NICE), (0, 0));
            let (soft, hard) = get(libc::RLIMIT_NOFILE);
            assert!(soft <= 1024 && hard <= 65_536, "{soft} {hard}");
            let higher = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 1,
            };
            // SAFETY: `higher` is initialised and only read.
            let raised = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const higher) };
            assert_eq!(raised, -1);
        },
    );
}

#[test]
fn only_the_kept_descriptors_stay_open() {
    let opened = &[3, 4, 7, 8, 9, 50, 200, 254];
    assert_eq!(open_after_close_except(&[], opened), [0, 1, 2]);
    assert_eq!(
        open_after_close_except(&[1, 3, 7, 8, 200], opened),
        [0, 1, 2, 3, 7, 8, 200]
    );
    assert_eq!(open_after_close_except(&[254], opened), [0, 1, 2, 254]);
}

#[test]
fn writing_outside_of_the_writable_folder_fails() {
    let output = rerun(
        "sandbox::privileges::writing_outside_of_the_writable_folder_fails",
        Sandbox::Whole,
        || {
            let folder = std::env::current_dir().unwrap();
            fs::write(folder.join("inside"), "x").unwrap();
            fs::rename(folder.join("inside"), folder.join("renamed")).unwrap();
            fs::write("/dev/null", "x").unwrap();
            fs::read_dir("/usr").unwrap();
            let outside = folder.parent().unwrap().join("cellos-test-outside");
            let error = fs::write(&outside, "x").unwrap_err();
            println!("outside: {:?}", error.kind());
        },
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if landlock_available() {
        assert!(text.contains("outside: PermissionDenied"), "{text}");
    }
}

fn landlock_available() -> bool {
    const VERSION_FLAG: libc::c_ulong = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes no attributes and only gives the version.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            VERSION_FLAG,
        ) > 0
    }
}
