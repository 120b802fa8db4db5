//! The monitor as a process, tethered to us.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use cellos_isolation::tether::{self, Tether};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{self, Instant},
};

use super::ring::Ring;
use crate::vmm::MonitorEnd;

/// Most bytes of a file of `/proc` that is read.
const PROC_BYTES: usize = 64 << 10;

/// How long the last words of an ended monitor are waited for: they are in its pipes.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between two looks whether they were read.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// A started monitor, perhaps still its jailer.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: Pid,
    /// Ends when everything is gone.
    keeper_handle: OwnedFd,
    /// First process of the namespace; `None` when it had ended before it was looked for.
    init: Option<(Pid, OwnedFd)>,
    end: watch::Receiver<Option<MonitorEnd>>,
    output: Ring,
    errors: Ring,
    readers: [AbortHandle; 2],
}

impl Process {
    /// Starts a program with no input, no environment, and its output kept in rings.
    ///
    /// # Errors
    /// Those of [`tether::spawn`] and of handles of processes.
    pub(crate) fn start(mut command: Command, tether: Tether) -> io::Result<Self> {
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = tether::spawn(command, tether)?;
        let pipes = (child.stdout.take(), child.stderr.take());
        // Nothing of what follows may leave it running.
        let started = Self::watch(child.id(), pipes);
        let (process, ended) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        // A thread that only waits: the runtime's own ways need unsafe code or a handler of SIGCHLD
        // for the whole process, which is not ours to install. It lives as long as the monitor.
        thread::Builder::new()
            .name("monitor-end".into())
            .spawn(move || ended.send_replace(Some(MonitorEnd(child.wait().ok()))))
            // What was not started took the child with it; its namespace is all there is to end.
            .inspect_err(|_| process.kill())?;
        Ok(process)
    }

    fn watch(
        id: u32,
        pipes: (
            Option<std::process::ChildStdout>,
            Option<std::process::ChildStderr>,
        ),
    ) -> io::Result<(Self, watch::Sender<Option<MonitorEnd>>)> {
        let (Some(output), Some(errors)) = pipes else {
            return Err(io::Error::other("a program without pipes"));
        };
        let keeper = pid(id)?;
        let keeper_handle = pidfd_open(keeper, PidfdFlags::empty())?;
        let init = match children(keeper)?.first() {
            Some(init) => {
                let handle = pidfd_open(*init, PidfdFlags::empty()).ok();
                // Still its child now, so the handle is not that of another with its id.
                let is_it = children(keeper)?.contains(init);
                handle.filter(|_| is_it).map(|handle| (*init, handle))
            }
            None => None,
        };
        let (output, output_reader) = Ring::of(output.into())?;
        let (errors, errors_reader) = Ring::of(errors.into())?;
        let (ended, end) = watch::channel(None);
        let process = Self {
            keeper,
            keeper_handle,
            init,
            end,
            output,
            errors,
            readers: [output_reader, errors_reader],
        };
        Ok((process, ended))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> MonitorEnd {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => (*end).unwrap_or(MonitorEnd(None)),
            // The runtime shuts down.
            Err(_) => MonitorEnd(None),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&self) -> Option<MonitorEnd> {
        *self.end.borrow()
    }

    /// Kills everything in the namespace; [`Process::ended`] is when that is gone.
    pub(crate) fn kill(&self) {
        match &self.init {
            // The keeper waits for it, and it for everything else.
            Some((_, init)) => {
                let _ = pidfd_send_signal(init, Signal::KILL);
            }
            None => self.kill_keeper(),
        }
    }

    /// The second blow, for a keeper that does not notice: its end kills the namespace too.
    pub(crate) fn kill_keeper(&self) {
        let _ = pidfd_send_signal(&self.keeper_handle, Signal::KILL);
    }

    /// Id of the keeper, for messages.
    pub(crate) fn keeper(&self) -> Pid {
        self.keeper
    }

    /// Processes that the namespace's first process has: the monitor, once a jailer has left it.
    pub(crate) fn candidates(&self) -> io::Result<Vec<Pid>> {
        match &self.init {
            Some((init, _)) => children(*init),
            None => Ok(Vec::new()),
        }
    }

    /// Waits until what an ended monitor wrote has been read, for its last words.
    pub(crate) async fn drained(&self) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.readers.iter().all(AbortHandle::is_finished) && Instant::now() < deadline {
            time::sleep(DRAIN_PAUSE).await;
        }
    }

    pub(crate) fn output(&self) -> &Ring {
        &self.output
    }

    pub(crate) fn errors(&self) -> &Ring {
        &self.errors
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            self.kill();
        }
        for reader in &self.readers {
            reader.abort();
        }
    }
}

/// Ids of a process in its namespaces, the outermost, ours, first (`NSpid` of proc_pid_status(5)).
pub(crate) fn namespaced_ids(process: Pid) -> io::Result<Vec<u32>> {
    let text = read_proc(process, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(line
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect())
}

/// Whether a process has a folder as its root.
pub(crate) fn has_root(process: Pid, root: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let seen = std::fs::metadata(format!("/proc/{}/root/.", process.as_raw_nonzero()))?;
    let ours = root.metadata()?;
    Ok((seen.dev(), seen.ino()) == (ours.dev(), ours.ino()))
}

fn children(process: Pid) -> io::Result<Vec<Pid>> {
    let text = match read_proc(
        process,
        &format!("task/{}/children", process.as_raw_nonzero()),
    ) {
        // It has ended.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    text.split_whitespace()
        .map(|id| pid(id.parse().map_err(io::Error::other)?))
        .collect()
}

fn read_proc(process: Pid, file: &str) -> io::Result<String> {
    use std::io::Read as _;
    let path = format!("/proc/{}/{file}", process.as_raw_nonzero());
    let mut text = String::new();
    File::open(path)?
        .take(PROC_BYTES as u64)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn pid(id: u32) -> io::Result<Pid> {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("an impossible process id"))
}

/// Words for an end. Only words: a real monitor was seen to end with 0 after an internal error.
pub(crate) fn describe(end: MonitorEnd) -> String {
    let Some(status) = end.0 else {
        return "in a way that nobody saw".into();
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => match meaning(code) {
            Some(meaning) => format!("exit code {code}, {meaning}"),
            None => format!("exit code {code}"),
        },
        (_, Some(signal)) => format!("signal {signal}"),
        _ => ExitStatus::to_string(&status),
    }
}

/// Firecracker's exit codes (`FcExitCode` of its `vmm` crate).
fn meaning(code: i32) -> Option<&'static str> {
    Some(match code {
        0 => "success",
        1 => "an error",
        2 => "an unexpected error",
        148 => "a system call that its seccomp filter forbids",
        149 => "SIGBUS",
        150 => "SIGSEGV",
        151 => "SIGXFSZ: a file larger than its limit",
        152 => "a configuration that it refuses",
        153 => "arguments that it refuses",
        154 => "SIGXCPU",
        155 => "SIGPIPE",
        156 => "SIGHUP",
        157 => "SIGILL",
        _ => return None,
    })
}

/// A handle of a process that no reuse of its id can turn to another.
pub(crate) fn handle(process: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(process, PidfdFlags::empty())?)
}

/// Whether a process has ended, by its handle.
pub(crate) fn is_gone(handle: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut waited = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
    poll(&mut waited, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named() {
        for (raw, words) in [
            (0, "exit code 0, success"),
            (
                148 << 8,
                "exit code 148, a system call that its seccomp filter forbids",
            ),
            (42 << 8, "exit code 42"),
            (9, "signal 9"),
        ] {
            let end = MonitorEnd(Some(ExitStatus::from_raw(raw)));
            assert_eq!(describe(end), words);
        }
    }
}
