//! The state of a run in the published contract's words.

use serde::Serialize;

use super::{
    parts::{EndKind, ExportView, IdentityStage, PlacementView},
    view::RunView,
};

/// The state of a run. Names and meanings are those of the published contract; from `outcome` on
/// the fields are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// `spec.id` of the document.
    pub spec_id: Option<String>,
    /// The cell.
    pub cell_id: String,
    /// The run.
    pub run_id: String,
    /// `spec.placement`.
    pub placement: Option<PlacementView>,
    /// How far the run is.
    pub lifecycle_stage: LifecycleStage,
    /// How far its identities are.
    pub identity_stage: IdentityProgress,
    /// How far its artifacts are.
    pub export_stage: ExportStage,
    /// All that in one word.
    pub current_state: CurrentState,
    /// The command's code.
    pub command_exit_code: Option<i64>,
    /// Why the run failed.
    pub destroy_reason: Option<String>,
    /// The last error.
    pub last_error: Option<String>,
    /// Artifacts that were stored.
    pub exports: Vec<ExportedFile>,
    /// How many events were taken in.
    pub processed_events: u64,
    /// `succeeded` or `failed`: the published `destroyFailed` is also a cell that was destroyed
    /// well after a command that failed.
    pub outcome: Option<String>,
    /// Who or what ended the run.
    pub ended_by: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// When it began.
    pub started_at: Option<jiff::Timestamp>,
    /// When it ended.
    pub ended_at: Option<jiff::Timestamp>,
    /// How many errors were found in its events.
    pub errors: u64,
}

/// An artifact that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedFile {
    /// Kind of the target.
    pub target_kind: Option<String>,
    /// Name of the target.
    pub target_name: Option<String>,
    /// Where it went.
    pub destination: Option<String>,
    /// Its size.
    pub bytes_written: Option<u64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LifecycleStage {
    /// There is no cell yet.
    Pending,
    /// The cell is there.
    Started,
    /// The command has ended.
    CommandCompleted,
    /// The cell is gone.
    Destroyed,
}

/// How far the identities of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityProgress {
    /// There is none.
    Unknown,
    /// One was given.
    Materialized,
    /// One was not given.
    MaterializeFailed,
    /// One was taken back.
    Revoked,
    /// One could not be taken back.
    RevokeFailed,
}

/// How far the artifacts of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ExportStage {
    /// There is none.
    None,
    /// Those so far were stored.
    Completed,
    /// One was not.
    Failed,
}

/// The state of a run in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CurrentState {
    /// There is no cell yet.
    Pending,
    /// The cell is there.
    Started,
    /// An identity was given.
    IdentityReady,
    /// An identity was not given.
    IdentityFailed,
    /// The command returned 0.
    CommandSucceeded,
    /// It did not.
    CommandFailed,
    /// The artifacts were stored.
    ExportSucceeded,
    /// One was not.
    ExportFailed,
    /// The cell is gone, and all went well.
    Destroyed,
    /// The cell is gone, and something went wrong, be it the command.
    DestroyFailed,
}

impl Snapshot {
    /// The state of this run.
    #[must_use]
    pub fn of(run: &RunView) -> Self {
        let end = run.end.as_ref();
        let code = run.command.as_ref().and_then(|command| command.exit_code);
        let exports = &run.exports.items;
        let failed = exports
            .iter()
            .rev()
            .find_map(|export| export.failure.clone());
        let lifecycle_stage = match (end, &run.command, &run.started) {
            (Some(_), _, _) => LifecycleStage::Destroyed,
            (None, Some(_), _) => LifecycleStage::CommandCompleted,
            (None, None, Some(_)) => LifecycleStage::Started,
            (None, None, None) => LifecycleStage::Pending,
        };
        let identity_stage = match run.identities.items.last().map(|identity| identity.stage) {
            None => IdentityProgress::Unknown,
            Some(IdentityStage::Materialized) => IdentityProgress::Materialized,
            Some(IdentityStage::MaterializeFailed) => IdentityProgress::MaterializeFailed,
            Some(IdentityStage::Revoked) => IdentityProgress::Revoked,
            Some(IdentityStage::RevokeFailed) => IdentityProgress::RevokeFailed,
        };
        let export_stage = match (exports.is_empty(), &failed) {
            (true, _) => ExportStage::None,
            (false, None) => ExportStage::Completed,
            (false, Some(_)) => ExportStage::Failed,
        };
        let destroy_reason = end.and_then(|end| end.reason.clone());
        let current_state = match (end, &destroy_reason, export_stage, code, identity_stage) {
            (Some(_), Some(_), ..) => CurrentState::DestroyFailed,
            (Some(end), None, ..) if end.how == EndKind::NotCreated => CurrentState::DestroyFailed,
            (Some(_), None, ..) => CurrentState::Destroyed,
            (_, _, ExportStage::Completed, ..) => CurrentState::ExportSucceeded,
            (_, _, ExportStage::Failed, ..) => CurrentState::ExportFailed,
            (_, _, _, Some(0), _) => CurrentState::CommandSucceeded,
            (_, _, _, Some(_), _) => CurrentState::CommandFailed,
            (_, _, _, _, IdentityProgress::Materialized) => CurrentState::IdentityReady,
            (_, _, _, _, IdentityProgress::MaterializeFailed) => CurrentState::IdentityFailed,
            _ if run.started.is_some() => CurrentState::Started,
            _ => CurrentState::Pending,
        };
        Self {
            spec_id: run.spec_id.clone(),
            cell_id: run.key.cell_id.clone(),
            run_id: run.key.run_id.clone(),
            placement: run.placement.clone(),
            lifecycle_stage,
            identity_stage,
            export_stage,
            current_state,
            command_exit_code: code,
            last_error: end
                .and_then(|end| end.reason_detail.clone())
                .or_else(|| destroy_reason.clone())
                .or(failed),
            destroy_reason,
            exports: exports.iter().filter_map(exported).collect(),
            processed_events: run.events.total,
            outcome: end.and_then(|end| end.outcome.clone()),
            ended_by: end.and_then(|end| end.ended_by.clone()),
            backend: run.backend.clone(),
            started_at: run.began(),
            ended_at: end.and_then(|end| end.at),
            errors: run.errors,
        }
    }
}

fn exported(export: &ExportView) -> Option<ExportedFile> {
    export.failure.is_none().then(|| ExportedFile {
        target_kind: export.target_kind.clone(),
        target_name: export.target_name.clone(),
        destination: export.destination.clone(),
        bytes_written: export.bytes_written,
    })
}
