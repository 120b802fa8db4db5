//! The host's end of a dialogue.

mod deadlines;
mod incoming;

use std::{
    fmt,
    time::{Duration, Instant},
};

use cellos_core::ports::workload::StopSignal;

use crate::{
    BridgeError, Config, Direction, Fetch, FrameKind, GuestMessage, HostTimes, MAX_CHUNK_BYTES,
    Nonce, Phase, SendError, StandardStream,
    body::{
        Bounded as _, OutputClosedBody, OutputCreditBody, TerminateBody, write_config, write_json,
    },
    deadline,
    frame::FrameReader,
    outbox::Outbox,
    seal::{Seal, Transcript},
    stream::Window,
};

/// The host's end: reads what a guest sends, which is hostile, and writes what the backend wants
/// to say.
///
/// One for each stream: a machine that dials again, for example because it was restored from a
/// snapshot, says hello to a new one.
pub struct HostEnd {
    phase: Phase,
    times: HostTimes,
    opened: Instant,
    /// When the last whole frame came, or the time from which silence counts otherwise.
    heard: Instant,
    watch: Watch,
    reader: FrameReader,
    outbox: Outbox,
    transcript: Transcript,
    boot_nonce: Option<Nonce>,
    seal: Option<Seal>,
    /// Interval of the configuration, once there is one.
    heartbeat_interval: Option<Duration>,
    stdin: Window,
    stdin_open: bool,
    stdout: Window,
    stderr: Window,
    fetch: Option<Fetching>,
    broken: Option<BridgeError>,
}

/// Whether the guest's processor runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Running,
    Paused,
}

/// A file on its way.
struct Fetching {
    max_bytes: u64,
    received: u64,
}

impl HostEnd {
    /// An end that waits for a guest's hello from `now` on.
    #[must_use]
    pub fn new(times: HostTimes, now: Instant) -> Self {
        Self {
            phase: Phase::AwaitingHello,
            times,
            opened: now,
            heard: now,
            watch: Watch::Running,
            reader: FrameReader::new(Direction::GuestToHost),
            outbox: Outbox::default(),
            transcript: Transcript::default(),
            boot_nonce: None,
            seal: None,
            heartbeat_interval: None,
            stdin: Window::default(),
            stdin_open: true,
            stdout: Window::default(),
            stderr: Window::default(),
            fetch: None,
            broken: None,
        }
    }

    /// How far the dialogue is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes bytes that came from the guest off the front of `bytes` until they make a message.
    /// `None` when all bytes are taken and none is complete. Call until then.
    ///
    /// # Errors
    /// [`BridgeError`] when the guest misbehaved, now or earlier.
    pub fn receive(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
    ) -> Result<Option<GuestMessage>, BridgeError> {
        self.intact()?;
        let received = self.read(bytes, now);
        self.keep_error(received)
    }

    /// Tells that the stream has ended.
    ///
    /// # Errors
    /// [`BridgeError`] unless the guest's part was over.
    pub fn closed(&mut self) -> Result<(), BridgeError> {
        self.intact()?;
        let ended = match (self.reader.partial_bytes(), self.phase) {
            (0, Phase::Exited) if self.fetch.is_some() => Err(BridgeError::ClosedDuringFetch),
            (0, Phase::Exited | Phase::Failed | Phase::Over) => Ok(()),
            (0, phase) => Err(BridgeError::ClosedBeforeExit { phase }),
            (received, _) => Err(BridgeError::Short { received }),
        };
        self.keep_error(ended)
    }

    /// When [`check`](Self::check) finds an error unless something comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        deadline::first(self.deadlines())
    }

    /// Looks whether the guest let a deadline pass. Receive what has come before: time at which the
    /// host did not read counts as the guest's silence otherwise.
    ///
    /// # Errors
    /// [`BridgeError`] when it did, or misbehaved earlier.
    pub fn check(&mut self, now: Instant) -> Result<(), BridgeError> {
        self.intact()?;
        let checked = deadline::passed(self.deadlines(), now);
        self.keep_error(checked)
    }

    /// The guest's processor is stopped, on purpose and by the host: no deadline passes until
    /// [`resumed`](Self::resumed).
    pub fn paused(&mut self) {
        self.watch = Watch::Paused;
    }

    /// The guest's processor runs again; its silence counts from `now`.
    pub fn resumed(&mut self, now: Instant) {
        self.watch = Watch::Running;
        self.heard = now;
    }

    /// Bytes to write to the stream next, or `None` when there are none.
    #[must_use]
    pub fn outgoing(&self) -> Option<&[u8]> {
        self.outbox.front()
    }

    /// Counts bytes of [`outgoing`](Self::outgoing) as written.
    pub fn sent(&mut self, bytes: usize) {
        self.outbox.written(bytes);
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn outgoing_bytes(&self) -> usize {
        self.outbox.pending()
    }

    /// Tells a parked guest what it is to run.
    ///
    /// # Errors
    /// [`SendError`] in another phase, or when a value is out of bounds.
    pub fn configure(&mut self, config: &Config, now: Instant) -> Result<(), SendError> {
        let kind = FrameKind::Config;
        self.allow(kind, self.phase == Phase::Parked)?;
        let Some(boot_nonce) = self.boot_nonce else {
            return Err(self.not_now(kind));
        };
        let body = write_config(config)?;
        self.outbox.push(kind, &body)?;
        self.seal = Some(Seal::new(config, &body, boot_nonce));
        for (window, credit) in [
            (&mut self.stdout, config.stdout_credit_bytes),
            (&mut self.stderr, config.stderr_credit_bytes),
        ] {
            // Within bounds, or `write_config` had refused it.
            let _ = window.grant(credit);
        }
        self.heartbeat_interval = Some(config.heartbeat_interval);
        self.heard = self.heard.max(now);
        self.phase = Phase::Configured;
        Ok(())
    }

    /// Lets the workload run.
    ///
    /// # Errors
    /// [`SendError`] unless it is parked.
    pub fn start(&mut self) -> Result<(), SendError> {
        self.allow(FrameKind::Start, self.phase == Phase::Ready)?;
        self.outbox.push(FrameKind::Start, &[])?;
        self.phase = Phase::Starting;
        Ok(())
    }

    /// Sends as much standard input as there is credit and room for. Returns how many bytes of
    /// `bytes` those were; the rest must be offered again after more credit.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs and its standard input is open.
    pub fn input(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        self.allow(FrameKind::Input, self.phase == Phase::Running)?;
        if !self.stdin_open {
            return Err(SendError::InputEnded);
        }
        let mut rest = bytes;
        while !rest.is_empty() && self.outbox.has_room(FrameKind::Input, 0).is_ok() {
            let credit = usize::try_from(self.stdin.credit()).unwrap_or(usize::MAX);
            let (chunk, after) = rest.split_at(rest.len().min(credit).min(MAX_CHUNK_BYTES));
            if chunk.is_empty() || self.stdin.pass(chunk.len()).is_none() {
                break;
            }
            self.outbox.push(FrameKind::Input, chunk)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Bytes of standard input that the guest has room for.
    #[must_use]
    pub fn input_credit(&self) -> u32 {
        self.stdin.credit()
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs and its standard input is open.
    pub fn end_input(&mut self) -> Result<(), SendError> {
        self.allow(FrameKind::InputEnd, self.phase == Phase::Running)?;
        if !self.stdin_open {
            return Err(SendError::InputEnded);
        }
        self.outbox.push(FrameKind::InputEnd, &[])?;
        self.stdin_open = false;
        Ok(())
    }

    /// Lets the guest send more bytes of an output stream: as many as the consumer has taken.
    ///
    /// # Errors
    /// [`SendError`] before the configuration, after the exit, for a stream that was closed, or when
    /// more than [`MAX_CREDIT_BYTES`](crate::MAX_CREDIT_BYTES) would be under way.
    pub fn grant_output(&mut self, stream: StandardStream, bytes: u32) -> Result<(), SendError> {
        let kind = FrameKind::OutputCredit;
        self.allow(
            kind,
            (Phase::Configured..=Phase::Running).contains(&self.phase),
        )?;
        let grant = OutputCreditBody { stream, bytes };
        grant
            .check()
            .map_err(|problem| SendError::Invalid { kind, problem })?;
        let mut window = self.open_output(stream)?;
        window
            .grant(bytes)
            .ok_or(SendError::CreditOverflow { stream, bytes })?;
        self.outbox.push(kind, &write_json(kind, &grant, 0)?)?;
        self.set_output(stream, window);
        Ok(())
    }

    /// Tells the guest that nobody takes more of an output stream, so that the workload learns of it
    /// when it writes. What is under way still comes, within the credit.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs, for standard input, and for a stream that was closed
    /// already.
    pub fn close_output(&mut self, stream: StandardStream) -> Result<(), SendError> {
        let kind = FrameKind::OutputClosed;
        self.allow(kind, self.phase == Phase::Running)?;
        let closed = OutputClosedBody { stream };
        closed
            .check()
            .map_err(|problem| SendError::Invalid { kind, problem })?;
        let mut window = self.open_output(stream)?;
        self.outbox.push(kind, &write_json(kind, &closed, 0)?)?;
        window.close();
        self.set_output(stream, window);
        Ok(())
    }

    /// Asks the workload to end, or ends it.
    ///
    /// # Errors
    /// [`SendError`] before the configuration and after the exit.
    pub fn terminate(&mut self, how: StopSignal) -> Result<(), SendError> {
        let kind = FrameKind::Terminate;
        self.allow(
            kind,
            (Phase::Configured..=Phase::Running).contains(&self.phase),
        )?;
        self.outbox
            .push(kind, &write_json(kind, &TerminateBody::from(how), 0)?)?;
        Ok(())
    }

    /// Tells the guest that the host is there.
    ///
    /// # Errors
    /// [`SendError`] once the dialogue is over.
    pub fn heartbeat(&mut self) -> Result<(), SendError> {
        self.allow(FrameKind::Heartbeat, self.phase < Phase::Over)?;
        self.outbox.push(FrameKind::Heartbeat, &[])?;
        Ok(())
    }

    /// Asks for a file of the working folder, whose answers come as chunks and then an end, or as
    /// an absence or a refusal.
    ///
    /// # Errors
    /// [`SendError`] before the exit, or while another file is on its way.
    pub fn fetch(&mut self, fetch: &Fetch, now: Instant) -> Result<(), SendError> {
        let kind = FrameKind::Fetch;
        self.allow(kind, self.phase == Phase::Exited)?;
        if self.fetch.is_some() {
            return Err(SendError::Fetching);
        }
        fetch
            .check()
            .map_err(|problem| SendError::Invalid { kind, problem })?;
        self.outbox.push(kind, &write_json(kind, fetch, 0)?)?;
        self.fetch = Some(Fetching {
            max_bytes: fetch.max_bytes,
            received: 0,
        });
        self.heard = self.heard.max(now);
        Ok(())
    }

    /// Tells the guest that its end is known, so that it resets the machine. Nothing follows.
    ///
    /// # Errors
    /// [`SendError`] before an exit or a refusal, or while a file is on its way.
    pub fn acknowledge(&mut self) -> Result<(), SendError> {
        let kind = FrameKind::Acknowledge;
        self.allow(kind, matches!(self.phase, Phase::Exited | Phase::Failed))?;
        if self.fetch.is_some() {
            return Err(SendError::Fetching);
        }
        self.outbox.push(kind, &[])?;
        self.phase = Phase::Over;
        Ok(())
    }

    /// The window of an output stream.
    fn output(&self, stream: StandardStream) -> Window {
        match stream {
            StandardStream::Stdout => self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => self.stderr,
        }
    }

    /// The same, unless the stream was closed.
    fn open_output(&self, stream: StandardStream) -> Result<Window, SendError> {
        let window = self.output(stream);
        if window.is_closed() {
            return Err(SendError::OutputClosed { stream });
        }
        Ok(window)
    }

    fn set_output(&mut self, stream: StandardStream, window: Window) {
        match stream {
            StandardStream::Stdout => self.stdout = window,
            StandardStream::Stdin | StandardStream::Stderr => self.stderr = window,
        }
    }

    fn allow(&self, kind: FrameKind, holds: bool) -> Result<(), SendError> {
        self.intact()?;
        if holds {
            Ok(())
        } else {
            Err(self.not_now(kind))
        }
    }

    fn not_now(&self, kind: FrameKind) -> SendError {
        SendError::NotNow {
            kind,
            phase: self.phase,
        }
    }

    fn intact(&self) -> Result<(), BridgeError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn keep_error<T>(&mut self, result: Result<T, BridgeError>) -> Result<T, BridgeError> {
        if let Err(error) = &result {
            self.broken = Some(error.clone());
        }
        result
    }
}

impl fmt::Debug for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostEnd")
            .field("phase", &self.phase)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
