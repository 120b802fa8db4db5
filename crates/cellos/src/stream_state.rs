//! What a command can change of the standard streams that it shares with us.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    termios::{
        Action, OptionalActions, Termios, ioctl_tiocnxcl, tcflow, tcgetattr, tcgetpgrp, tcsetattr,
    },
};

/// Flags and terminal settings of the standard streams. They belong to what is open (fcntl(2)),
/// not to the process: a command that makes a stream non-blocking, stops a terminal's output or
/// switches its echo off does so to whoever runs it, and it stays so.
pub(crate) struct StreamState {
    streams: [State; 3],
}

struct State {
    flags: Option<OFlags>,
    terminal: Option<Termios>,
}

impl StreamState {
    pub(crate) fn of_standard_streams() -> Self {
        let state = |stream: BorrowedFd<'_>| State {
            flags: fcntl_getfl(stream).ok(),
            // Not a terminal: an error.
            terminal: tcgetattr(stream).ok(),
        };
        Self {
            streams: [
                state(io::stdin().as_fd()),
                state(io::stdout().as_fd()),
                state(io::stderr().as_fd()),
            ],
        }
    }

    /// Makes everything as it was. What cannot be set any more belongs to a stream that is gone.
    pub(crate) fn restore(&self) {
        let [input, output, errors] = &self.streams;
        input.restore(io::stdin().as_fd());
        output.restore(io::stdout().as_fd());
        errors.restore(io::stderr().as_fd());
    }
}

impl State {
    fn restore(&self, stream: BorrowedFd<'_>) {
        if let Some(flags) = self.flags {
            let _ = fcntl_setfl(stream, flags);
        }
        // A background process that touches its terminal would be stopped (credentials(7)).
        let ours = tcgetpgrp(stream).is_ok_and(|group| group == rustix::process::getpgrp());
        if let (Some(terminal), true) = (&self.terminal, ours) {
            let _ = tcflow(stream, Action::OOn);
            let _ = ioctl_tiocnxcl(stream);
            let _ = tcsetattr(stream, OptionalActions::Now, terminal);
        }
    }
}
