//! The phase in which artifacts leave the cell.

use cellos_core::{
    CellosError,
    document::ExportArtifact,
    event::{DeclaredArtifact, ExportCompleted, ExportFailed, FsTouch, Provenance},
    ports::{CellHandle, ExportArtifactMetadata, ExportReceiptTargetKind, workload::WorkingFolder},
};
use tokio::time::timeout;

use super::{Run, Skip};
use crate::{Phase, RunError, StoredArtifact, artifact::Artifact, bounds, error::no_answer};

impl Run<'_> {
    /// Stores the artifacts of a command that succeeded. The first failure stops the rest.
    pub(super) async fn export(&mut self, cell: &CellHandle) -> Result<(), Skip> {
        let artifacts = self
            .spec
            .export
            .as_ref()
            .and_then(|export| export.artifacts.as_deref())
            .unwrap_or_default();
        if artifacts.is_empty() || self.spec.run.is_none() {
            return Ok(());
        }
        self.enter(Phase::Export);
        let folder = self.open_working_folder(cell).await;
        for artifact in artifacts {
            self.stop_if_asked()?;
            let opened = match &folder {
                Ok(folder) => Artifact::open(folder, &artifact.path),
                Err(reason) => Err(reason.clone()),
            };
            match opened {
                Ok(opened) => self.store(artifact, &opened).await?,
                Err(reason) => return self.export_failed(artifact, reason).await,
            }
        }
        self.flush().await
    }

    async fn store(&mut self, artifact: &ExportArtifact, opened: &Artifact) -> Result<(), Skip> {
        self.emit(&FsTouch {
            purpose: "export".into(),
            source_path: opened.path_in_cell.to_string_lossy().into_owned(),
            artifact_name: artifact.name.clone(),
        })
        .await?;
        let metadata = ExportArtifactMetadata {
            content_type: artifact.content_type.clone(),
        };
        let path = opened.path();
        let sink = self.supervisor.exports.clone();
        let pushed = tokio::select! {
            biased;
            pushed = timeout(
                bounds::EXPORT,
                sink.push_measured(&artifact.name, &path, &metadata),
            ) => {
                match pushed {
                    Ok(pushed) => pushed.map_err(|error| error.to_string()),
                    Err(_) => Err(no_answer("the export sink", bounds::EXPORT)),
                }
            }
            signal = self.stop.next() => {
                self.outcome.stop_signal.get_or_insert(signal);
                Err(format!("stopped by {}", signal.name()))
            }
        };
        match pushed {
            Ok((receipt, sha256)) => {
                self.outcome.artifacts.push(StoredArtifact {
                    name: artifact.name.clone(),
                    receipt: receipt.clone(),
                    sha256: sha256.clone(),
                });
                self.emit(&ExportCompleted {
                    artifact_name: artifact.name.clone(),
                    receipt,
                    sha256,
                    declared: Some(DeclaredArtifact {
                        name: artifact.name.clone(),
                        path: artifact.path.clone(),
                        target: artifact.target.clone(),
                    }),
                    provenance: self.provenance(),
                })
                .await
            }
            Err(reason) => self.export_failed(artifact, reason).await,
        }
    }

    async fn export_failed(
        &mut self,
        artifact: &ExportArtifact,
        reason: String,
    ) -> Result<(), Skip> {
        let sink = &self.supervisor.exports;
        let failed = ExportFailed {
            artifact_name: artifact.name.clone(),
            target_kind: sink.target_kind().unwrap_or(ExportReceiptTargetKind::Local),
            reason: reason.clone(),
            target_name: artifact.target.clone(),
            destination: sink.destination_hint(&artifact.name),
            provenance: self.provenance(),
        };
        let skip = match self.outcome.stop_signal {
            Some(signal) => self.fail(RunError::Stopped {
                signal,
                phase: Phase::Export,
            }),
            None => self.fail(RunError::Export {
                name: artifact.name.clone(),
                reason,
            }),
        };
        self.emit(&failed).await?;
        Err(skip)
    }

    fn provenance(&self) -> Option<Provenance> {
        self.started
            .then(|| Provenance::started(&self.facts.started_event_id))
    }

    async fn open_working_folder(&mut self, cell: &CellHandle) -> Result<WorkingFolder, String> {
        if let Some(folder) = self.working_folder.take() {
            return Ok(folder);
        }
        let Some(control) = self.supervisor.backend.workload() else {
            return Err("the backend gives no access to the working folder".into());
        };
        // A backend may have to carry the artifacts out of the cell first.
        tokio::select! {
            biased;
            opened = timeout(bounds::EXPORT, control.working_folder(&cell.cell_id)) => opened
                .unwrap_or_else(|_| {
                    let late = no_answer("working_folder", bounds::EXPORT);
                    Err(CellosError::Host(late))
                })
                .map_err(|error| error.to_string()),
            signal = self.stop.next() => {
                self.outcome.stop_signal.get_or_insert(signal);
                Err(format!("stopped by {}", signal.name()))
            }
        }
    }
}
