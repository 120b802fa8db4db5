//! One flow: what it did, and the task that carries its answers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::Notify,
    time::{Instant, sleep_until},
};

use cellos_core::event::FlowEnd;

use super::{CellSocket, IDLE, MAX_WAITING, MAX_WAITING_BYTES, socket};
use crate::dns::BURST;

/// A flow, as long as it is known.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) begun: Instant,
    state: Mutex<State>,
    /// Milliseconds from `begun` to the last datagram.
    last: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    too_large: AtomicBool,
    end: Notify,
}

#[derive(Debug)]
enum State {
    /// Its address is asked for; these wait.
    Waiting(Vec<Vec<u8>>),
    /// It leads there.
    Open(Arc<UdpSocket>),
    /// It leads nowhere.
    Refused,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way, waits, or is lost, as datagrams may be.
    Done,
    /// It is too large for the way, the first of this flow.
    TooLarge,
}

impl Flow {
    /// A flow that begins with this datagram.
    pub(super) fn new(first: Vec<u8>) -> Self {
        Self {
            begun: Instant::now(),
            state: Mutex::new(State::Waiting(vec![first])),
            last: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            too_large: AtomicBool::new(false),
            end: Notify::new(),
        }
    }

    /// How long nothing was said.
    pub(super) fn silent(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }

    /// Makes the flow end.
    pub(super) fn end(&self) {
        self.end.notify_one();
    }

    /// Waits until it has to.
    pub(super) async fn ended(&self) {
        self.end.notified().await;
    }

    /// Takes a datagram of the cell.
    pub(super) fn send(&self, bytes: Vec<u8>) -> Sent {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Refused => Sent::Done,
            State::Waiting(waiting) => {
                let held: usize = waiting.iter().map(Vec::len).sum();
                if waiting.len() < MAX_WAITING && held + bytes.len() <= MAX_WAITING_BYTES {
                    waiting.push(bytes);
                }
                Sent::Done
            }
            State::Open(outside) => self.pass(outside, &bytes),
        }
    }

    /// Lets the flow lead there. Sends what waited.
    pub(super) fn open(&self, outside: &Arc<UdpSocket>) -> Sent {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, State::Open(Arc::clone(outside)));
        let mut sent = Sent::Done;
        if let State::Waiting(waiting) = before {
            for bytes in waiting {
                if self.pass(outside, &bytes) == Sent::TooLarge {
                    sent = Sent::TooLarge;
                }
            }
        }
        sent
    }

    /// Lets the flow lead nowhere.
    pub(super) fn refuse(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Refused;
    }

    fn pass(&self, outside: &UdpSocket, bytes: &[u8]) -> Sent {
        match outside.try_send(bytes) {
            Ok(sent) => {
                self.bytes_out.fetch_add(sent as u64, Relaxed);
                self.touch();
                Sent::Done
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                match self.too_large.swap(true, Relaxed) {
                    false => Sent::TooLarge,
                    true => Sent::Done,
                }
            }
            Err(_) => Sent::Done,
        }
    }

    fn touch(&self) {
        let now = self.begun.elapsed().as_millis();
        self.last
            .store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    /// Carries answers into the cell until the flow ends.
    pub(super) async fn carry(
        &self,
        outside: &UdpSocket,
        cell: &CellSocket,
        source: IpAddr,
        to: SocketAddr,
    ) -> FlowEnd {
        loop {
            let deadline = Instant::now() + IDLE.saturating_sub(self.silent());
            tokio::select! {
                biased;
                () = self.ended() => return FlowEnd::CellEnded,
                readable = outside.readable() => {
                    if readable.is_err() {
                        return FlowEnd::Reset;
                    }
                    for _ in 0..BURST {
                        match pass_in(outside, cell, source, to) {
                            Ok(size) => {
                                self.bytes_in.fetch_add(size as u64, Relaxed);
                                self.touch();
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            Err(_) => {}
                        }
                    }
                    tokio::task::yield_now().await;
                }
                () = sleep_until(deadline) => {
                    if self.silent() >= IDLE {
                        return FlowEnd::Idle;
                    }
                }
            }
        }
    }
}

/// Carries one answer.
fn pass_in(
    outside: &UdpSocket,
    cell: &CellSocket,
    source: IpAddr,
    to: SocketAddr,
) -> io::Result<usize> {
    socket::with_buffer(|buffer| {
        let size = outside.try_recv(buffer)?;
        cell.send(buffer.get(..size).unwrap_or_default(), source, to);
        Ok(size)
    })
}
