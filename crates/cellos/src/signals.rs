//! Signals to `cellos` become requests to stop the run.

use std::io;

use cellos_supervisor::{StopHandle, StopRequests, SupervisorSignal};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which signals ask for a stop.
const SIGNALS: [(SupervisorSignal, fn() -> SignalKind); 3] = [
    (SupervisorSignal::Hangup, SignalKind::hangup),
    (SupervisorSignal::Interrupt, SignalKind::interrupt),
    (SupervisorSignal::Terminate, SignalKind::terminate),
];

/// Passes `SIGHUP`, `SIGINT` and `SIGTERM` on, each time they come. Inside a tokio runtime.
///
/// A `SIGHUP` that this process was started to ignore, as nohup(1) does, stays ignored.
///
/// # Errors
/// When a handler cannot be installed.
pub(crate) fn stop_requests() -> io::Result<StopRequests> {
    let (handle, requests) = StopRequests::channel();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, kind) in SIGNALS {
        if name == SupervisorSignal::Hangup && ignores(&status, name) {
            continue;
        }
        tokio::spawn(pass_on(name, signal(kind())?, handle.clone()));
    }
    Ok(requests)
}

async fn pass_on(name: SupervisorSignal, mut signal: Signal, handle: StopHandle) {
    while signal.recv().await.is_some() {
        handle.request(name);
    }
}

/// Whether a process ignores a signal: field `SigIgn` of proc_pid_status(5), where the lowest bit
/// stands for signal 1.
fn ignores(status: &str, signal: SupervisorSignal) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal.number() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read_from_its_lowest_bit() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SupervisorSignal::Hangup));
        assert!(!ignores(status, SupervisorSignal::Interrupt));
        assert!(!ignores(status, SupervisorSignal::Terminate));
        assert!(!ignores("", SupervisorSignal::Hangup));
    }
}
