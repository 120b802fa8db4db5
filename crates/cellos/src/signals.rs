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
/// # Errors
/// When a handler cannot be installed.
pub(crate) fn stop_requests() -> io::Result<StopRequests> {
    let (handle, requests) = StopRequests::channel();
    for (name, kind) in SIGNALS {
        tokio::spawn(pass_on(name, signal(kind())?, handle.clone()));
    }
    Ok(requests)
}

async fn pass_on(name: SupervisorSignal, mut signal: Signal, handle: StopHandle) {
    while signal.recv().await.is_some() {
        handle.request(name);
    }
}
