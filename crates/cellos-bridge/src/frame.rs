//! Frames: a fixed header and a body whose size is bounded by the frame's kind.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | length of the body, little endian |
//! | 4 | protocol version |
//! | 5 | kind |
//! | 6..8 | reserved, zero |
//! | 8..12 | sequence, little endian; from 0, one more with each frame of a direction |

use std::{fmt, time::Instant};

use zeroize::Zeroizing;

use crate::BridgeError;

/// The version that both ends must speak. Both come from one build of CellOS, so there is no
/// negotiation: another number is an error.
pub const PROTOCOL_VERSION: u8 = 1;

/// Size of a frame's header in bytes.
pub const HEADER_BYTES: usize = 12;

/// Largest body of a `Config` in bytes: a document of 1 MiB may grow when it is written as JSON.
pub const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Most stream or file bytes in one frame: what a pipe holds on Linux.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;

/// Largest body of any other frame in bytes.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// Bytes before the stream bytes of an output frame: the stream's number.
pub(crate) const STREAM_PREFIX_BYTES: usize = 1;

/// Who sends a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// PID 1 of the machine.
    GuestToHost,
    /// The backend.
    HostToGuest,
}

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal, $direction:ident, $bound:expr;)*) => {
        /// Kind of a frame. The number on the wire is the enum's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $byte,)*
        }

        impl FrameKind {
            /// Every kind there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind with this number.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Who sends it.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self {
                    $(Self::$name => Direction::$direction,)*
                }
            }

            /// Largest body in bytes.
            #[must_use]
            pub const fn bound(self) -> usize {
                match self {
                    $(Self::$name => $bound,)*
                }
            }
        }
    };
}

frame_kinds! {
    /// The guest has booted.
    Hello = 1, GuestToHost, MAX_CONTROL_BYTES;
    /// The cell is built and its workload parked.
    Ready = 2, GuestToHost, MAX_CONTROL_BYTES;
    /// The guest cannot go on.
    Refused = 3, GuestToHost, MAX_CONTROL_BYTES;
    /// The workload's program was executed.
    Started = 4, GuestToHost, MAX_CONTROL_BYTES;
    /// The workload's program could not be executed.
    NotStarted = 5, GuestToHost, MAX_CONTROL_BYTES;
    /// Bytes that the workload wrote.
    Output = 6, GuestToHost, STREAM_PREFIX_BYTES + MAX_CHUNK_BYTES;
    /// So many more bytes of standard input may be sent.
    InputCredit = 7, GuestToHost, MAX_CONTROL_BYTES;
    /// Heartbeat, with figures.
    Telemetry = 8, GuestToHost, MAX_CONTROL_BYTES;
    /// Bytes of the file that was asked for.
    FileChunk = 9, GuestToHost, MAX_CHUNK_BYTES;
    /// The file is complete.
    FileEnd = 10, GuestToHost, MAX_CONTROL_BYTES;
    /// There is no such file.
    FileAbsent = 11, GuestToHost, 0;
    /// The file cannot be handed out.
    FileRefused = 12, GuestToHost, MAX_CONTROL_BYTES;
    /// The workload has ended and nothing of the cell runs any more.
    Exit = 13, GuestToHost, MAX_CONTROL_BYTES;
    /// What the guest is to run.
    Config = 129, HostToGuest, MAX_CONFIG_BYTES;
    /// Let the workload run.
    Start = 130, HostToGuest, 0;
    /// Bytes for the workload's standard input.
    Input = 131, HostToGuest, MAX_CHUNK_BYTES;
    /// Standard input ends.
    InputEnd = 132, HostToGuest, 0;
    /// So many more bytes of an output stream may be sent.
    OutputCredit = 133, HostToGuest, MAX_CONTROL_BYTES;
    /// End the workload.
    Terminate = 134, HostToGuest, MAX_CONTROL_BYTES;
    /// The host is there.
    Heartbeat = 135, HostToGuest, 0;
    /// Send a file of the working folder.
    Fetch = 136, HostToGuest, MAX_CONTROL_BYTES;
    /// The exit is kept; the machine may go.
    Acknowledge = 137, HostToGuest, 0;
    /// The host takes no more of an output stream.
    OutputClosed = 138, HostToGuest, MAX_CONTROL_BYTES;
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A whole frame.
pub(crate) struct Frame {
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) kind: FrameKind,
    /// Wiped, because the body of a `Config` holds a key.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Puts frames of one direction together from pieces of a stream.
pub(crate) struct FrameReader {
    direction: Direction,
    sequence: u32,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Option<Body>,
    /// When the first byte of the frame in progress came.
    begun: Option<Instant>,
}

struct Body {
    kind: FrameKind,
    length: usize,
    bytes: Zeroizing<Vec<u8>>,
}

impl FrameReader {
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            direction,
            sequence: 0,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            body: None,
            begun: None,
        }
    }

    /// Takes bytes off the front until a frame is complete or none are left. `admit` is asked
    /// about the kind before anything of the body is kept.
    pub(crate) fn advance(
        &mut self,
        bytes: &mut &[u8],
        now: Instant,
        admit: impl FnOnce(FrameKind) -> Result<(), BridgeError>,
    ) -> Result<Option<Frame>, BridgeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        self.begun.get_or_insert(now);
        let mut body = match self.body.take() {
            Some(body) => body,
            None => {
                let taken = take(bytes, HEADER_BYTES - self.header_filled);
                self.header[self.header_filled..][..taken.len()].copy_from_slice(taken);
                self.header_filled += taken.len();
                if self.header_filled < HEADER_BYTES {
                    return Ok(None);
                }
                let (kind, length) = self.read_header()?;
                admit(kind)?;
                Body {
                    kind,
                    length,
                    bytes: Zeroizing::new(Vec::with_capacity(length)),
                }
            }
        };
        let missing = body.length - body.bytes.len();
        body.bytes.extend_from_slice(take(bytes, missing));
        if body.bytes.len() < body.length {
            self.body = Some(body);
            return Ok(None);
        }
        self.header_filled = 0;
        self.begun = None;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(Some(Frame {
            header: self.header,
            kind: body.kind,
            body: body.bytes,
        }))
    }

    /// When the first byte of the frame in progress came.
    pub(crate) fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// Bytes of the frame in progress that are here already, its header included.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.header_filled + self.body.as_ref().map_or(0, |body| body.bytes.len())
    }

    fn read_header(&self) -> Result<(FrameKind, usize), BridgeError> {
        let [l0, l1, l2, l3, version, kind, r0, r1, s0, s1, s2, s3] = self.header;
        if version != PROTOCOL_VERSION {
            return Err(BridgeError::Version { found: version });
        }
        let kind = FrameKind::from_byte(kind)
            .filter(|known| known.direction() == self.direction)
            .ok_or(BridgeError::UnknownKind { kind })?;
        let reserved = u16::from_le_bytes([r0, r1]);
        if reserved != 0 {
            return Err(BridgeError::Reserved { found: reserved });
        }
        let sequence = u32::from_le_bytes([s0, s1, s2, s3]);
        if sequence != self.sequence {
            return Err(BridgeError::OutOfSequence {
                expected: self.sequence,
                found: sequence,
            });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        usize::try_from(length)
            .ok()
            .filter(|&bytes| bytes <= kind.bound())
            .map(|bytes| (kind, bytes))
            .ok_or(BridgeError::Oversized {
                kind,
                length,
                bound: kind.bound(),
            })
    }
}

/// The header of a frame.
pub(crate) fn header(kind: FrameKind, length: u32, sequence: u32) -> [u8; HEADER_BYTES] {
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [s0, s1, s2, s3] = sequence.to_le_bytes();
    [
        l0,
        l1,
        l2,
        l3,
        PROTOCOL_VERSION,
        kind as u8,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
    ]
}

fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}
