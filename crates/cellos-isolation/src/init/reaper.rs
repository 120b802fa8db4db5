//! Init's work while the workload runs: collect every process that ends, forward signals, and
//! end the cell with its main process.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::RecvFlags,
};

use super::{Main, tell};
use crate::{
    message,
    protocol::{FromInit, to_init},
    sys,
};

/// Signals that are passed on to the workload when somebody outside the cell sends them to init.
const FORWARDED: &[i32] = &[
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// Returns init's exit code once the main process has ended. The kernel then kills whatever is
/// left in the PID namespace (pid_namespaces(7)).
pub(super) fn run(control: BorrowedFd<'_>, main: Main) -> i32 {
    loop {
        match collect(control, &main) {
            Collected::MainEnded => return 0,
            Collected::MainRuns => {}
        }
        let mut descriptors = [
            PollFd::from_borrowed_fd(main.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(control, PollFlags::IN),
        ];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 1,
        }
        let [signals, requests] = descriptors.map(|descriptor| descriptor.revents());
        if !signals.is_empty() {
            forward(&main);
        }
        if !requests.is_empty() && !obey(control, &main) {
            // The launcher is gone, and with it everybody who could end this cell.
            return 1;
        }
    }
}

enum Collected {
    MainRuns,
    MainEnded,
}

fn collect(control: BorrowedFd<'_>, main: &Main) -> Collected {
    while let Ok(Some(ended)) = sys::collect_child(-1) {
        if ended.pid == main.pid.as_raw_nonzero().get() {
            let children = sys::resource_usage(libc::RUSAGE_CHILDREN);
            let max_rss_kib = u64::try_from(children.ru_maxrss).unwrap_or(0);
            let exited = FromInit::Exited {
                status: ended.status,
                max_rss_bytes: max_rss_kib.saturating_mul(1024),
            };
            // A launcher that cannot be told sees init end without a word and reports that.
            let _ = tell(control, &exited, &[]);
            return Collected::MainEnded;
        }
    }
    Collected::MainRuns
}

fn forward(main: &Main) {
    while let Ok(Some(signal)) = sys::next_signal(main.signals.as_fd()) {
        // Processes inside the cell can signal each other without init's help.
        if signal.sender == 0 && FORWARDED.contains(&signal.number) {
            signal_workload(main, signal.number);
        }
    }
}

/// Whether the launcher is still there.
fn obey(control: BorrowedFd<'_>, main: &Main) -> bool {
    let mut buffer = [0; 8];
    match message::receive(control, &mut buffer, RecvFlags::DONTWAIT) {
        Ok(Some(message)) => {
            if message.bytes == to_init::TERMINATE {
                signal_workload(main, libc::SIGTERM);
            }
            true
        }
        Ok(None) => false,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// Signals the workload's session leader and everything in its process group.
fn signal_workload(main: &Main, signal: i32) {
    let pid = main.pid.as_raw_nonzero().get();
    // Before the process became a group leader there is no such group.
    if sys::kill(-pid, signal).is_err() {
        let _ = sys::kill(pid, signal);
    }
}
