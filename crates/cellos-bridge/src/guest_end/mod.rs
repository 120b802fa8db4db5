//! The guest's end of a dialogue.

mod incoming;

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{
    BodyProblem, BridgeError, DEFAULT_FRAME_TIMEOUT, Direction, Exit, FileEnd, FrameKind, Hello,
    HostMessage, HostSilence, MAX_CHUNK_BYTES, Nonce, NotStarted, Phase, Ready, Refused, SendError,
    StandardStream, Started, StreamTotals, Telemetry,
    body::{Bounded, FileRefusedBody, InputCreditBody, write_json},
    deadline::{self, Deadline},
    frame::{FrameReader, STREAM_PREFIX_BYTES},
    outbox::Outbox,
    seal::{MAC_BYTES, Seal, Transcript},
    stream::Window,
};

/// The guest's end, in PID 1 of a machine.
pub struct GuestEnd {
    phase: Phase,
    silence: HostSilence,
    /// When the last whole frame came.
    heard: Instant,
    reader: FrameReader,
    outbox: Outbox,
    transcript: Transcript,
    boot_nonce: Nonce,
    seal: Option<Seal>,
    heartbeat_interval: Duration,
    stdin: Window,
    stdin_open: bool,
    stdout: Window,
    stderr: Window,
    fetch: Option<Fetching>,
    broken: Option<BridgeError>,
}

/// A file on its way.
struct Fetching {
    max_bytes: u64,
    sent: u64,
}

impl GuestEnd {
    /// An end that says hello and is parked.
    ///
    /// # Errors
    /// [`SendError`] when a text of the hello is too long.
    pub fn new(hello: &Hello, silence: HostSilence, now: Instant) -> Result<Self, SendError> {
        let mut end = Self {
            phase: Phase::AwaitingHello,
            silence,
            heard: now,
            reader: FrameReader::new(Direction::HostToGuest),
            outbox: Outbox::default(),
            transcript: Transcript::default(),
            boot_nonce: hello.boot_nonce,
            seal: None,
            heartbeat_interval: crate::PARKED_HEARTBEAT_INTERVAL,
            stdin: Window::default(),
            stdin_open: true,
            stdout: Window::default(),
            stderr: Window::default(),
            fetch: None,
            broken: None,
        };
        end.send_json(FrameKind::Hello, hello)?;
        end.phase = Phase::Parked;
        Ok(end)
    }

    /// How far the dialogue is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How often [`telemetry`](Self::telemetry) is due now.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// Takes bytes that came from the host off the front of `bytes` until they make a message.
    /// `None` when all bytes are taken and none is complete. Call until then. What the host sent
    /// before it knew of an exit or a refusal is passed over.
    ///
    /// # Errors
    /// [`BridgeError`] when the host misbehaved, now or earlier.
    pub fn receive(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
    ) -> Result<Option<HostMessage>, BridgeError> {
        self.intact()?;
        let received = self.read(bytes, now);
        self.keep_error(received)
    }

    /// Tells that the stream has ended.
    ///
    /// # Errors
    /// [`BridgeError`] unless the host had acknowledged the end.
    pub fn closed(&mut self) -> Result<(), BridgeError> {
        self.intact()?;
        let ended = match (self.reader.partial_bytes(), self.phase) {
            (0, Phase::Over) => Ok(()),
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

    /// Looks whether the host let a deadline pass. Receive what has come before.
    ///
    /// # Errors
    /// [`BridgeError`] when it did, or misbehaved earlier.
    pub fn check(&mut self, now: Instant) -> Result<(), BridgeError> {
        self.intact()?;
        let checked = deadline::passed(self.deadlines(), now);
        self.keep_error(checked)
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

    /// Says that the cell is built and its workload parked.
    ///
    /// # Errors
    /// [`SendError`] unless the guest was configured and has not answered.
    pub fn ready(&mut self, ready: &Ready) -> Result<(), SendError> {
        self.allow(FrameKind::Ready, self.phase == Phase::Configured)?;
        self.send_json(FrameKind::Ready, ready)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Says that the guest cannot go on. Nothing may follow.
    ///
    /// # Errors
    /// [`SendError`] after an exit or another refusal.
    pub fn refuse(&mut self, refused: &Refused) -> Result<(), SendError> {
        self.allow(
            FrameKind::Refused,
            (Phase::Parked..=Phase::Running).contains(&self.phase),
        )?;
        self.send_json(FrameKind::Refused, refused)?;
        self.phase = Phase::Failed;
        Ok(())
    }

    /// Says that the workload's program was executed.
    ///
    /// # Errors
    /// [`SendError`] unless it was to be started.
    pub fn started(&mut self, started: Started) -> Result<(), SendError> {
        self.allow(FrameKind::Started, self.phase == Phase::Starting)?;
        self.send_json(FrameKind::Started, &started)?;
        self.phase = Phase::Running;
        Ok(())
    }

    /// Says that the workload's program could not be executed. Nothing may follow.
    ///
    /// # Errors
    /// [`SendError`] unless it was to be started.
    pub fn not_started(&mut self, why: &NotStarted) -> Result<(), SendError> {
        self.allow(FrameKind::NotStarted, self.phase == Phase::Starting)?;
        self.send_json(FrameKind::NotStarted, why)?;
        self.phase = Phase::Failed;
        Ok(())
    }

    /// Sends as much of what the workload wrote as there is credit and room for. Returns how many
    /// bytes of `bytes` those were; the rest must be offered again after more credit.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs and `stream` is an output stream.
    pub fn output(&mut self, stream: StandardStream, bytes: &[u8]) -> Result<usize, SendError> {
        let kind = FrameKind::Output;
        self.allow(kind, self.phase == Phase::Running)?;
        let mut body = Vec::with_capacity(STREAM_PREFIX_BYTES + bytes.len().min(MAX_CHUNK_BYTES));
        let mut rest = bytes;
        while !rest.is_empty() && self.outbox.has_room(kind, 0).is_ok() {
            let Some(window) = self.output_window(stream) else {
                return Err(SendError::Invalid {
                    kind,
                    problem: BodyProblem::UnknownStream {
                        number: stream.byte(),
                    },
                });
            };
            let credit = usize::try_from(credit_of(*window)).unwrap_or(usize::MAX);
            let (chunk, after) = rest.split_at(rest.len().min(credit).min(MAX_CHUNK_BYTES));
            if chunk.is_empty() || window.pass(chunk.len()).is_none() {
                break;
            }
            body.clear();
            body.push(stream.byte());
            body.extend_from_slice(chunk);
            self.push(kind, &body)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Bytes of an output stream that the host takes; none of standard input, nor of a stream that it
    /// has closed. Do not read the
    /// workload's pipe while there are none, so that the workload waits.
    #[must_use]
    pub fn output_credit(&self, stream: StandardStream) -> u32 {
        match stream {
            StandardStream::Stdin => 0,
            StandardStream::Stdout => credit_of(self.stdout),
            StandardStream::Stderr => credit_of(self.stderr),
        }
    }

    /// Lets the host send more standard input: as much as was written to the workload's pipe.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs, or when more than
    /// [`MAX_CREDIT_BYTES`](crate::MAX_CREDIT_BYTES) would be under way.
    pub fn grant_input(&mut self, bytes: u32) -> Result<(), SendError> {
        let kind = FrameKind::InputCredit;
        self.allow(kind, self.phase == Phase::Running)?;
        let mut window = self.stdin;
        window.grant(bytes).ok_or(SendError::CreditOverflow {
            stream: StandardStream::Stdin,
            bytes,
        })?;
        self.send_json(kind, &InputCreditBody { bytes })?;
        self.stdin = window;
        Ok(())
    }

    /// Sends a heartbeat with figures.
    ///
    /// # Errors
    /// [`SendError`] after an exit or a refusal, and while too much waits to be written.
    pub fn telemetry(&mut self, telemetry: Telemetry) -> Result<(), SendError> {
        let kind = FrameKind::Telemetry;
        self.allow(kind, (Phase::Parked..=Phase::Running).contains(&self.phase))?;
        self.send_json(kind, &telemetry)
    }

    /// Says how the workload ended, authenticated. Files may follow, nothing else. What the end
    /// itself counted replaces `sent_bytes` of both streams.
    ///
    /// # Errors
    /// [`SendError`] unless the workload runs; [`SendError::Oversized`] when report and residue
    /// have more than 64 KiB, so shorten the list of what was found and send again.
    pub fn exit(&mut self, exit: &Exit) -> Result<(), SendError> {
        let kind = FrameKind::Exit;
        self.allow(kind, self.phase == Phase::Running)?;
        let exit = Exit {
            stdout: counted(exit.stdout, self.stdout),
            stderr: counted(exit.stderr, self.stderr),
            ..exit.clone()
        };
        exit.check()
            .map_err(|problem| SendError::Invalid { kind, problem })?;
        let mut body = write_json(kind, &exit, MAC_BYTES)?;
        let (mac, json) = body.split_at_mut(MAC_BYTES);
        let Some(seal) = &self.seal else {
            return Err(self.not_now(kind));
        };
        mac.copy_from_slice(&seal.mac(&self.transcript, json));
        self.push(kind, &body)?;
        self.phase = Phase::Exited;
        Ok(())
    }

    /// Sends bytes of the file that the host wants: one frame, from 1 byte to
    /// [`MAX_CHUNK_BYTES`].
    ///
    /// # Errors
    /// [`SendError`] when no file is wanted, when the file has more bytes than are wanted, and while
    /// too much waits to be written.
    pub fn file_chunk(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let kind = FrameKind::FileChunk;
        self.allow(kind, self.fetch.is_some())?;
        if bytes.is_empty() {
            return Err(SendError::Invalid {
                kind,
                problem: BodyProblem::TooShort { found: 0, least: 1 },
            });
        }
        let Some(file) = &self.fetch else {
            return Err(self.not_now(kind));
        };
        let max_bytes = file.max_bytes;
        let sent = u64::try_from(bytes.len())
            .ok()
            .and_then(|bytes| file.sent.checked_add(bytes))
            .filter(|&sent| sent <= max_bytes)
            .ok_or(SendError::FileTooLarge { max_bytes })?;
        self.push(kind, bytes)?;
        self.fetch = Some(Fetching { max_bytes, sent });
        Ok(())
    }

    /// Says that the file is complete.
    ///
    /// # Errors
    /// [`SendError`] when no file is wanted.
    pub fn file_end(&mut self) -> Result<(), SendError> {
        let kind = FrameKind::FileEnd;
        let Some(Fetching { sent, .. }) = self.fetch else {
            return Err(self.not_now(kind));
        };
        self.allow(kind, true)?;
        self.send_json(kind, &FileEnd { size_bytes: sent })?;
        self.fetch = None;
        Ok(())
    }

    /// Says that there is no such file.
    ///
    /// # Errors
    /// [`SendError`] when no file is wanted.
    pub fn file_absent(&mut self) -> Result<(), SendError> {
        self.allow(FrameKind::FileAbsent, self.fetch.is_some())?;
        self.push(FrameKind::FileAbsent, &[])?;
        self.fetch = None;
        Ok(())
    }

    /// Says that the file cannot be handed out, also when a part of it was sent.
    ///
    /// # Errors
    /// [`SendError`] when no file is wanted.
    pub fn file_refused(&mut self, reason: &str) -> Result<(), SendError> {
        let kind = FrameKind::FileRefused;
        self.allow(kind, self.fetch.is_some())?;
        let reason = reason.to_owned();
        self.send_json(kind, &FileRefusedBody { reason })?;
        self.fetch = None;
        Ok(())
    }

    fn output_window(&mut self, stream: StandardStream) -> Option<&mut Window> {
        match stream {
            StandardStream::Stdin => None,
            StandardStream::Stdout => Some(&mut self.stdout),
            StandardStream::Stderr => Some(&mut self.stderr),
        }
    }

    /// The window of an output stream that the host has not closed.
    fn open_output(&mut self, stream: StandardStream) -> Option<&mut Window> {
        self.output_window(stream)
            .filter(|window| !window.is_closed())
    }

    fn send_json<T: serde::Serialize + Bounded>(
        &mut self,
        kind: FrameKind,
        value: &T,
    ) -> Result<(), SendError> {
        value
            .check()
            .map_err(|problem| SendError::Invalid { kind, problem })?;
        let body = write_json(kind, value, 0)?;
        self.push(kind, &body)
    }

    /// Queues a frame and counts it into the transcript.
    fn push(&mut self, kind: FrameKind, body: &[u8]) -> Result<(), SendError> {
        let frame = self.outbox.push(kind, body)?;
        self.transcript.add(frame);
        Ok(())
    }

    /// Every deadline that runs, with what it means that it has passed.
    fn deadlines(&self) -> [Option<Deadline>; 2] {
        if self.broken.is_some() || self.phase == Phase::Over {
            return [None, None];
        }
        let silence = match self.silence {
            HostSilence::ErrorAfter(waited) if self.phase >= Phase::Configured => Some(waited),
            HostSilence::ErrorAfter(_) | HostSilence::Tolerated => None,
        };
        [
            self.reader.begun().and_then(|begun| {
                let waited = DEFAULT_FRAME_TIMEOUT;
                Deadline::after(begun, waited, BridgeError::FrameTimeout { waited })
            }),
            silence.and_then(|waited| {
                let phase = self.phase;
                Deadline::after(self.heard, waited, BridgeError::Silent { waited, phase })
            }),
        ]
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

/// Bytes that the host takes: none of a stream that it has closed.
fn credit_of(window: Window) -> u32 {
    if window.is_closed() {
        0
    } else {
        window.credit()
    }
}

/// Totals of a stream as the end counted them.
fn counted(totals: StreamTotals, window: Window) -> StreamTotals {
    StreamTotals {
        sent_bytes: window.passed(),
        dropped_bytes: totals.dropped_bytes,
    }
}

impl fmt::Debug for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestEnd")
            .field("phase", &self.phase)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
