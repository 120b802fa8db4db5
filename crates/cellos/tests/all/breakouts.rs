//! Ways out of a cell. Each is really tried, by a program in the cell, and has to be closed.
//!
//! That the tries are worth something is shown by the same program in a bare `unshare`, where the
//! ways are open, and in bubblewrap, which closes many of them.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, process::Command};

use cellos_testkit::require;

use crate::{
    bait::{Bait, PYTHON, Target, probes},
    program::{Place, cellos_program},
    trial::assert_one_error,
};

/// Whether the way is open in a bare `unshare -Urm`, with more flags.
#[derive(Clone, Copy)]
enum Outside {
    /// On every host.
    Open(&'static [&'static str]),
    /// Unless a switch of the kernel has another value than this one.
    OpenWhen(&'static str, &'static str),
    /// Only root may, or only hosts of some kind; or trying it would change the host.
    Untested,
}

/// Whether bubblewrap promises to close it too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bubblewrap {
    Closes,
    LeavesOpen,
}

const OPEN: Outside = Outside::Open(&["-n"]);
/// In the host's network namespace.
const OPEN_IN_HOST_NETWORK: Outside = Outside::Open(&[]);

type Probe = (&'static str, Target, Outside, Bubblewrap);

/// Every probe.
const PROBES: &[Probe] = {
    use Bubblewrap::{Closes, LeavesOpen};
    use Outside::{OpenWhen, Untested};
    use Target::{NewFile, Nothing, Port, Process, SecretFile, SecretVariable, Socket};
    &[
        // Files.
        ("shadow", Nothing, Untested, Closes),
        ("home_folders", Nothing, OPEN, Closes),
        ("host_file", SecretFile, OPEN, Closes),
        ("root_links", SecretFile, OPEN, Closes),
        ("write_host_file", NewFile, OPEN, Closes),
        ("write_system", Nothing, Untested, LeavesOpen),
        ("kernel_switches", Nothing, Untested, LeavesOpen),
        ("devices", Nothing, Untested, Closes),
        ("setuid_programs", Nothing, OPEN, LeavesOpen),
        ("left_descriptors", Nothing, OPEN, LeavesOpen),
        // Other processes.
        ("host_processes", Process, OPEN, Closes),
        ("kill_host_process", Process, OPEN, Closes),
        ("other_environments", SecretVariable, OPEN, Closes),
        ("end_init", Nothing, Untested, Closes),
        ("ptrace", Nothing, OPEN, LeavesOpen),
        ("read_other_memory", Nothing, OPEN, LeavesOpen),
        // Namespaces and mounts.
        ("mount", Nothing, OPEN, Closes),
        ("new_mount_interface", Nothing, OPEN, Closes),
        ("remount_writable", Nothing, OPEN, Closes),
        ("unmount", Nothing, OPEN, Closes),
        ("new_root", Nothing, OPEN, Closes),
        ("enter_namespace", Nothing, OPEN, Closes),
        ("user_namespace", Nothing, OPEN, LeavesOpen),
        ("user_namespace_by_clone", Nothing, OPEN, LeavesOpen),
        ("user_namespace_by_clone3", Nothing, OPEN, LeavesOpen),
        // Parts of the kernel that have been broken often.
        ("keys", Nothing, OPEN, LeavesOpen),
        ("file_handles", Nothing, OPEN, LeavesOpen),
        (
            "bpf",
            Nothing,
            OpenWhen("kernel/unprivileged_bpf_disabled", "0"),
            LeavesOpen,
        ),
        (
            "io_uring",
            Nothing,
            OpenWhen("kernel/io_uring_disabled", "0"),
            LeavesOpen,
        ),
        (
            "terminal_input",
            Nothing,
            OpenWhen("dev/tty/legacy_tiocsti", "1"),
            LeavesOpen,
        ),
        ("perf", Nothing, Untested, LeavesOpen),
        ("user_faults", Nothing, Untested, LeavesOpen),
        ("modules", Nothing, Untested, LeavesOpen),
        ("kexec", Nothing, Untested, LeavesOpen),
        ("reboot", Nothing, Untested, Closes),
        ("kernel_log", Nothing, Untested, LeavesOpen),
        // The network.
        ("host_port", Port, OPEN_IN_HOST_NETWORK, Closes),
        ("abstract_socket", Socket, OPEN_IN_HOST_NETWORK, Closes),
        ("outside_network", Nothing, Untested, Closes),
        ("raw_packets", Nothing, OPEN, Closes),
    ]
};

/// Probes with tests of their own.
const ELSEWHERE: &[&str] = &["leave_setuid_file", "inherited_terminal"];

fn system_python() -> Result<(), String> {
    let works = Command::new(PYTHON).arg("--version").output();
    works
        .map(drop)
        .map_err(|error| format!("{PYTHON}: {error}"))
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_out_of_a_cell_is_closed() {
    require!("userns");
    require!("python3", system_python());
    let bait = Bait::lay();
    let wrong: Vec<String> = PROBES
        .iter()
        .map(|(name, target, ..)| (name, bait.in_cell(&[], name, &bait.argument(*target))))
        .filter(|(_, said)| !said.starts_with("held: "))
        .map(|(name, said)| format!("{name}: {said}"))
        .collect();
    assert_none(&wrong);
    assert!(!bait.place.path().join("written").exists());
}

#[test]
fn the_same_ways_are_open_in_bare_namespaces() {
    require!("userns");
    require!("python3", system_python());
    let bait = Bait::lay();
    let mut wrong = Vec::new();
    for (name, target, outside, _) in PROBES {
        let flags = match outside {
            Outside::Open(flags) => flags,
            Outside::OpenWhen(switch, value) => {
                let found = fs::read_to_string(format!("/proc/sys/{switch}"));
                if found.as_ref().is_ok_and(|found| found.trim() != *value) {
                    println!("{name} is not tried: {switch} is {found:?} on this host");
                    continue;
                }
                &["-n"][..]
            }
            Outside::Untested => continue,
        };
        let said = bait.in_namespaces(flags, name, &bait.argument(*target));
        if !said.starts_with("ESCAPED: ") {
            wrong.push(format!("{name}: {said}"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn bubblewrap_closes_what_it_promises_to_close() {
    require!("userns");
    require!("bubblewrap");
    require!("python3", system_python());
    let bait = Bait::lay();
    let wrong: Vec<String> = PROBES
        .iter()
        .filter(|(.., bubblewrap)| *bubblewrap == Bubblewrap::Closes)
        .map(|(name, target, ..)| (name, bait.in_bubblewrap(name, &bait.argument(*target))))
        .filter(|(_, said)| !said.starts_with("held: "))
        .map(|(name, said)| format!("{name}: {said}"))
        .collect();
    assert_none(&wrong);
}

#[test]
fn the_table_has_every_probe() {
    require!("python3", system_python());
    let output = Command::new(PYTHON)
        .arg(probes().join("breakout.py"))
        .arg("--list")
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let listed: BTreeSet<&str> = listed.lines().collect();
    let known: BTreeSet<&str> = PROBES
        .iter()
        .map(|(name, ..)| *name)
        .chain(ELSEWHERE.iter().copied())
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn a_writable_mount_gets_no_set_user_id_file() {
    require!("userns");
    require!("python3", system_python());
    let bait = Bait::lay();
    let shared = bait.place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let flag = format!("{}:/shared:rw", shared.display());
    let said = bait.in_cell(&["--mount", &flag], "leave_setuid_file", "/shared/left");
    assert!(said.starts_with("held: "), "{said}");
    // The file itself may be made: the folder is writable.
    let mode = fs::metadata(shared.join("left"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7000, 0, "{mode:o}");
    let control = bait.in_namespaces(
        &[],
        "leave_setuid_file",
        shared.join("other").to_str().unwrap(),
    );
    assert!(control.starts_with("ESCAPED: "), "{control}");
}

/// With a real terminal as standard input, of which the caller is a session leader.
#[test]
fn the_callers_terminal_takes_no_input_from_the_cell() {
    require!("userns");
    require!("python3", system_python());
    const ON_A_TERMINAL: &str = "import os, pty, sys\n\
                                 sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let bait = Bait::lay();
    let on_terminal = |command: &[&str]| {
        let arguments = [&[PYTHON, "-c", ON_A_TERMINAL], command].concat();
        let output = bait.with_open_file(&arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let program = cellos_program();
    let folder = format!("{}:/probes", probes().display());
    let said = on_terminal(&[
        program.to_str().unwrap(),
        "run",
        "--mount",
        &folder,
        "--",
        PYTHON,
        "/probes/breakout.py",
        "inherited_terminal",
    ]);
    assert!(said.contains("held: "), "{said}");
    assert!(!said.contains("ESCAPED"), "{said}");

    let switch = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
    if switch.is_ok_and(|switch| switch.trim() == "1") {
        let script = probes().join("breakout.py");
        let control = on_terminal(&[
            "unshare",
            "-Ur",
            PYTHON,
            script.to_str().unwrap(),
            "inherited_terminal",
        ]);
        assert!(control.contains("ESCAPED: "), "{control}");
    }
}

#[test]
fn mount_sources_lead_nowhere_else() {
    require!("userns");
    let place = Place::new();
    fs::create_dir_all(place.path().join("real/inner")).unwrap();
    std::os::unix::fs::symlink("/etc", place.path().join("link")).unwrap();
    std::os::unix::fs::symlink("real", place.path().join("way")).unwrap();
    for (source, error) in [
        ("real/../real", "contains a `..` part"),
        ("link", "has a symbolic link in its path"),
        ("way/inner", "has a symbolic link in its path"),
        ("/proc/self/root", "symbolic link"),
    ] {
        for access in ["ro", "rw"] {
            let mount = format!("{source}:/data:{access}");
            let output = place
                .cellos(&["run", "--mount", &mount, "--", "/bin/echo", "ran"])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(126), "{mount}: {output:?}");
            assert!(output.stdout.is_empty(), "{mount}: {output:?}");
            assert_one_error(
                &output,
                Some("spec.authority.filesystem.mounts[0].source: "),
            );
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains(error), "{mount}: {text}");
        }
    }
}

mod as_root {
    use super::*;

    /// Root's own files are open to root of a namespace that root made; a cell has another user.
    #[test]
    fn what_only_root_may_is_open_in_bare_namespaces() {
        require!("root");
        require!("userns");
        require!("python3", system_python());
        let bait = Bait::lay();
        for name in ["shadow", "kernel_switches"] {
            let said = bait.in_namespaces(&["-n"], name, "-");
            assert!(said.starts_with("ESCAPED: "), "{name}: {said}");
        }
    }
}
