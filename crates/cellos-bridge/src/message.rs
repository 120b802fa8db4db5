//! What the two ends say, as typed values. How each is written is in `body.rs`.

use std::time::Duration;

use cellos_core::{
    ExecutionCellDocument,
    ports::workload::{ExitReport, Posture, Residue, StopSignal},
};
use serde::{Deserialize, Serialize};

use crate::{Entropy, Nonce, SessionKey, StandardStream};

/// Longest text that a guest may send (versions, reasons, names of programs), in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Longest path in bytes: `PATH_MAX` of Linux without its zero byte.
pub const MAX_PATH_BYTES: usize = 4095;

/// Least entropy that a configuration brings, in bytes: a full seed of Linux's generator.
pub const MIN_ENTROPY_BYTES: usize = 32;

/// Most entropy that a configuration brings, in bytes.
pub const MAX_ENTROPY_BYTES: usize = 4096;

/// Shortest interval between heartbeats; a shorter one would only cost processor time.
pub const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10);

/// Longest interval between heartbeats; a longer one would hide a dead guest.
pub const MAX_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Guest to host, in the order of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMessage {
    /// The guest has booted.
    Hello(Hello),
    /// The cell is built and its workload parked.
    Ready(Box<Ready>),
    /// The guest cannot go on. Nothing follows.
    Refused(Refused),
    /// The workload's program was executed.
    Started(Started),
    /// The workload's program could not be executed. Nothing follows.
    NotStarted(NotStarted),
    /// Bytes that the workload wrote.
    Output(Output),
    /// So many more bytes of standard input may be sent. The end has counted them already.
    InputCredit {
        /// More bytes.
        bytes: u32,
    },
    /// Heartbeat, with figures.
    Telemetry(Telemetry),
    /// Bytes of the file that was asked for.
    FileChunk(Vec<u8>),
    /// The file is complete.
    FileEnd(FileEnd),
    /// There is no such file.
    FileAbsent,
    /// The file cannot be handed out.
    FileRefused {
        /// Why.
        reason: String,
    },
    /// The workload has ended. Its authenticity was verified.
    Exit(Box<Exit>),
}

/// Host to guest, in the order of a dialogue.
#[derive(Debug, Clone, PartialEq)]
pub enum HostMessage {
    /// What the guest is to run.
    Config(Box<Config>),
    /// Let the workload run.
    Start,
    /// Bytes for the workload's standard input.
    Input(Vec<u8>),
    /// Standard input ends.
    InputEnd,
    /// So many more bytes of an output stream may be sent. The end has counted them already.
    OutputCredit {
        /// Which stream.
        stream: StandardStream,
        /// More bytes.
        bytes: u32,
    },
    /// The host takes no more of an output stream, because its reader has gone: close the
    /// workload's pipe, so that it learns of it as from a pipe of its own. The end has no credit for
    /// it any more.
    OutputClosed {
        /// Which stream.
        stream: StandardStream,
    },
    /// End the workload.
    Terminate(StopSignal),
    /// The host is there.
    Heartbeat,
    /// Send a file of the working folder.
    Fetch(Fetch),
    /// The end is known to the host; the guest resets the machine.
    Acknowledge,
}

/// The guest has booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hello {
    /// Version of the guest's init.
    pub guest_version: String,
    /// `release` of uname(2).
    pub kernel_release: String,
    /// `machine` of uname(2).
    pub architecture: String,
    /// Drawn anew at each boot and after each restore.
    pub boot_nonce: Nonce,
    /// Milliseconds from the kernel's start to this message.
    pub boot_ms: u64,
}

/// What the guest is to run. Its `Debug` shows neither key nor entropy.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The run's id.
    pub run_id: String,
    /// The cell's id.
    pub cell_id: String,
    /// The admitted document.
    pub document: ExecutionCellDocument,
    /// Limit of the cell's memory within the guest in bytes.
    pub memory_limit_bytes: u64,
    /// Drawn anew for each configuration.
    pub host_nonce: Nonce,
    /// Authenticates the exit.
    pub session_key: SessionKey,
    /// For the guest's generator.
    pub entropy: Entropy,
    /// The host's clock, nanoseconds since 1970.
    pub wall_clock_unix_ns: u64,
    /// How often the guest sends telemetry from now on.
    pub heartbeat_interval: Duration,
    /// Bytes of standard output that may be sent before more are allowed; at most
    /// [`MAX_CREDIT_BYTES`](crate::MAX_CREDIT_BYTES).
    pub stdout_credit_bytes: u32,
    /// The same for standard error.
    pub stderr_credit_bytes: u32,
}

/// The cell is built and its workload parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ready {
    /// Isolation of the parked process, as the guest's kernel reports it. Its process id and
    /// "host" namespaces are the guest's.
    pub posture: Posture,
    /// The working folder, an absolute path within the cell.
    pub working_folder: String,
    /// Milliseconds from the kernel's start to this message.
    pub ready_ms: u64,
}

/// Why the guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Refused {
    /// It will not run this document.
    InvalidDocument {
        /// What is wrong with it.
        reason: String,
    },
    /// The guest itself failed.
    GuestFailure {
        /// What it was doing.
        operation: String,
        /// What went wrong.
        reason: String,
    },
}

/// The workload's program was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Started {
    /// Its process id within the guest.
    pub pid: u32,
}

/// Why the workload's program was not executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum NotStarted {
    /// There is no such program in the cell.
    CommandNotFound {
        /// `argv[0]`.
        program: String,
    },
    /// The program exists and cannot be executed.
    NotExecutable {
        /// `argv[0]`.
        program: String,
        /// The kernel's reason.
        reason: String,
    },
    /// The guest itself failed.
    GuestFailure {
        /// What it was doing.
        operation: String,
        /// What went wrong.
        reason: String,
    },
}

/// Bytes that the workload wrote, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output or standard error.
    pub stream: StandardStream,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// Heartbeat, with figures. From a parked guest the figures are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    /// `CLOCK_MONOTONIC` of the guest in nanoseconds.
    pub monotonic_ns: u64,
    /// Memory that the cell uses, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads of the cell.
    pub processes: u64,
}

/// Which file the host wants. One at a time, after the exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fetch {
    /// Path relative to the working folder. The guest must not follow it out of there.
    pub path: String,
    /// Largest file that the host takes, in bytes. A larger one is to be refused.
    pub max_bytes: u64,
}

/// A file is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEnd {
    /// Its size in bytes, which is what the chunks before had together.
    pub size_bytes: u64,
}

/// How the workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exit {
    /// How the main process ended, and what the cell used.
    pub report: ExitReport,
    /// What of the cell was left in the guest, found by looking.
    pub residue: Residue,
    /// Bytes of standard output.
    pub stdout: StreamTotals,
    /// Bytes of standard error.
    pub stderr: StreamTotals,
}

/// What became of the bytes of one output stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamTotals {
    /// Sent to the host. The host compares it with what it received.
    pub sent_bytes: u64,
    /// Written by the workload and not sent, because the host allowed no more.
    pub dropped_bytes: u64,
}

/// A text that is no longer than [`MAX_TEXT_BYTES`]: its beginning, cut between characters.
#[must_use]
pub fn cut_text(text: &str) -> String {
    text.char_indices()
        .take_while(|(at, character)| at + character.len_utf8() <= MAX_TEXT_BYTES)
        .map(|(_, character)| character)
        .collect()
}
