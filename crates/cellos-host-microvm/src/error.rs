//! What can go wrong between the port and the drivers.

use std::time::Duration;

use cellos_bridge::{BridgeError, Refused, SendError};
use cellos_core::{CellosError, ports::workload::Loss};

use crate::{artifacts::ArtifactError, capacity::CapacityError, place::PlaceError, vmm::VmmError};

/// A machine that could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// What it would boot from is not what it should be.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// The host has no room.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// It has no folder.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The monitor could not boot it.
    #[error("boot failed: {0}")]
    Boot(#[from] VmmError),
    /// The guest did not come so far as to be parked.
    #[error("boot failed: {step}: {source}{console}")]
    Guest {
        /// What was waited for.
        step: &'static str,
        source: SessionError,
        /// The end of the console, or nothing.
        console: String,
    },
    /// The kernel gave no random bytes.
    #[error("draw keys: {0}")]
    Random(std::io::Error),
    /// The record does not say whose machine it is.
    #[error("note whose machine it is: {0}")]
    Record(std::io::Error),
    /// A value for the guest is out of its bounds.
    #[error("configure the guest: {0}")]
    Config(String),
    /// Nobody wants it any more.
    #[error("the creation was given up")]
    GivenUp,
}

impl From<CreateError> for CellosError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Guest {
                source: SessionError::Refused(Refused::InvalidDocument { reason }),
                ..
            } => Self::InvalidSpec(reason),
            other => Self::Host(other.to_string()),
        }
    }
}

/// What a dialogue with a guest can end in, other than well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The other end is lost.
    #[error(transparent)]
    Lost(#[from] LostGuest),
    /// The guest will not or cannot go on.
    #[error("the guest refused: {}", refusal(.0))]
    Refused(Refused),
    /// It did not come in time.
    #[error("not within {bound:?}")]
    Late {
        /// How long was waited.
        bound: Duration,
    },
    /// It cannot be said to the guest now.
    #[error(transparent)]
    Send(SendError),
    /// The guest has no such file to hand out.
    #[error("the guest does not hand the file out: {reason}")]
    FileRefused {
        /// Why.
        reason: String,
    },
    /// A file of the guest could not be written here.
    #[error("write the file: {0}")]
    File(String),
    /// The machine is being taken apart.
    #[error("the machine is being taken apart")]
    Over,
}

impl From<SendError> for SessionError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Broken(broken) => Self::Lost(broken.into()),
            other => Self::Send(other),
        }
    }
}

/// How sight of a guest was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LostGuest {
    /// The monitor ended.
    #[error("the virtual machine monitor ended ({end})")]
    Machine {
        /// How.
        end: String,
    },
    /// The guest ended the conversation.
    #[error("the guest crashed: {what}")]
    Closed {
        /// What was seen of it.
        what: String,
    },
    /// There was no workload to lose.
    #[error("the workload did not start: {why}")]
    NotStarted {
        /// Why not.
        why: String,
    },
    /// The guest fell silent.
    #[error("the guest is silent: {0}")]
    Silent(BridgeError),
    /// The exit is not the guest's.
    #[error("an exit code was forged: {0}")]
    Forged(BridgeError),
    /// The guest broke the protocol.
    #[error("the guest broke the protocol: {0}")]
    Broken(BridgeError),
    /// The stream to the monitor failed.
    #[error("the stream to the guest failed: {what}")]
    Stream {
        /// The kernel's answer.
        what: String,
    },
    /// A guest of the published contract sent nothing but wrong frames.
    #[error("{attempts} attempts to report an exit, none with a right code")]
    Attempts {
        /// How many.
        attempts: u32,
    },
}

impl LostGuest {
    pub(crate) fn loss(&self) -> Option<Loss> {
        Some(match self {
            Self::Machine { .. } => Loss::MachineCrashed,
            Self::Closed { .. } | Self::Stream { .. } => Loss::GuestCrashed,
            Self::Silent(_) => Loss::GuestSilent,
            Self::Forged(_) | Self::Attempts { .. } => Loss::ExitForged,
            Self::Broken(_) => Loss::BridgeBroken,
            Self::NotStarted { .. } => return None,
        })
    }
}

impl From<BridgeError> for LostGuest {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::ForgedExit => Self::Forged(error),
            BridgeError::HelloTimeout { .. }
            | BridgeError::FrameTimeout { .. }
            | BridgeError::Silent { .. } => Self::Silent(error),
            BridgeError::Short { .. }
            | BridgeError::ClosedBeforeExit { .. }
            | BridgeError::ClosedDuringFetch => Self::Closed {
                what: error.to_string(),
            },
            _ => Self::Broken(error),
        }
    }
}

fn refusal(refused: &Refused) -> String {
    match refused {
        Refused::InvalidDocument { reason } => reason.clone(),
        Refused::GuestFailure { operation, reason } => format!("{operation}: {reason}"),
    }
}
