//! What a host and PID 1 of a microVM say to each other: frames, messages, and a state machine for
//! each end.
//!
//! Nothing here does I/O or reads a clock. An end is given the bytes that arrived and the time,
//! and has bytes to send; so it works over any stream, and every deadline can be tested.
//!
//! ```text
//! let mut rest = received;
//! while let Some(message) = end.receive(&mut rest, now)? { … }
//! while let Some(bytes) = end.outgoing() { let sent = stream.write(bytes)?; end.sent(sent); }
//! wait until the stream is ready or end.next_deadline() is there, then end.check(now)?
//! ```
#![forbid(unsafe_code)]

mod body;
mod deadline;
mod error;
mod frame;
mod guest_end;
mod host_end;
mod message;
mod outbox;
mod phase;
pub mod published;
mod seal;
mod secret;
mod stream;
mod times;

pub use error::{BodyProblem, BridgeError, SendError};
pub use frame::{
    Direction, FrameKind, HEADER_BYTES, MAX_CHUNK_BYTES, MAX_CONFIG_BYTES, MAX_CONTROL_BYTES,
    PROTOCOL_VERSION,
};
pub use guest_end::GuestEnd;
pub use host_end::HostEnd;
pub use message::{
    Config, Exit, Fetch, FileEnd, GuestMessage, Hello, HostMessage, MAX_ENTROPY_BYTES,
    MAX_HEARTBEAT_INTERVAL, MAX_PATH_BYTES, MAX_TEXT_BYTES, MIN_ENTROPY_BYTES,
    MIN_HEARTBEAT_INTERVAL, NotStarted, Output, Ready, Refused, Started, StreamTotals, Telemetry,
    cut_text,
};
pub use outbox::{MAX_BACKLOG_BYTES, MAX_BULK_BACKLOG_BYTES};
pub use phase::Phase;
pub use secret::{Entropy, Nonce, SessionKey};
pub use stream::{MAX_CREDIT_BYTES, StandardStream};
pub use times::{
    DEFAULT_FRAME_TIMEOUT, DEFAULT_HELLO_TIMEOUT, DEFAULT_SILENT_HEARTBEATS, HostSilence,
    HostTimes, PARKED_HEARTBEAT_INTERVAL,
};
