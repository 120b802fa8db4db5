//! The record of one run.

use std::path::PathBuf;

use cellos_core::{document::Correlation, event::Subject};
use serde::{Deserialize, Serialize};

/// Version of [`RunRecord`]; a reader refuses a record with a higher one, and reads lower ones.
/// Since 2 a record says which format the log has and where in it the run begins.
pub const RECORD_FORMAT_VERSION: u32 = 2;

/// The format of a file that events are appended to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum LogFormat {
    /// One event in a line. All that records of version 1 know.
    #[default]
    Plain,
    /// One entry of a chain in a line.
    #[serde(rename_all = "camelCase")]
    Chained {
        /// Number of the first line that can be this run's.
        from_seq: u64,
    },
}

/// What is needed to finish a run whose supervisor is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// [`RECORD_FORMAT_VERSION`].
    pub format_version: u32,
    /// The run.
    pub run_id: String,
    /// The cell.
    pub cell_id: String,
    /// `spec.id` of its document.
    pub spec_id: String,
    /// `spec.correlation` of its document.
    pub correlation: Option<Correlation>,
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: u64,
    /// Name of the backend.
    pub backend: String,
    /// When the run began, RFC 3339.
    pub created_at: String,
    /// Process id of the supervisor.
    pub supervisor_pid: u32,
    /// Session of the run, a ULID.
    pub session_id: String,
    /// Id of the `started` event, which may not have been written.
    pub started_event_id: String,
    /// The file that the run's events are appended to.
    pub events_file: Option<PathBuf>,
    /// Its format.
    #[serde(default)]
    pub events_format: LogFormat,
    /// `sha256:` and the hash of the document's bytes.
    #[serde(default)]
    pub document_digest: Option<String>,
    /// The cell's control group.
    pub cgroup_path: Option<PathBuf>,
    /// Why the run failed, where the supervisor came as far as teardown but could not write it.
    pub reason: Option<String>,
}

impl RunRecord {
    /// The run for events.
    #[must_use]
    pub fn subject(&self) -> Subject {
        Subject {
            cell_id: self.cell_id.clone(),
            spec_id: self.spec_id.clone(),
            run_id: Some(self.run_id.clone()),
            correlation: self.correlation.clone(),
            document_digest: self.document_digest.clone(),
        }
    }
}
