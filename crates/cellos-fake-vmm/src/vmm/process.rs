//! The guest process: started with the device at its descriptor, and never outliving the VMM.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::mpsc::Sender,
    thread,
};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};

use super::Event;
use crate::{guest, outside::Link, settings};

/// A running guest.
#[derive(Debug)]
pub(crate) enum Process {
    /// A child of the VMM.
    Inside { pidfd: OwnedFd },
    /// Somebody else's.
    Outside(Link),
}

/// What a guest finds when it starts.
#[derive(Debug)]
pub(crate) struct Boot {
    /// `cold` or `restored`.
    pub(crate) kind: &'static str,
    pub(crate) command_line: String,
    /// JSON.
    pub(crate) drives: String,
    /// Its end of the vsock device.
    pub(crate) device: Option<OwnedFd>,
    /// Where its output goes, if not where the VMM's own goes.
    pub(crate) serial: Option<File>,
}

impl Process {
    /// Starts a guest. Must be called on a thread that lives as long as the VMM: the kernel kills the
    /// guest when the thread that started it ends (prctl(2), `PR_SET_PDEATHSIG`).
    pub(crate) fn start(
        program: &settings::Guest,
        boot: Boot,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        let mut child = spawn(program, boot)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        // The VMM ends the same way whatever became of the guest, as after a machine's reset.
        tell_end(events, move || drop(child.wait()))?;
        Ok(Self::Inside { pidfd })
    }

    /// Has a guest run by whoever comes for it.
    pub(crate) fn await_outside(boot: Boot, events: Sender<Event>) -> io::Result<Self> {
        let link = Link::wait(boot)?;
        let waited = link.try_clone()?;
        tell_end(events, move || waited.ended())?;
        Ok(Self::Outside(link))
    }

    /// Sends a signal; one to a guest that has just ended is lost, which the caller will learn.
    pub(crate) fn signal(&self, signal: Signal) {
        match self {
            Self::Inside { pidfd } => drop(pidfd_send_signal(pidfd, signal)),
            Self::Outside(link) => link.signal(signal),
        }
    }
}

fn tell_end(events: Sender<Event>, wait: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name("guest-wait".into())
        .spawn(move || {
            wait();
            let _ = events.send(Event::GuestEnded);
        })?;
    Ok(())
}

/// Starts a guest's program, which dies with the calling thread.
pub(crate) fn spawn(program: &settings::Guest, boot: Boot) -> io::Result<Child> {
    let mut command = Command::new(&program.program);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(&program.environment)
        .env(guest::BOOT_VARIABLE, boot.kind)
        .env(guest::COMMAND_LINE_VARIABLE, &boot.command_line)
        .env(guest::DRIVES_VARIABLE, &boot.drives);
    if let Some(serial) = boot.serial {
        command
            .stdout(Stdio::from(serial.try_clone()?))
            .stderr(Stdio::from(serial));
    }
    if boot.device.is_some() {
        command.env(guest::DEVICE_VARIABLE, guest::DEVICE_DESCRIPTOR.to_string());
    }
    // Above the guest's number, so that the copy below always makes a new descriptor, which
    // stays open over the execution.
    let device = boot
        .device
        .map(|device| rustix::io::fcntl_dupfd_cloexec(&device, guest::DEVICE_DESCRIPTOR + 1))
        .transpose()?;
    let parent = getpid();
    // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and
    // takes no lock. `device` is owned by the closure and open in the child.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if let Some(device) = &device
                && libc::dup2(device.as_raw_fd(), guest::DEVICE_DESCRIPTOR) < 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}
