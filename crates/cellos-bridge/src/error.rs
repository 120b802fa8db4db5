//! What may go wrong between the ends, each with its own variant.

use std::time::Duration;

use crate::{FrameKind, Phase, StandardStream};

/// The dialogue is broken: the other end misbehaved, fell silent or is gone. An end that returned
/// one returns it for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// The other end speaks another version.
    #[error("frame of protocol version {found}, this end speaks version {own}", own = crate::PROTOCOL_VERSION)]
    Version {
        /// The other's version.
        found: u8,
    },
    /// A frame of a kind that does not exist in this direction.
    #[error("frame of unknown kind {kind}")]
    UnknownKind {
        /// Its number.
        kind: u8,
    },
    /// Reserved bits are set.
    #[error("reserved field of a frame is {found:#06x} instead of zero")]
    Reserved {
        /// The field.
        found: u16,
    },
    /// A frame was repeated, left out or moved.
    #[error("frame {found} came where frame {expected} was due")]
    OutOfSequence {
        /// The number that was due.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// A body is larger than its kind may have.
    #[error("{kind} frame announces {length} bytes, at most {bound} are allowed")]
    Oversized {
        /// The frame's kind.
        kind: FrameKind,
        /// Announced size of the body in bytes.
        length: u32,
        /// Allowed size in bytes.
        bound: usize,
    },
    /// A frame that may not come now.
    #[error("unexpected {kind} frame {phase}")]
    Unexpected {
        /// The frame's kind.
        kind: FrameKind,
        /// How far the dialogue was.
        phase: Phase,
    },
    /// The body of a frame is not what its kind asks for.
    #[error("malformed {kind} frame: {problem}")]
    Malformed {
        /// The frame's kind.
        kind: FrameKind,
        /// What is wrong.
        problem: BodyProblem,
    },
    /// More bytes of a stream came than were allowed.
    #[error("{bytes} bytes of {stream} came where {credit} were allowed")]
    CreditExceeded {
        /// The stream.
        stream: StandardStream,
        /// Bytes in the frame.
        bytes: usize,
        /// Bytes that were allowed.
        credit: u32,
    },
    /// More credit was given than the protocol allows.
    #[error("{bytes} more bytes of credit for {stream} exceed the most that may be under way")]
    CreditOverflow {
        /// The stream.
        stream: StandardStream,
        /// The bytes that were given.
        bytes: u32,
    },
    /// The exit's authentication code is wrong: whoever sent it was not PID 1 of this machine, or
    /// the dialogue before it was altered.
    #[error("the exit is not authentic")]
    ForgedExit,
    /// An authentic exit counts other bytes of a stream than came.
    #[error("the exit counts {claimed} bytes of {stream}, {received} were received")]
    StreamBytes {
        /// The stream.
        stream: StandardStream,
        /// Bytes that the guest sent by its own count.
        claimed: u64,
        /// Bytes that came.
        received: u64,
    },
    /// A file is larger than what was asked for.
    #[error("the guest sent more than the {max_bytes} bytes of a file that were asked for")]
    FileTooLarge {
        /// What was asked for.
        max_bytes: u64,
    },
    /// The end of a file gives another size than its chunks had.
    #[error("the guest says the file has {claimed} bytes, {received} were received")]
    FileSize {
        /// By the guest's count.
        claimed: u64,
        /// Bytes that came.
        received: u64,
    },
    /// The guest did not say hello in time.
    #[error("the guest did not say hello within {waited:?}")]
    HelloTimeout {
        /// How long was waited.
        waited: Duration,
    },
    /// A frame began and did not end.
    #[error("a frame was incomplete for {waited:?}")]
    FrameTimeout {
        /// How long was waited.
        waited: Duration,
    },
    /// Nothing came for too long.
    #[error("nothing was heard for {waited:?} {phase}")]
    Silent {
        /// How long was waited.
        waited: Duration,
        /// How far the dialogue was.
        phase: Phase,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame, {received} bytes after its beginning")]
    Short {
        /// Bytes of the frame that came.
        received: usize,
    },
    /// The stream ended and the guest had not reported an end.
    #[error("the stream ended {phase}, before an exit")]
    ClosedBeforeExit {
        /// How far the dialogue was.
        phase: Phase,
    },
    /// The stream ended while a file was being fetched.
    #[error("the stream ended while a file was being fetched")]
    ClosedDuringFetch,
}

/// What is wrong with the body of a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyProblem {
    /// Not the JSON that the kind asks for.
    #[error("{reason} (line {line}, column {column})")]
    Json {
        /// Line, from 1; 0 where there is no place.
        line: usize,
        /// Column, from 1; 0 where there is no place.
        column: usize,
        /// The parser's words, escaped and cut to 256 characters, without the place.
        reason: String,
    },
    /// JSON that says the same in other words than this version writes: a nested unknown field, an
    /// array for an object, other white space.
    #[error("not in the form in which this version writes it")]
    NotCanonical,
    /// Too few bytes.
    #[error("{found} bytes where at least {least} belong")]
    TooShort {
        /// Bytes that came.
        found: usize,
        /// Bytes that are needed.
        least: usize,
    },
    /// Not the number of an output stream.
    #[error("no output stream has number {number}")]
    UnknownStream {
        /// The number.
        number: u8,
    },
    /// A field that is out of its bounds.
    #[error("field {field} {rule}")]
    Field {
        /// Its name on the wire.
        field: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

/// What this end was asked to send cannot be sent. Nothing was sent, and the dialogue goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It has no place now.
    #[error("cannot send {kind} {phase}")]
    NotNow {
        /// The frame's kind.
        kind: FrameKind,
        /// How far the dialogue is.
        phase: Phase,
    },
    /// Standard input was ended already.
    #[error("standard input has ended already")]
    InputEnded,
    /// An output stream was closed already.
    #[error("{stream} was closed already")]
    OutputClosed {
        /// The stream.
        stream: StandardStream,
    },
    /// A file is being fetched; one at a time.
    #[error("a file is being fetched already")]
    Fetching,
    /// A value is out of its bounds.
    #[error("cannot send {kind}: {problem}")]
    Invalid {
        /// The frame's kind.
        kind: FrameKind,
        /// What is wrong.
        problem: BodyProblem,
    },
    /// A body is larger than its kind may have.
    #[error("{kind} would have {length} bytes, at most {bound} are allowed")]
    Oversized {
        /// The frame's kind.
        kind: FrameKind,
        /// Size of the body in bytes.
        length: usize,
        /// Allowed size in bytes.
        bound: usize,
    },
    /// More credit than may be under way.
    #[error("{bytes} more bytes of credit for {stream} exceed the most that may be under way")]
    CreditOverflow {
        /// The stream.
        stream: StandardStream,
        /// The bytes.
        bytes: u32,
    },
    /// More of a file than was asked for.
    #[error("the file has more than the {max_bytes} bytes that were asked for")]
    FileTooLarge {
        /// What was asked for.
        max_bytes: u64,
    },
    /// Too much waits to be written to the stream.
    #[error("{pending} bytes wait to be sent already")]
    Backlog {
        /// Bytes that wait.
        pending: usize,
    },
    /// The dialogue is broken.
    #[error(transparent)]
    Broken(#[from] BridgeError),
}
