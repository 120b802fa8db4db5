//! What a guest may say when, and what it means.

use std::time::Instant;

use super::HostEnd;
use crate::{
    BodyProblem, BridgeError, Exit, FrameKind, GuestMessage, Output, Phase, StandardStream,
    StreamTotals,
    body::{FileRefusedBody, InputCreditBody, read_json},
    frame::{Frame, STREAM_PREFIX_BYTES},
    seal::MAC_BYTES,
};

impl HostEnd {
    /// The next message of what came.
    pub(super) fn read(
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
            | FrameKind::OutputClosed
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
        | FrameKind::OutputClosed
        | FrameKind::Terminate
        | FrameKind::Heartbeat
        | FrameKind::Fetch
        | FrameKind::Acknowledge => false,
    }
}
