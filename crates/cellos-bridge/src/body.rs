//! How the bodies of frames are written and read: JSON, except stream and file bytes.

mod config;
mod json;
mod rules;

pub(crate) use config::{read_config, write_config};
pub(crate) use json::{read_json, write_json};
pub(crate) use rules::Bounded;

use cellos_core::ports::workload::StopSignal;
use serde::{Deserialize, Serialize};

use crate::StandardStream;

/// Body of credit for standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputCreditBody {
    pub(crate) bytes: u32,
}

/// Body of credit for an output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputCreditBody {
    pub(crate) stream: StandardStream,
    pub(crate) bytes: u32,
}

/// Body of the word that no more of an output stream is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputClosedBody {
    pub(crate) stream: StandardStream,
}

/// Body of the answer that a file cannot be handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRefusedBody {
    pub(crate) reason: String,
}

/// Body of a request to end the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TerminateBody {
    signal: SignalBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SignalBody {
    Terminate,
    Kill,
}

impl From<StopSignal> for TerminateBody {
    fn from(signal: StopSignal) -> Self {
        Self {
            signal: match signal {
                StopSignal::Terminate => SignalBody::Terminate,
                StopSignal::Kill => SignalBody::Kill,
            },
        }
    }
}

impl From<TerminateBody> for StopSignal {
    fn from(body: TerminateBody) -> Self {
        match body.signal {
            SignalBody::Terminate => Self::Terminate,
            SignalBody::Kill => Self::Kill,
        }
    }
}
