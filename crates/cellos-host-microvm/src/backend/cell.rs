//! One live cell.

use std::{path::PathBuf, time::Duration};

use cellos_core::{
    CellosError, ExecutionCellDocument,
    ports::{
        CellHandle,
        network::CellNetwork,
        workload::{
            OutputBytes, Posture, ReleaseError, Released, Residue, StopSignal, Streams,
            WorkingFolder,
        },
    },
};
use tokio::sync::watch;

use super::{staged::StagedCell, working_folder::Folder};
use crate::{
    parked::Parked,
    session::{Fate, Session, published::Staged},
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
    fate: watch::Receiver<Option<Fate>>,
    guest: Guest,
}

/// What its guest speaks.
enum Guest {
    /// Our bridge.
    Bridged { folder: Folder, parked: Box<Parked> },
    /// The published frame.
    Published(Box<StagedCell>),
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
            fate,
            guest: Guest::Bridged {
                folder,
                parked: Box::new(parts.parked),
            },
        })
    }

    /// A cell that is booted when it is released.
    pub(super) fn staged(handle: CellHandle, posture: Posture, staged: Staged) -> Self {
        let cell = StagedCell::new(staged);
        Self {
            handle,
            posture,
            fate: cell.fate(),
            guest: Guest::Published(Box::new(cell)),
        }
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

    /// The sockets of its network, once.
    pub(super) fn network(&self) -> Option<CellNetwork> {
        match &self.guest {
            Guest::Bridged { parked, .. } => parked.machine.as_ref()?.network(),
            Guest::Published(_) => None,
        }
    }

    /// The end of the console as a part of a message.
    pub(super) fn console(&self) -> String {
        match &self.guest {
            Guest::Bridged { parked, .. } => parked.console(),
            Guest::Published(cell) => cell.console(),
        }
    }

    pub(super) async fn release(&self, streams: Streams) -> Result<Released, ReleaseError> {
        let pid = match &self.guest {
            Guest::Bridged { parked, .. } => {
                self.session(parked)?.release(streams).await?;
                parked.pid()
            }
            Guest::Published(cell) => cell.release().await?,
        };
        Ok(Released { pid })
    }

    pub(super) async fn stop(&self, how: StopSignal) -> Result<(), CellosError> {
        match &self.guest {
            Guest::Bridged { parked, .. } => self
                .session(parked)?
                .stop(how)
                .await
                .map_err(|error| self.error(&error)),
            Guest::Published(cell) => cell.stop(how).await.map_err(|error| self.error(&error)),
        }
    }

    /// What the workload wrote; a guest of the published contract writes into the console.
    pub(super) fn output_bytes(&self) -> Option<OutputBytes> {
        match &self.guest {
            Guest::Bridged { parked, .. } => parked.session.as_ref().map(Session::output_bytes),
            Guest::Published(_) => None,
        }
    }

    pub(super) async fn working_folder(&self) -> Result<WorkingFolder, CellosError> {
        let Guest::Bridged { folder, parked } = &self.guest else {
            return Err(self.error(&"a guest of the published contract hands out no files"));
        };
        let ended = matches!(&*self.fate.borrow(), Some(Fate::Ended(_)));
        let session = self.session(parked)?;
        folder
            .open(ended.then_some(session))
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
            let guests = &exit.residue;
            let kinds = guests.looked_for.iter();
            residue
                .looked_for
                .extend(kinds.map(|kind| format!("{kind} in the guest")));
            let lines = guests.found.iter();
            residue
                .found
                .extend(lines.map(|line| format!("in the guest: {line}")));
        }
        residue.found.extend(match &self.guest {
            Guest::Bridged { parked, .. } => {
                if let (Some(Fate::Ended(_)), Some(session), Some(machine)) =
                    (&fate, &parked.session, &parked.machine)
                {
                    // A machine that does not go by itself is killed next.
                    let _ = tokio::time::timeout(RESET_BOUND, reset(session, &**machine)).await;
                }
                parked.remove().await
            }
            Guest::Published(cell) => cell.remove().await,
        });
        residue
    }

    fn session<'a>(&self, parked: &'a Parked) -> Result<&'a Session, CellosError> {
        parked
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
