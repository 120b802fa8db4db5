//! The guest process: started with the device at its descriptor, and never outliving the VMM.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::mpsc::Sender,
    thread,
};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};

use super::Event;
use crate::{guest, settings};

/// A running guest.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
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
        let vmm = getpid();
        // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and
        // takes no lock. `device` is owned by the closure and open in the child.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                if getppid() != Some(vmm) {
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
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        thread::Builder::new()
            .name("guest-wait".into())
            .spawn(move || {
                // The VMM ends the same way whatever became of the guest, as after a machine's reset.
                let _ = child.wait();
                let _ = events.send(Event::GuestEnded);
            })?;
        Ok(Self { pidfd })
    }

    /// Sends a signal; one to a guest that has just ended is lost, which the caller will learn.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}
