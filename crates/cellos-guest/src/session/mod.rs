//! One dialogue with the host: parked, told what to run, and done with it.

mod bridge_stream;
mod cell;
mod files;
mod host_words;
mod launcher_client;
mod launcher_words;
mod orders;
mod passing;
mod streams;
mod telemetry;
mod thrashing;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use cellos_bridge::{
    BridgeError, GuestEnd, Hello, HostSilence, MAX_CHUNK_BYTES, MAX_TEXT_BYTES, NotStarted, Phase,
    Refused, SendError,
};
use cellos_isolation::{Launcher, plan::Card};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use self::{cell::Stage, launcher_client::LauncherClient, thrashing::ThrashingWatch};
pub use self::{
    launcher_client::LauncherError, streams::INPUT_CREDIT_BYTES, thrashing::THRASHING_PATIENCE,
};
use crate::machine::Surroundings;

/// How long what an ended cell wrote is kept for a host that takes none of it. Each time that it
/// takes some, this starts anew; a pipe holds 64 KiB, so there is an end.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long the host may take to acknowledge a failure before the machine is reset anyway.
pub const LAST_WORD_PATIENCE: Duration = Duration::from_secs(10);

/// How a dialogue ended, where nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The host knows everything.
    Acknowledged,
    /// The host went before it had said what to run; another may come.
    LeftWhileParked,
    /// The host was told of a failure and never acknowledged it.
    NeverAcknowledged,
}

/// A dialogue that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host misbehaved or is gone.
    #[error("bridge: {0}")]
    Bridge(#[from] BridgeError),
    /// This program wanted to say something out of turn: a mistake of its own.
    #[error("bridge: {0}")]
    Send(#[from] SendError),
    /// The stream failed.
    #[error("{operation} the bridge: {source}")]
    Stream {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel's generator gives no number.
    #[error("draw a boot nonce: {0}")]
    Nonce(io::Error),
}

/// Who builds cells.
pub struct Builder {
    launcher: LauncherClient,
    card: Card,
}

impl Builder {
    /// The given launcher, whose cell takes the machine's network card or leaves it.
    #[must_use]
    pub fn new(launcher: Launcher, card: Card) -> Self {
        Self {
            launcher: LauncherClient::new(launcher),
            card,
        }
    }
}

/// Says hello on a stream and serves the host until it is done.
///
/// # Errors
/// [`SessionError`]; a cell that was built then still runs, and ends with the builder.
pub fn serve(
    stream: OwnedFd,
    builder: &mut Builder,
    surroundings: Surroundings,
) -> Result<SessionEnd, SessionError> {
    let mut session = Session::new(stream, surroundings)?;
    session.card = builder.card;
    session.serve(&mut builder.launcher)
}

/// Says hello on a stream and then why there will be no cell.
///
/// # Errors
/// [`SessionError`] when it could not be said.
pub fn report_failure(
    stream: OwnedFd,
    surroundings: Surroundings,
    operation: &str,
    reason: &str,
) -> Result<SessionEnd, SessionError> {
    let mut session = Session::new(stream, surroundings)?;
    session.refuse(guest_failure(operation, reason))?;
    session.serve(&mut LauncherClient::without_launcher())
}

struct Session {
    end: GuestEnd,
    stream: OwnedFd,
    surroundings: Surroundings,
    card: Card,
    stage: Stage,
    next_heartbeat: Instant,
    thrashing: ThrashingWatch,
    buffer: Vec<u8>,
}

/// What woke the loop.
#[derive(Default)]
struct Woken {
    stream: bool,
    launcher: bool,
    input: bool,
    outputs: [bool; 2],
}

impl Session {
    fn new(stream: OwnedFd, surroundings: Surroundings) -> Result<Self, SessionError> {
        let name = rustix::system::uname();
        let hello = Hello {
            guest_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
            boot_nonce: telemetry::fresh_nonce().map_err(SessionError::Nonce)?,
            boot_ms: telemetry::uptime_ms(),
        };
        let now = Instant::now();
        let end = GuestEnd::new(&hello, HostSilence::Tolerated, now)?;
        Ok(Self {
            next_heartbeat: now + end.heartbeat_interval(),
            end,
            stream,
            surroundings,
            card: Card::Left,
            stage: Stage::None,
            thrashing: ThrashingWatch::default(),
            buffer: vec![0; MAX_CHUNK_BYTES],
        })
    }

    fn serve(mut self, launcher: &mut LauncherClient) -> Result<SessionEnd, SessionError> {
        loop {
            self.write_stream()?;
            let woken = self.wait(launcher)?;
            if woken.stream
                && let Some(end) = self.read_stream(launcher)?
            {
                return Ok(end);
            }
            self.end.check(Instant::now())?;
            if woken.launcher {
                self.hear_launcher(launcher)?;
            }
            self.serve_streams(&woken)?;
            self.send_file()?;
            self.finish_draining()?;
            self.send_heartbeat()?;
            if matches!(self.stage, Stage::Failed { until } if until <= Instant::now()) {
                return Ok(SessionEnd::NeverAcknowledged);
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&mut self, launcher: &LauncherClient) -> Result<Woken, SessionError> {
        let timeout = self.time_to_next_deadline();
        let mut wanted = PollFlags::IN;
        // A stream that took everything at once has room for more of a file, and nothing else would
        // wake this end.
        let goes_on = self.end.outgoing().is_some() || self.stage.is_sending();
        wanted.set(PollFlags::OUT, goes_on);
        let mut polled = Vec::with_capacity(5);
        let mut places = Vec::with_capacity(5);
        let mut woken = Woken::default();
        polled.push(PollFd::from_borrowed_fd(self.stream.as_fd(), wanted));
        places.push(&mut woken.stream);
        if let Some(socket) = launcher.descriptor() {
            polled.push(PollFd::from_borrowed_fd(socket, PollFlags::IN));
            places.push(&mut woken.launcher);
        }
        if let Some(streams) = self.stage.streams() {
            if let Some(pipe) = streams.input.wants_room() {
                polled.push(PollFd::new(pipe, PollFlags::OUT));
                places.push(&mut woken.input);
            }
            for (outlet, place) in streams.outputs.iter().zip(&mut woken.outputs) {
                if let Some(pipe) = outlet.wants_data(&self.end) {
                    polled.push(PollFd::new(pipe, PollFlags::IN));
                    places.push(place);
                }
            }
        }
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {
                for (descriptor, place) in polled.iter().zip(places) {
                    *place = !descriptor.revents().is_empty();
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(stream_error("wait for", error)),
        }
        Ok(woken)
    }

    fn time_to_next_deadline(&self) -> Option<Timespec> {
        let heartbeat = (self.end.phase() <= Phase::Running).then_some(self.next_heartbeat);
        let next = [heartbeat, self.end.next_deadline(), self.stage.deadline()]
            .into_iter()
            .flatten()
            .min()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    fn send_heartbeat(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        if now < self.next_heartbeat || self.end.phase() > Phase::Running {
            return Ok(());
        }
        self.next_heartbeat = now + self.end.heartbeat_interval();
        if let Some(cgroup) = self.stage.cgroup() {
            self.thrashing.look(cgroup, now);
        }
        match self.end.telemetry(telemetry::of_cell(self.stage.cgroup())) {
            // What waits to be written says as well that this end is there.
            Ok(()) | Err(SendError::Backlog { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn refuse(&mut self, refused: Refused) -> Result<(), SessionError> {
        self.end.refuse(&refused)?;
        self.fail();
        Ok(())
    }

    fn not_started(&mut self, why: NotStarted) -> Result<(), SessionError> {
        self.end.not_started(&why)?;
        self.fail();
        Ok(())
    }

    fn fail(&mut self) {
        self.stage = Stage::Failed {
            until: Instant::now() + LAST_WORD_PATIENCE,
        };
    }
}

fn guest_failure(operation: &str, reason: &str) -> Refused {
    Refused::GuestFailure {
        operation: bounded(operation.to_owned()),
        reason: bounded(reason.to_owned()),
    }
}

fn guest_cannot_start(operation: &str, reason: &str) -> NotStarted {
    NotStarted::GuestFailure {
        operation: bounded(operation.to_owned()),
        reason: bounded(reason.to_owned()),
    }
}

/// The beginning of a text, as much as a message takes: a cut reason is better than none.
fn bounded(mut text: String) -> String {
    let end = (0..=MAX_TEXT_BYTES.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    text.truncate(end.unwrap_or(0));
    text
}

fn stream_error(operation: &'static str, source: impl Into<io::Error>) -> SessionError {
    SessionError::Stream {
        operation,
        source: source.into(),
    }
}
