//! One live cell.

use std::{path::PathBuf, time::Duration};

use cellos_core::{
    CellosError, ExecutionCellDocument,
    ports::{
        CellHandle,
        workload::{Posture, ReleaseError, Released, Residue, StopSignal, Streams, WorkingFolder},
    },
};
use tokio::sync::watch;

use super::working_folder::Folder;
use crate::{
    parked::Parked,
    session::{Fate, Session},
    vmm,
};

/// How long a guest whose exit was acknowledged may take to reset its machine, which ends the
/// monitor, before that is killed. It would be killed all the same: this only lets the common case
/// end in order.
const RESET_BOUND: Duration = Duration::from_millis(500);

/// What is looked for on the host after a cell.
const LOOKED_FOR: [&str; 4] = ["processes", "control groups", "files", "sockets"];

/// What a cell is made of.
pub(super) struct Parts<'a> {
    pub(super) handle: CellHandle,
    pub(super) posture: Posture,
    pub(super) parked: Parked,
    pub(super) document: &'a ExecutionCellDocument,
    /// Absolute path in the cell.
    pub(super) working_folder: String,
}

/// A cell whose workload is parked, runs or has ended. Dropping it kills its machine.
pub(super) struct Cell {
    handle: CellHandle,
    posture: Posture,
    folder: Folder,
    parked: Parked,
    fate: watch::Receiver<Option<Fate>>,
}

impl Cell {
    /// `None` for a machine that has no dialogue.
    pub(super) fn new(parts: Parts<'_>) -> Option<Self> {
        let fate = parts.parked.session.as_ref()?.fate();
        let folder = Folder::new(
            parts.parked.place.folder(),
            PathBuf::from(parts.working_folder),
            parts.document,
        );
        Some(Self {
            handle: parts.handle,
            posture: parts.posture,
            folder,
            parked: parts.parked,
            fate,
        })
    }

    pub(super) fn handle(&self) -> &CellHandle {
        &self.handle
    }

    pub(super) fn posture(&self) -> Posture {
        self.posture.clone()
    }

    pub(super) fn fate(&self) -> watch::Receiver<Option<Fate>> {
        self.fate.clone()
    }

    /// The end of the console as a part of a message.
    pub(super) fn console(&self) -> String {
        self.parked.console()
    }

    pub(super) async fn release(&self, streams: Streams) -> Result<Released, ReleaseError> {
        self.session()?.release(streams).await?;
        Ok(Released {
            pid: self.parked.pid(),
        })
    }

    pub(super) async fn stop(&self, how: StopSignal) -> Result<(), CellosError> {
        self.session()?
            .stop(how)
            .await
            .map_err(|error| self.error(&error))
    }

    pub(super) async fn working_folder(&self) -> Result<WorkingFolder, CellosError> {
        let ended = matches!(&*self.fate.borrow(), Some(Fate::Ended(_)));
        self.folder
            .open(ended.then_some(self.session()?))
            .await
            .map_err(|error| self.error(&error))
    }

    /// Ends the machine, removes everything it has on the host, and looks.
    pub(super) async fn take_apart(&self) -> Residue {
        let fate = self.fate.borrow().clone();
        let mut residue = Residue {
            looked_for: LOOKED_FOR.map(str::to_owned).into(),
            found: Vec::new(),
        };
        if let Some(Fate::Ended(exit)) = &fate {
            residue.looked_for.extend(
                exit.residue
                    .looked_for
                    .iter()
                    .map(|kind| format!("{kind} in the guest")),
            );
            residue.found.extend(
                exit.residue
                    .found
                    .iter()
                    .map(|line| format!("in the guest: {line}")),
            );
            if let (Some(session), Some(machine)) = (&self.parked.session, &self.parked.machine) {
                // A machine that does not go by itself is killed next.
                let _ = tokio::time::timeout(RESET_BOUND, reset(session, &**machine)).await;
            }
        }
        residue.found.extend(self.parked.remove().await);
        residue
    }

    fn session(&self) -> Result<&Session, CellosError> {
        self.parked
            .session
            .as_ref()
            .ok_or_else(|| self.error(&"it has no dialogue"))
    }

    fn error(&self, what: &dyn std::fmt::Display) -> CellosError {
        CellosError::Host(format!("cell {:?}: {what}", self.handle.cell_id))
    }
}

async fn reset(session: &Session, machine: &dyn vmm::Machine) {
    if session.acknowledge().await.is_ok() {
        machine.ended().await;
    }
}
