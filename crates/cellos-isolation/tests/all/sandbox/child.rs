//! Children that are put into the sandbox between `fork` and `execve`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cellos_isolation::sandbox::privileges::{self, Dumpable};
use cellos_isolation::sandbox::{descriptors, landlock, limits, seccomp::Filter};

/// Tells a test that it is the child of itself.
const INSIDE: &str = "CELLOS_TEST_INSIDE_SANDBOX";

/// How much of the sandbox a child gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// A user namespace only: the control.
    None,
    /// Everything.
    Whole,
}

/// `program`, to be run in the sandbox with `folder` as its working folder, the only writable one
/// beside `/dev/shm`, where POSIX semaphores and shared memory live.
pub(crate) fn command(program: impl AsRef<OsStr>, folder: &Path, sandbox: Sandbox) -> Command {
    let filter = Filter::build().expect("build filter");
    let folder: PathBuf = folder.canonicalize().expect("canonical folder");
    let mut command = Command::new(program);
    command
        .current_dir(&folder)
        .env("HOME", &folder)
        .env("TMPDIR", &folder);
    // SAFETY: the closure makes system calls and allocates, which glibc and musl allow after fork.
    unsafe {
        command.pre_exec(move || {
            enter_user_namespace()?;
            match sandbox {
                Sandbox::None => Ok(()),
                Sandbox::Whole => enter(&filter, &folder).map_err(io::Error::other),
            }
        })
    };
    command
}

fn enter(filter: &Filter, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    privileges::new_session_keyring()?;
    limits::lower(None)?;
    privileges::set_umask(0o022);
    privileges::lock_securebits()?;
    privileges::drop_bounding_set()?;
    privileges::drop_capabilities()?;
    privileges::set_no_new_privs()?;
    privileges::set_dumpable(Dumpable::Yes)?;
    let devices = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts",
    ];
    let devices: Vec<PathBuf> = devices
        .iter()
        .map(|name| Path::new("/dev").join(name))
        .filter(|path| path.exists())
        .collect();
    let devices: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
    landlock::restrict(
        &[Path::new("/")],
        &[folder, Path::new("/dev/shm")],
        &devices,
    )?;
    // Not `close_except`: it would close the pipe on which the parent learns of a failure here.
    filter.install()?;
    Ok(())
}

fn enter_user_namespace() -> io::Result<()> {
    // SAFETY: these take no pointers.
    let (uid, gid, result) = unsafe {
        (
            libc::geteuid(),
            libc::getegid(),
            libc::unshare(libc::CLONE_NEWUSER),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Runs `inside` in a sandboxed re-execution of the test called `test` (with its module path), and
/// gives what it printed. The caller is that test; in the child this call does not return.
pub(crate) fn rerun(test: &str, sandbox: Sandbox, inside: impl FnOnce()) -> Output {
    if std::env::var_os(INSIDE).is_some() {
        inside();
        std::process::exit(0);
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let executable = std::env::current_exe().expect("own path");
    let mut command = command(executable, folder.path(), sandbox);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    let output = command.output().expect("start child");
    assert!(
        output.status.success(),
        "{test}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Closes descriptors in a child that is forked for it, and gives those that are then open.
pub(crate) fn open_after_close_except(keep: &'static [i32], open: &'static [i32]) -> Vec<i32> {
    let mut report = [0_i32; 2];
    // SAFETY: `report` has room for the two descriptors.
    let made = unsafe { libc::pipe2(report.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    // SAFETY: the child only makes system calls and exits without returning.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Standard output becomes the report, so that it survives.
        // SAFETY: duplicates descriptors of this process only.
        unsafe {
            libc::dup2(report[1], 1);
            for descriptor in open {
                libc::dup2(0, *descriptor);
            }
        }
        let closed = descriptors::close_except(keep).is_ok();
        let mut found = [0_u8; 256];
        for descriptor in 0..255_u8 {
            // SAFETY: F_GETFD takes no pointer.
            let is_open = unsafe { libc::fcntl(descriptor.into(), libc::F_GETFD) } >= 0;
            found[usize::from(descriptor)] = u8::from(is_open);
        }
        // SAFETY: `found` is a live buffer of that length.
        let written = unsafe { libc::write(1, found.as_ptr().cast(), found.len()) };
        // SAFETY: ends the forked child without running the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!closed || written != 256)) };
    }
    let mut found = [0_u8; 256];
    // SAFETY: closes the write end, reads into a live buffer, and waits for the child made above.
    let (read, status) = unsafe {
        libc::close(report[1]);
        let read = libc::read(report[0], found.as_mut_ptr().cast(), found.len());
        libc::close(report[0]);
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        (read, status)
    };
    assert_eq!((read, status), (256, 0));
    (0..256)
        .filter(|index| found[*index] == 1)
        .map(|index| i32::try_from(index).unwrap())
        .collect()
}
