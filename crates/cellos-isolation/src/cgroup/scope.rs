//! A delegated scope from systemd's user manager, for an ordinary user outside any delegated cgroup.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Creator, ScopeError, Version, layout};

/// How long systemd may take to answer and to move the process. It takes about 20 ms; a session bus
/// that hangs must not hang the cell.
pub const BUSCTL_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between looks whether it is done.
const PAUSE: Duration = Duration::from_millis(2);
/// How much of its complaint is kept, in bytes.
const COMPLAINT_MAX: u64 = 2048;

/// Where distributions have busctl. Not looked up in `PATH`, which the caller's environment decides.
const BUSCTL_PATHS: [&str; 2] = ["/usr/bin/busctl", "/bin/busctl"];

/// busctl and a user bus, where this user has both.
pub(super) fn reachable(root: &Path, uid: u32) -> Option<PathBuf> {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let bus = inside(&format!("/run/user/{uid}/bus"));
    let busctl = BUSCTL_PATHS.map(inside).into_iter().find(|p| p.exists());
    busctl.filter(|_| bus.exists())
}

/// Asks the user's systemd to put `pid` in a new transient scope with `Delegate=yes`, and waits until
/// it is there. One call of `StartTransientUnit` (`org.freedesktop.systemd1(5)`) through `busctl`.
/// Returns the scope's path in the v2 hierarchy.
///
/// # Errors
/// See [`ScopeError`].
pub fn start_user_scope(
    busctl: &Path,
    pid: i32,
    uid: u32,
    timeout: Duration,
) -> Result<PathBuf, ScopeError> {
    let deadline = Instant::now() + timeout;
    let start_time = u32::try_from(pid)
        .ok()
        .and_then(|pid| Creator::of(pid).ok())
        .map_or(0, |creator| creator.start_time);
    let unit = format!("cellos-{pid}-{start_time}.scope");
    call_busctl(busctl, &unit, pid, uid, deadline, timeout)?;
    // The answer is a job; the move comes with it, a moment later.
    loop {
        if let Some(path) = unified_path(pid)
            && path.file_name().is_some_and(|name| name == unit.as_str())
        {
            return Ok(path);
        }
        if Instant::now() >= deadline {
            return Err(ScopeError::NotMoved { pid, unit, timeout });
        }
        thread::sleep(PAUSE);
    }
}

fn unified_path(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    layout::own_path(&text, Version::V2, &[])
}

fn call_busctl(
    busctl: &Path,
    unit: &str,
    pid: i32,
    uid: u32,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), ScopeError> {
    let program = || busctl.to_owned();
    let start = |source| ScopeError::Start {
        program: program(),
        source,
    };
    let mut child = Command::new(busctl)
        .args(["--user", "--quiet", "call", "org.freedesktop.systemd1"])
        .args([
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        ])
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "4"])
        .args(["Description", "s", "CellOS cells"])
        .args(["Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .args(["PIDs", "au", "1", &pid.to_string(), "0"])
        .env_clear()
        .env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    loop {
        match child.try_wait().map_err(start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let complaint = complaint(&mut child);
                let message = if complaint.is_empty() {
                    status.to_string()
                } else {
                    complaint
                };
                return Err(ScopeError::Refused {
                    program: program(),
                    message,
                });
            }
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ScopeError::Timeout {
                    program: program(),
                    timeout,
                });
            }
            None => thread::sleep(PAUSE),
        }
    }
}

fn complaint(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is not needed: the status says that it failed.
        let _ = stderr.take(COMPLAINT_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Makes an executable shell script, in another process: a file that some thread's fork still holds
/// open for writing cannot be run.
#[cfg(test)]
pub(super) fn write_script(path: &Path, text: &str) {
    let status = Command::new("/bin/sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"",
        ])
        .arg(path)
        .arg(text)
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("busctl");
        write_script(&path, text);
        (root, path)
    }

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn a_refusal_is_reported_in_systemds_words() {
        let (_root, path) = script("echo 'Call failed: Access denied' >&2; exit 1");
        let error = start_user_scope(&path, own_pid(), 1000, BUSCTL_TIMEOUT).unwrap_err();
        assert!(
            matches!(&error, ScopeError::Refused { message, .. } if message == "Call failed: Access denied"),
            "{error}"
        );
    }

    #[test]
    fn a_bus_that_hangs_does_not_hang_us() {
        let (_root, path) = script("exec sleep 60");
        let started = Instant::now();
        let timeout = Duration::from_millis(200);
        let error = start_user_scope(&path, own_pid(), 1000, timeout).unwrap_err();
        assert!(matches!(error, ScopeError::Timeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn an_answer_without_a_move_is_noticed() {
        let (_root, path) = script("exit 0");
        let timeout = Duration::from_millis(100);
        let error = start_user_scope(&path, own_pid(), 1000, timeout).unwrap_err();
        assert!(matches!(error, ScopeError::NotMoved { .. }), "{error}");
    }

    #[test]
    fn a_missing_busctl_is_named() {
        let path = Path::new("/nonexistent/busctl");
        let error = start_user_scope(path, own_pid(), 1000, BUSCTL_TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/busctl");
    }
}
