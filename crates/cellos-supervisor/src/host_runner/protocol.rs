//! What the supervisor and the helper say to each other: frames of a length and a JSON value.
//!
//! Before the first frame the supervisor sends one byte that carries the three streams.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest frame in bytes: above the kernel's limit on arguments and environment together (2 MiB
/// on most hosts, as JSON with escapes).
pub(super) const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// The byte that carries the streams.
pub(super) const STREAMS_BYTE: u8 = b'S';

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Start the command. Once, and first.
    Launch(Launch),
    /// `SIGTERM` to the command's process group.
    Terminate,
    /// `SIGKILL` to everything the command started.
    Kill,
}

/// What to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Folder to start in; the supervisor's own when absent.
    pub(crate) working_directory: Option<PathBuf>,
    /// Control group to join first.
    pub(crate) cgroup: Option<PathBuf>,
}

/// From the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The program has been executed.
    Started { pid: u32 },
    /// It has not; the helper is gone after this.
    Refused(Refusal),
    /// The command ended and nothing of it runs any more; the helper is gone after this.
    Ended(Ended),
}

/// Why a program was not executed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// There is no such program.
    NotFound,
    /// It cannot be executed.
    NotExecutable { reason: String },
    /// The helper could not get so far.
    Setup { reason: String },
}

/// How the command ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The code it returned, or
    pub(super) code: Option<i32>,
    /// the signal that ended it.
    pub(super) signal: Option<i32>,
    /// CPU time in user mode of everything it started, in microseconds.
    pub(super) cpu_user_micros: Option<u64>,
    /// The same in kernel mode.
    pub(super) cpu_system_micros: Option<u64>,
    /// Processes besides the command that had to be killed.
    pub(super) left_over: u64,
    /// Processes that are still there.
    pub(super) still_there: Vec<u32>,
}

/// A frame with its length.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME_BYTES)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message is too large"))?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length a frame announces, where it is allowed.
pub(super) fn body_length(header: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_le_bytes(header))
        .ok()
        .filter(|length| *length <= MAX_FRAME_BYTES)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "frame is too large"))
}

/// Writes one message.
pub(super) fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

/// Reads one message; blocks.
pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_length(header)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
