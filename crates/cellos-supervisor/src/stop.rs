//! Requests to stop a run, and which signal asked.

use std::future;

use serde::Serialize;
use tokio::sync::mpsc;

/// A signal that asked the supervisor to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SupervisorSignal {
    /// `SIGHUP`.
    #[serde(rename = "SIGHUP")]
    Hangup,
    /// `SIGINT`.
    #[serde(rename = "SIGINT")]
    Interrupt,
    /// `SIGTERM`.
    #[serde(rename = "SIGTERM")]
    Terminate,
}

impl SupervisorSignal {
    /// Number on Linux, signal(7).
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }

    /// Name as in signal(7).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// Asks a run to stop. The first request lets the workload end; the second one kills it.
#[derive(Debug, Clone)]
pub struct StopHandle(mpsc::UnboundedSender<SupervisorSignal>);

impl StopHandle {
    /// Passes one request on. A run that has ended ignores it.
    pub fn request(&self, signal: SupervisorSignal) {
        let _ = self.0.send(signal);
    }
}

/// The receiving end of [`StopHandle`].
#[derive(Debug)]
pub struct StopRequests {
    receiver: Option<mpsc::UnboundedReceiver<SupervisorSignal>>,
    first: Option<SupervisorSignal>,
    /// A request that was noticed and not acted on yet.
    unread: Option<SupervisorSignal>,
}

impl StopRequests {
    /// A handle and its receiving end.
    #[must_use]
    pub fn channel() -> (StopHandle, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            StopHandle(sender),
            Self {
                receiver: Some(receiver),
                first: None,
                unread: None,
            },
        )
    }

    /// Nobody asks.
    #[must_use]
    pub fn none() -> Self {
        Self {
            receiver: None,
            first: None,
            unread: None,
        }
    }

    /// The first request so far, without waiting.
    pub(crate) fn requested(&mut self) -> Option<SupervisorSignal> {
        if self.first.is_none() {
            self.first = self.receiver.as_mut().and_then(|r| r.try_recv().ok());
        }
        self.first
    }

    /// Waits for a request and leaves it for [`Self::next`].
    pub(crate) async fn noticed(&mut self) -> SupervisorSignal {
        let signal = self.next().await;
        self.unread = Some(signal);
        signal
    }

    /// The next request; never, when nobody can ask any more.
    pub(crate) async fn next(&mut self) -> SupervisorSignal {
        if let Some(signal) = self.unread.take() {
            return signal;
        }
        let received = match &mut self.receiver {
            Some(receiver) => receiver.recv().await,
            None => None,
        };
        match received {
            Some(signal) => {
                self.first.get_or_insert(signal);
                signal
            }
            None => future::pending().await,
        }
    }
}
