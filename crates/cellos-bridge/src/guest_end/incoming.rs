//! What a host may say when, and what it means.

use std::time::Instant;

use super::{Fetching, GuestEnd};
use crate::{
    BodyProblem, BridgeError, Config, Fetch, FrameKind, HostMessage, Phase, StandardStream,
    body::{OutputClosedBody, OutputCreditBody, TerminateBody, read_config, read_json},
    frame::Frame,
    seal::Seal,
};

impl GuestEnd {
    /// The next message of what came.
    pub(super) fn read(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
    ) -> Result<Option<HostMessage>, BridgeError> {
        loop {
            let (phase, fetching) = (self.phase, self.fetch.is_some());
            let admit = |kind| match place(kind, phase, fetching) {
                Place::Wrong => Err(BridgeError::Unexpected { kind, phase }),
                Place::Due | Place::Late => Ok(()),
            };
            let Some(frame) = self.reader.advance(bytes, now, admit)? else {
                return Ok(None);
            };
            self.heard = now;
            // Asked again: while a frame was coming in, this end may have sent its exit.
            match place(frame.kind, self.phase, self.fetch.is_some()) {
                Place::Due => return self.understand(&frame).map(Some),
                Place::Late => {}
                Place::Wrong => {
                    return Err(BridgeError::Unexpected {
                        kind: frame.kind,
                        phase: self.phase,
                    });
                }
            }
        }
    }

    /// Turns a frame that is due into a message, and takes the step that it means.
    fn understand(&mut self, frame: &Frame) -> Result<HostMessage, BridgeError> {
        let (kind, body) = (frame.kind, frame.body.as_slice());
        Ok(match kind {
            FrameKind::Config => {
                let config = read_config(body)?;
                self.take_config(&config, body);
                HostMessage::Config(Box::new(config))
            }
            FrameKind::Start => {
                self.phase = Phase::Starting;
                HostMessage::Start
            }
            FrameKind::Input => HostMessage::Input(self.take_input(body)?),
            FrameKind::InputEnd => {
                self.end_input()?;
                HostMessage::InputEnd
            }
            FrameKind::OutputCredit => {
                let OutputCreditBody { stream, bytes } = read_json(kind, body)?;
                let phase = self.phase;
                self.open_output(stream)
                    .ok_or(BridgeError::Unexpected { kind, phase })?
                    .grant(bytes)
                    .ok_or(BridgeError::CreditOverflow { stream, bytes })?;
                HostMessage::OutputCredit { stream, bytes }
            }
            FrameKind::OutputClosed => {
                let OutputClosedBody { stream } = read_json(kind, body)?;
                let phase = self.phase;
                self.open_output(stream)
                    .ok_or(BridgeError::Unexpected { kind, phase })?
                    .close();
                HostMessage::OutputClosed { stream }
            }
            FrameKind::Terminate => {
                HostMessage::Terminate(read_json::<TerminateBody>(kind, body)?.into())
            }
            FrameKind::Heartbeat => HostMessage::Heartbeat,
            FrameKind::Fetch => {
                let fetch: Fetch = read_json(kind, body)?;
                self.fetch = Some(Fetching {
                    max_bytes: fetch.max_bytes,
                    sent: 0,
                });
                HostMessage::Fetch(fetch)
            }
            FrameKind::Acknowledge => {
                self.phase = Phase::Over;
                HostMessage::Acknowledge
            }
            // The guest's own kinds never pass the reader.
            FrameKind::Hello
            | FrameKind::Ready
            | FrameKind::Refused
            | FrameKind::Started
            | FrameKind::NotStarted
            | FrameKind::Output
            | FrameKind::InputCredit
            | FrameKind::Telemetry
            | FrameKind::FileChunk
            | FrameKind::FileEnd
            | FrameKind::FileAbsent
            | FrameKind::FileRefused
            | FrameKind::Exit => return Err(BridgeError::UnknownKind { kind: kind as u8 }),
        })
    }

    fn take_config(&mut self, config: &Config, body: &[u8]) {
        self.seal = Some(Seal::new(config, body, self.boot_nonce));
        for (window, credit) in [
            (&mut self.stdout, config.stdout_credit_bytes),
            (&mut self.stderr, config.stderr_credit_bytes),
        ] {
            // Within bounds, or `read_config` had refused it.
            let _ = window.grant(credit);
        }
        self.heartbeat_interval = config.heartbeat_interval;
        self.phase = Phase::Configured;
    }

    fn take_input(&mut self, body: &[u8]) -> Result<Vec<u8>, BridgeError> {
        let kind = FrameKind::Input;
        if !self.stdin_open {
            return Err(BridgeError::Unexpected {
                kind,
                phase: self.phase,
            });
        }
        if body.is_empty() {
            return Err(BridgeError::Malformed {
                kind,
                problem: BodyProblem::TooShort { found: 0, least: 1 },
            });
        }
        let credit = self.stdin.credit();
        self.stdin
            .pass(body.len())
            .ok_or(BridgeError::CreditExceeded {
                stream: StandardStream::Stdin,
                bytes: body.len(),
                credit,
            })?;
        Ok(body.to_vec())
    }

    fn end_input(&mut self) -> Result<(), BridgeError> {
        if !self.stdin_open {
            return Err(BridgeError::Unexpected {
                kind: FrameKind::InputEnd,
                phase: self.phase,
            });
        }
        self.stdin_open = false;
        Ok(())
    }
}

/// Whether a frame of the host has its place in the dialogue.
enum Place {
    /// It is due.
    Due,
    /// It was sent before the host knew that this end had come to its end.
    Late,
    /// It may not come.
    Wrong,
}

fn place(kind: FrameKind, phase: Phase, fetching: bool) -> Place {
    let due = match kind {
        FrameKind::Heartbeat => phase < Phase::Over,
        FrameKind::Config => phase == Phase::Parked,
        FrameKind::Start => phase == Phase::Ready,
        FrameKind::Input | FrameKind::InputEnd | FrameKind::OutputClosed => phase == Phase::Running,
        FrameKind::OutputCredit | FrameKind::Terminate => {
            (Phase::Configured..=Phase::Running).contains(&phase)
        }
        FrameKind::Fetch => phase == Phase::Exited && !fetching,
        FrameKind::Acknowledge => matches!(phase, Phase::Exited | Phase::Failed) && !fetching,
        _ => false,
    };
    let late = match phase {
        Phase::Exited => matches!(
            kind,
            FrameKind::Input
                | FrameKind::InputEnd
                | FrameKind::OutputCredit
                | FrameKind::OutputClosed
                | FrameKind::Terminate
        ),
        Phase::Failed => matches!(
            kind,
            FrameKind::Config
                | FrameKind::Start
                | FrameKind::Input
                | FrameKind::InputEnd
                | FrameKind::OutputCredit
                | FrameKind::OutputClosed
                | FrameKind::Terminate
        ),
        _ => false,
    };
    match (due, late) {
        (true, _) => Place::Due,
        (false, true) => Place::Late,
        (false, false) => Place::Wrong,
    }
}
