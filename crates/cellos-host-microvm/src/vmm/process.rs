//! A monitor as a process of the host.
//!
//! One small thread watches each: it waits for the process's end and keeps the last of what it
//! writes. So an end is noticed at once, whoever waits, and whether or not a runtime is busy.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use cellos_core::ports::network::CellNetwork;
use cellos_isolation::confined::{self, Confined, Confinement, Helper, Order};
#[cfg(test)]
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Signal, pidfd_send_signal},
};
use tokio::sync::watch;

use super::{MonitorEnd, VmmError};
use crate::{
    console::{CONSOLE_BYTES, STDERR_BYTES, Tail},
    network,
};

/// Stack of a watching thread in bytes: it calls a few functions deep.
const WATCHER_STACK_BYTES: usize = 128 << 10;

/// Bytes read at a time.
const READ_BYTES: usize = 4096;

/// How long a killed monitor may take to end. Longer means that the kernel holds it, in a device.
pub(crate) const DEATH_BOUND: Duration = Duration::from_secs(5);

/// A monitor that was started, and is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    name: &'static str,
    pid: u32,
    pidfd: Arc<OwnedFd>,
    confinement: Option<Confinement>,
    network: Mutex<Option<CellNetwork>>,
    end: watch::Receiver<Option<MonitorEnd>>,
    stderr: Arc<Mutex<Tail>>,
    console: Arc<Mutex<Tail>>,
}

/// What a confined monitor is started with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its name, for messages: `qemu`.
    pub(crate) name: &'static str,
    pub(crate) helper: Helper,
    pub(crate) order: Order,
    /// The program itself, open.
    pub(crate) program: Arc<std::fs::File>,
    /// Its descriptors from [`confined::FIRST_DESCRIPTOR`] up.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Our end of the machine's serial console, where it comes by a descriptor.
    pub(crate) console: Option<OwnedFd>,
}

impl Monitor {
    /// Starts a monitor confined.
    ///
    /// # Errors
    /// [`VmmError::Host`] with the step that failed; no process is left then.
    pub(crate) async fn start(start: Start) -> Result<Self, VmmError> {
        let name = start.name;
        let spawned = tokio::task::spawn_blocking(move || {
            let descriptors: Vec<BorrowedFd<'_>> =
                start.descriptors.iter().map(AsFd::as_fd).collect();
            let program = start.program.as_fd();
            let started = confined::start(&start.helper, &start.order, program, &descriptors);
            let started = started.map_err(|error| VmmError::Host {
                step: format!("start {name}"),
                source: io::Error::other(error.to_string()),
            })?;
            Self::of(name, started, start.console)
        });
        spawned.await.map_err(|error| VmmError::Host {
            step: format!("start {name}"),
            source: io::Error::other(error),
        })?
    }

    fn of(
        name: &'static str,
        started: Confined,
        console: Option<OwnedFd>,
    ) -> Result<Self, VmmError> {
        let mut monitor = Self::watch(name, started.process, started.pidfd, console)?;
        monitor.confinement = Some(started.confinement);
        monitor.network =
            Mutex::new((!started.sockets.is_empty()).then(|| network::sorted(started.sockets)));
        Ok(monitor)
    }

    /// For tests: takes over a child of this process, whose standard error may be a pipe. `console` gives what
    /// its machine writes, as its standard output does where that is a pipe.
    ///
    /// # Errors
    /// [`VmmError::Host`] without a thread to watch it; the process is killed then.
    #[cfg(test)]
    pub(crate) fn adopt(
        name: &'static str,
        mut process: Child,
        console: Option<OwnedFd>,
    ) -> Result<Self, VmmError> {
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match pidfd {
            Ok(pidfd) => Self::watch(name, process, pidfd, console),
            Err(error) => {
                end_now(&mut process);
                Err(host(format!("open a handle of {name}"), error.into()))
            }
        }
    }

    fn watch(
        name: &'static str,
        mut process: Child,
        pidfd: OwnedFd,
        console: Option<OwnedFd>,
    ) -> Result<Self, VmmError> {
        let (publish, end) = watch::channel(None);
        let pid = process.id();
        let monitor = Self {
            name,
            pid,
            pidfd: Arc::new(pidfd),
            confinement: None,
            network: Mutex::default(),
            end,
            stderr: Arc::new(Mutex::new(Tail::new(STDERR_BYTES))),
            console: Arc::new(Mutex::new(Tail::new(CONSOLE_BYTES))),
        };
        let mut streams = Vec::new();
        if let Some(stderr) = process.stderr.take() {
            streams.push((OwnedFd::from(stderr), Arc::clone(&monitor.stderr)));
        }
        let output = process.stdout.take().map(OwnedFd::from);
        for console in console.into_iter().chain(output) {
            streams.push((console, Arc::clone(&monitor.console)));
        }
        let made_unblocking = streams
            .iter()
            .try_for_each(|(stream, _)| rustix::io::ioctl_fionbio(stream, true));
        let pidfd = Arc::clone(&monitor.pidfd);
        let process = Arc::new(Mutex::new(process));
        let watched = Arc::clone(&process);
        let started = made_unblocking.map_err(io::Error::from).and_then(|()| {
            thread::Builder::new()
                .name(format!("{name}-{pid}"))
                .stack_size(WATCHER_STACK_BYTES)
                .spawn(move || {
                    follow(&pidfd, streams);
                    let status = lock(&watched).wait().ok();
                    // Nobody may be left to hear it.
                    let _ = publish.send(Some(MonitorEnd(status)));
                })
        });
        if let Err(error) = started {
            end_now(&mut lock(&process));
            return Err(host(format!("watch {name}"), error));
        }
        Ok(monitor)
    }

    /// Its process id. It may have ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The sockets that answer what comes from its TAP device, once.
    pub(crate) fn network(&self) -> Option<CellNetwork> {
        lock(&self.network).take()
    }

    /// How it ended, where it has.
    pub(crate) fn end(&self) -> Option<MonitorEnd> {
        *self.end.borrow()
    }

    /// Waits for its end; for any number of callers, before or after it.
    pub(crate) async fn ended(&self) -> MonitorEnd {
        let mut end = self.end.clone();
        let seen = end
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| *end);
        // The watching thread publishes before it goes.
        seen.unwrap_or(MonitorEnd(None))
    }

    /// The last of what it wrote to its standard error, as printable text.
    pub(crate) fn said(&self) -> String {
        lock(&self.stderr).printable()
    }

    /// The last of what its machine wrote to its console, as printable text.
    pub(crate) fn console(&self) -> String {
        lock(&self.console).printable()
    }

    /// Kills it. That it has ended already is no error.
    ///
    /// # Errors
    /// The kernel's, pidfd_send_signal(2).
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&*self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it and waits until it has been collected.
    ///
    /// # Errors
    /// [`VmmError::Host`] when it cannot be killed, [`VmmError::Timeout`] when the kernel holds it
    /// for longer than [`DEATH_BOUND`].
    pub(crate) async fn kill_and_wait(&self) -> Result<MonitorEnd, VmmError> {
        self.kill()
            .map_err(|error| host(format!("kill {} ({})", self.name, self.pid), error))?;
        tokio::time::timeout(DEATH_BOUND, self.ended())
            .await
            .map_err(|_| VmmError::Timeout {
                monitor: self.name,
                request: "SIGKILL".to_owned(),
                bound: DEATH_BOUND,
            })
    }

    /// The error for an end that nobody asked for. Waits a moment for an end that is under way.
    pub(crate) async fn ended_during(&self, during: &str) -> VmmError {
        let end = self.ended().await;
        VmmError::Ended {
            monitor: self.name,
            end: describe(end),
            during: during.to_owned(),
            said: self.said().trim().to_owned(),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The watching thread collects it. It cannot be told to anybody if this fails.
        let _ = self.kill();
    }
}

/// Words for how a monitor ended.
pub(crate) fn describe(end: MonitorEnd) -> String {
    end.0.map_or_else(
        || "nobody knows how".to_owned(),
        |status: ExitStatus| status.to_string(),
    )
}

/// Reads all streams until the process has ended, then what is left in them.
fn follow(process: &OwnedFd, mut streams: Vec<(OwnedFd, Arc<Mutex<Tail>>)>) {
    loop {
        let mut polled = vec![PollFd::new(process, PollFlags::IN)];
        polled.extend(
            streams
                .iter()
                .map(|(stream, _)| PollFd::new(stream, PollFlags::IN)),
        );
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            // Only a lack of memory; waiting for the end is then what remains.
            Err(_) => return,
        }
        let ended = polled
            .first()
            .is_some_and(|process| !process.revents().is_empty());
        let ready: Vec<bool> = polled
            .iter()
            .skip(1)
            .map(|stream| !stream.revents().is_empty())
            .collect();
        let mut ready = ready.into_iter();
        streams.retain(|(stream, tail)| {
            let readable = ready.next().unwrap_or(false);
            if ended {
                // Bounded by what a pipe or socket holds, since nobody fills it any more; a
                // descendant that still does is given up on after as much as is kept anyway.
                for _ in 0..=(CONSOLE_BYTES / READ_BYTES) * 4 {
                    if read_some(stream, tail) != Read::Some {
                        break;
                    }
                }
                return false;
            }
            !readable || read_some(stream, tail) != Read::End
        });
        if ended {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Some,
    Nothing,
    End,
}

fn read_some(stream: &OwnedFd, tail: &Mutex<Tail>) -> Read {
    let mut buffer = [0; READ_BYTES];
    match rustix::io::read(stream, &mut buffer) {
        Ok(0) => Read::End,
        Ok(count) => {
            lock(tail).push(buffer.get(..count).unwrap_or_default());
            Read::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::End,
    }
}

fn end_now(process: &mut Child) {
    // A child of ours that is not collected yet: the worst is that it has ended by itself.
    let _ = process.kill();
    let _ = process.wait();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Whoever panicked with it has at worst left a byte out.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host(step: String, source: io::Error) -> VmmError {
    VmmError::Host { step, source }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "confinement_tests.rs"]
mod confinement;
