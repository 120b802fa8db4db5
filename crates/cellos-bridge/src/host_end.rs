//! The host's end of a dialogue.

use std::time::{Duration, Instant};

use cellos_core::ports::workload::StopSignal;

use crate::{
    BodyProblem, BridgeError, Config, Direction, Exit, Fetch, FrameKind, GuestMessage, HostTimes,
    MAX_CHUNK_BYTES, Nonce, Output, PARKED_HEARTBEAT_INTERVAL, Phase, SendError, StandardStream,
    StreamTotals,
    body::{
        Bounded as _, FileRefusedBody, InputCreditBody, OutputCreditBody, TerminateBody, read_json,
        write_config, write_json,
    },
    frame::{Frame, FrameReader, STREAM_PREFIX_BYTES},
    outbox::Outbox,
    seal::{MAC_BYTES, Seal, Transcript},
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
        self.deadlines()
            .into_iter()
            .flatten()
            .map(|(instant, _)| instant)
            .min()
    }

    /// Looks whether the guest let a deadline pass. Receive what has come before: time at which the
    /// host did not read counts as the guest's silence otherwise.
    ///
    /// # Errors
    /// [`BridgeError`] when it did, or misbehaved earlier.
    pub fn check(&mut self, now: Instant) -> Result<(), BridgeError> {
        self.intact()?;
        let checked = match self
            .deadlines()
            .into_iter()
            .flatten()
            .filter(|(instant, _)| *instant <= now)
            .min_by_key(|(instant, _)| *instant)
        {
            Some((_, error)) => Err(error),
            None => Ok(()),
        };
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
    /// [`SendError`] before the configuration, after the exit, or when more than
    /// [`MAX_CREDIT_BYTES`](crate::MAX_CREDIT_BYTES) would be under way.
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
        let mut window = self.output(stream);
        window
            .grant(bytes)
            .ok_or(SendError::CreditOverflow { stream, bytes })?;
        self.outbox.push(kind, &write_json(kind, &grant, 0)?)?;
        match stream {
            StandardStream::Stdout => self.stdout = window,
            StandardStream::Stdin | StandardStream::Stderr => self.stderr = window,
        }
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

    fn read(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
    ) -> Result<Option<GuestMessage>, BridgeError> {
        let (phase, fetching) = (self.phase, self.fetch.is_some());
        let admit = |kind| {
            if may_come(kind, phase, fetching) {
                Ok(())
            } else {
                Err(BridgeError::Unexpected { kind, phase })
            }
        };
        let Some(frame) = self.reader.advance(bytes, now, admit)? else {
            return Ok(None);
        };
        self.heard = now;
        let message = self.understand(&frame)?;
        self.transcript.add(&frame.header);
        self.transcript.add(&frame.body);
        Ok(Some(message))
    }

    /// Turns a frame that may come now into a message, and takes the step that it means.
    fn understand(&mut self, frame: &Frame) -> Result<GuestMessage, BridgeError> {
        let (kind, body) = (frame.kind, frame.body.as_slice());
        Ok(match kind {
            FrameKind::Hello => {
                let hello: crate::Hello = read_json(kind, body)?;
                self.boot_nonce = Some(hello.boot_nonce);
                self.phase = Phase::Parked;
                GuestMessage::Hello(hello)
            }
            FrameKind::Ready => {
                let ready = read_json(kind, body)?;
                self.phase = Phase::Ready;
                GuestMessage::Ready(Box::new(ready))
            }
            FrameKind::Refused => {
                let refused = read_json(kind, body)?;
                self.phase = Phase::Failed;
                GuestMessage::Refused(refused)
            }
            FrameKind::Started => {
                let started = read_json(kind, body)?;
                self.phase = Phase::Running;
                GuestMessage::Started(started)
            }
            FrameKind::NotStarted => {
                let not_started = read_json(kind, body)?;
                self.phase = Phase::Failed;
                GuestMessage::NotStarted(not_started)
            }
            FrameKind::Output => GuestMessage::Output(self.take_output(body)?),
            FrameKind::InputCredit => {
                let InputCreditBody { bytes } = read_json(kind, body)?;
                let stream = StandardStream::Stdin;
                self.stdin
                    .grant(bytes)
                    .ok_or(BridgeError::CreditOverflow { stream, bytes })?;
                GuestMessage::InputCredit { bytes }
            }
            FrameKind::Telemetry => GuestMessage::Telemetry(read_json(kind, body)?),
            FrameKind::FileChunk => {
                self.take_file_bytes(body)?;
                GuestMessage::FileChunk(body.to_vec())
            }
            FrameKind::FileEnd => {
                let end: crate::FileEnd = read_json(kind, body)?;
                let received = self.fetch.take().map_or(0, |file| file.received);
                if end.size_bytes != received {
                    let claimed = end.size_bytes;
                    return Err(BridgeError::FileSize { claimed, received });
                }
                GuestMessage::FileEnd(end)
            }
            FrameKind::FileAbsent => {
                self.fetch = None;
                GuestMessage::FileAbsent
            }
            FrameKind::FileRefused => {
                let FileRefusedBody { reason } = read_json(kind, body)?;
                self.fetch = None;
                GuestMessage::FileRefused { reason }
            }
            FrameKind::Exit => {
                let exit = self.verify_exit(body)?;
                self.phase = Phase::Exited;
                GuestMessage::Exit(Box::new(exit))
            }
            // The host's own kinds never pass the reader.
            FrameKind::Config
            | FrameKind::Start
            | FrameKind::Input
            | FrameKind::InputEnd
            | FrameKind::OutputCredit
            | FrameKind::Terminate
            | FrameKind::Heartbeat
            | FrameKind::Fetch
            | FrameKind::Acknowledge => return Err(BridgeError::UnknownKind { kind: kind as u8 }),
        })
    }

    fn take_output(&mut self, body: &[u8]) -> Result<Output, BridgeError> {
        let malformed = |problem| BridgeError::Malformed {
            kind: FrameKind::Output,
            problem,
        };
        let (&number, bytes) = match body.split_first() {
            Some((number, bytes)) if !bytes.is_empty() => (number, bytes),
            _ => {
                return Err(malformed(BodyProblem::TooShort {
                    found: body.len(),
                    least: STREAM_PREFIX_BYTES + 1,
                }));
            }
        };
        let stream = StandardStream::output_from_byte(number)
            .ok_or_else(|| malformed(BodyProblem::UnknownStream { number }))?;
        let window = match stream {
            StandardStream::Stdout => &mut self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => &mut self.stderr,
        };
        let credit = window.credit();
        window
            .pass(bytes.len())
            .ok_or(BridgeError::CreditExceeded {
                stream,
                bytes: bytes.len(),
                credit,
            })?;
        Ok(Output {
            stream,
            bytes: bytes.to_vec(),
        })
    }

    fn take_file_bytes(&mut self, body: &[u8]) -> Result<(), BridgeError> {
        if body.is_empty() {
            return Err(BridgeError::Malformed {
                kind: FrameKind::FileChunk,
                problem: BodyProblem::TooShort { found: 0, least: 1 },
            });
        }
        // `may_come` admits a chunk only while a file is on its way.
        let Some(file) = &mut self.fetch else {
            return Ok(());
        };
        let received = u64::try_from(body.len())
            .ok()
            .and_then(|bytes| file.received.checked_add(bytes))
            .filter(|&received| received <= file.max_bytes)
            .ok_or(BridgeError::FileTooLarge {
                max_bytes: file.max_bytes,
            })?;
        file.received = received;
        Ok(())
    }

    /// Reads an exit only after its code was found right.
    fn verify_exit(&self, body: &[u8]) -> Result<Exit, BridgeError> {
        let kind = FrameKind::Exit;
        let (mac, json) = body
            .split_at_checked(MAC_BYTES)
            .ok_or(BridgeError::Malformed {
                kind,
                problem: BodyProblem::TooShort {
                    found: body.len(),
                    least: MAC_BYTES,
                },
            })?;
        self.seal
            .as_ref()
            .ok_or(BridgeError::ForgedExit)?
            .verify(&self.transcript, json, mac)?;
        let exit: Exit = read_json(kind, json)?;
        for (stream, StreamTotals { sent_bytes, .. }) in [
            (StandardStream::Stdout, exit.stdout),
            (StandardStream::Stderr, exit.stderr),
        ] {
            let received = self.output(stream).passed();
            if sent_bytes != received {
                return Err(BridgeError::StreamBytes {
                    stream,
                    claimed: sent_bytes,
                    received,
                });
            }
        }
        Ok(exit)
    }

    /// The window of an output stream.
    fn output(&self, stream: StandardStream) -> Window {
        match stream {
            StandardStream::Stdout => self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => self.stderr,
        }
    }

    /// Every deadline that runs, with what it means that it has passed.
    fn deadlines(&self) -> [Option<(Instant, BridgeError)>; 3] {
        if self.watch == Watch::Paused || self.broken.is_some() || self.phase == Phase::Over {
            return [None, None, None];
        }
        let hello = (self.phase == Phase::AwaitingHello).then_some(self.times.hello);
        let silence = self.silence();
        [
            hello.and_then(|waited| {
                let error = BridgeError::HelloTimeout { waited };
                self.opened.checked_add(waited).map(|at| (at, error))
            }),
            self.reader.begun().and_then(|begun| {
                let waited = self.times.frame;
                let error = BridgeError::FrameTimeout { waited };
                // A pause in the middle of a frame is not the guest's.
                let begun = begun.max(self.heard);
                begun.checked_add(waited).map(|at| (at, error))
            }),
            silence.and_then(|waited| {
                let phase = self.phase;
                let error = BridgeError::Silent { waited, phase };
                self.heard.checked_add(waited).map(|at| (at, error))
            }),
        ]
    }

    /// How long the guest may be silent now.
    fn silence(&self) -> Option<Duration> {
        let interval = match self.phase {
            Phase::Parked => PARKED_HEARTBEAT_INTERVAL,
            // The guest goes by the parked interval until it has the configuration.
            Phase::Configured => self.heartbeat_interval?.max(PARKED_HEARTBEAT_INTERVAL),
            Phase::Ready | Phase::Starting | Phase::Running => self.heartbeat_interval?,
            Phase::Exited if self.fetch.is_some() => self.heartbeat_interval?,
            Phase::AwaitingHello | Phase::Exited | Phase::Failed | Phase::Over => return None,
        };
        Some(interval.saturating_mul(self.times.silent_heartbeats.max(1)))
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

/// Whether a guest may send a frame of this kind now.
fn may_come(kind: FrameKind, phase: Phase, fetching: bool) -> bool {
    match kind {
        FrameKind::Hello => phase == Phase::AwaitingHello,
        FrameKind::Telemetry | FrameKind::Refused => {
            (Phase::Parked..=Phase::Running).contains(&phase)
        }
        FrameKind::Ready => phase == Phase::Configured,
        FrameKind::Started | FrameKind::NotStarted => phase == Phase::Starting,
        FrameKind::Output | FrameKind::InputCredit | FrameKind::Exit => phase == Phase::Running,
        FrameKind::FileChunk
        | FrameKind::FileEnd
        | FrameKind::FileAbsent
        | FrameKind::FileRefused => phase == Phase::Exited && fetching,
        FrameKind::Config
        | FrameKind::Start
        | FrameKind::Input
        | FrameKind::InputEnd
        | FrameKind::OutputCredit
        | FrameKind::Terminate
        | FrameKind::Heartbeat
        | FrameKind::Fetch
        | FrameKind::Acknowledge => false,
    }
}
