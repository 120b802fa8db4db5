//! Bytes of a flow, both ways: counted, guarded where the rule asks for it, and without holding
//! memory while nothing moves.
//!
//! Small amounts are copied through a buffer on the stack. A direction that fills this buffer goes
//! on through a pipe with splice(2), so that bulk data stays in the kernel; it gives the pipe back as
//! soon as it has to wait. An idle flow has two sockets and a task, and nothing else.

mod guard;
mod lane;
mod pipes;

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use cellos_core::event::FlowEnd;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::peek::Fault;
pub(crate) use guard::Guard;
use lane::Lane;
pub(crate) use pipes::Pipes;

/// After this long without a byte either way a flow ends.
pub(crate) const IDLE: Duration = Duration::from_secs(60 * 60);
/// The same once the server has said its last: who still has the connection open mostly forgot it.
pub(crate) const IDLE_AFTER_SERVER: Duration = Duration::from_secs(60);

/// A flow that ended.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Bytes from the client to the server.
    pub(crate) out: u64,
    /// Bytes from the server to the client.
    pub(crate) back: u64,
    /// How it ended.
    pub(crate) end: FlowEnd,
    /// What was refused, when it ended so.
    pub(crate) fault: Option<Fault>,
}

/// How long a flow may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// See [`IDLE`].
    pub(crate) idle: Duration,
    /// See [`IDLE_AFTER_SERVER`].
    pub(crate) after_server: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: IDLE,
            after_server: IDLE_AFTER_SERVER,
        }
    }
}

/// What the directions of a flow share.
#[derive(Debug)]
struct Meter {
    out: AtomicU64,
    back: AtomicU64,
    last: Mutex<Instant>,
    server_done: AtomicBool,
}

/// Why a direction stopped before both sides had closed.
#[derive(Debug)]
enum Stop {
    Broken(io::Error),
    Fault(Fault),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Carries a flow until it ends, or until `stop` says how it does. What the guard has already
/// released is sent to the server first.
pub(crate) async fn relay(
    client: &TcpStream,
    server: &TcpStream,
    guard: Guard,
    pipes: &Pipes,
    patience: Patience,
    stop: impl Future<Output = FlowEnd>,
) -> Relayed {
    let meter = Meter {
        out: AtomicU64::new(0),
        back: AtomicU64::new(0),
        last: Mutex::new(Instant::now()),
        server_done: AtomicBool::new(false),
    };
    let (end, fault) = {
        let out = Lane::new(client, server, pipes, &meter.out, &meter.last);
        let back = Lane::new(server, client, pipes, &meter.back, &meter.last);
        let both = guard::carry(guard, out, back, &meter.server_done);
        tokio::select! {
            ended = both => match ended {
                Ok(()) => (FlowEnd::Closed, None),
                Err(Stop::Broken(error)) => {
                    tracing::debug!(%error, "a flow was broken off");
                    (FlowEnd::Reset, None)
                }
                Err(Stop::Fault(fault)) => (FlowEnd::Refused, Some(fault)),
            },
            () = meter.silence(patience) => (FlowEnd::Idle, None),
            end = stop => (end, None),
        }
    };
    if end != FlowEnd::Closed {
        reset(client);
        reset(server);
    }
    Relayed {
        out: meter.out.load(Ordering::Relaxed),
        back: meter.back.load(Ordering::Relaxed),
        end,
        fault,
    }
}

/// Has a connection broken off, and not closed, when it is dropped: the other side must not take
/// what it got for everything.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Meter {
    /// Returns when nothing moved for too long.
    async fn silence(&self, patience: Patience) {
        loop {
            let bound = match self.server_done.load(Ordering::Relaxed) {
                true => patience.after_server,
                false => patience.idle,
            };
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= bound {
                return;
            }
            // Looks again early enough to see that the server has finished meanwhile.
            let look = Instant::now() + patience.after_server;
            sleep_until(look.min(last + bound)).await;
        }
    }
}
