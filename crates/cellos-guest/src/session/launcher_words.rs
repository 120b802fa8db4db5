//! What the launcher says, as messages to the host.

use std::{os::fd::OwnedFd, time::Instant};

use cellos_bridge::{NotStarted, Phase, Ready, Refused, Started};
use cellos_core::ports::workload::StopSignal;
use cellos_isolation::protocol::{Created, Ended, Failure, FromLauncher, Reply};

use super::{
    DRAIN_PATIENCE, INPUT_CREDIT_BYTES, Session, SessionError, bounded,
    cell::{Parked, Stage},
    guest_cannot_start, guest_failure,
    launcher_client::{LauncherClient, Said},
    telemetry,
};

impl Session {
    pub(super) fn hear_launcher(
        &mut self,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        loop {
            match launcher.hear() {
                Ok(Some(said)) => self.take_word(said, launcher)?,
                Ok(None) => return Ok(()),
                Err(error) if self.end.phase() <= Phase::Running => {
                    return self.refuse(guest_failure("hear the launcher", &error.to_string()));
                }
                // Nobody needs it any more.
                Err(_) => return Ok(()),
            }
        }
    }

    pub(super) fn take_word(
        &mut self,
        (message, descriptor): Said,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match message {
            FromLauncher::Ended { ended, .. } => self.ended(ended),
            // No plan of a guest's asks for sockets; what came closes here.
            FromLauncher::Network { .. } => Ok(()),
            FromLauncher::Reply { number, reply } => {
                self.answer(number, reply, descriptor, launcher)
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        answered: u64,
        reply: Reply,
        descriptor: Option<OwnedFd>,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::Building { number, stop } if number == answered => match reply {
                Reply::Created(created) => self.created(*created, descriptor, stop, launcher),
                Reply::Failed(Failure::InvalidSpec(reason)) => {
                    self.refuse(Refused::InvalidDocument {
                        reason: bounded(reason),
                    })
                }
                other => self.refuse(guest_failure("build the cell", &reason_of(other))),
            },
            Stage::Starting {
                number,
                cell,
                streams,
            } if number == answered => match reply {
                Reply::Released { pid } => {
                    self.end.started(Started { pid })?;
                    self.end.grant_input(INPUT_CREDIT_BYTES)?;
                    self.stage = Stage::Running { cell, streams };
                    Ok(())
                }
                Reply::Failed(Failure::CommandNotFound { program }) => {
                    self.not_started(NotStarted::CommandNotFound {
                        program: bounded(program),
                    })
                }
                Reply::Failed(Failure::NotExecutable { program, reason }) => {
                    self.not_started(NotStarted::NotExecutable {
                        program: bounded(program),
                        reason: bounded(reason),
                    })
                }
                other => self.not_started(guest_cannot_start(
                    "release the workload",
                    &reason_of(other),
                )),
            },
            // The answer to a stop, which is always the same.
            other => {
                self.stage = other;
                Ok(())
            }
        }
    }

    pub(super) fn created(
        &mut self,
        created: Created,
        folder: Option<OwnedFd>,
        stop: Option<StopSignal>,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        self.end.ready(&Ready {
            posture: created.posture,
            working_folder: created.working_folder,
            ready_ms: telemetry::uptime_ms(),
        })?;
        self.stage = Stage::Parked(Parked {
            key: created.cell,
            folder,
            cgroup: created.cgroup_path,
        });
        match stop {
            Some(how) => self.stop(how, launcher),
            None => Ok(()),
        }
    }

    /// The cell has ended, and with it everything in it.
    pub(super) fn ended(&mut self, Ended { end, residue }: Ended) -> Result<(), SessionError> {
        match (std::mem::replace(&mut self.stage, Stage::None), end) {
            (Stage::Running { cell, streams }, Ok(report)) => {
                self.stage = Stage::Draining {
                    cell,
                    streams,
                    report: Box::new(report),
                    residue,
                    until: Instant::now() + DRAIN_PATIENCE,
                };
                Ok(())
            }
            (Stage::Running { .. }, Err(why)) => self.refuse(guest_failure("run the cell", &why)),
            (Stage::Building { .. } | Stage::Parked(_), end) => {
                let reason = match end {
                    Ok(report) => format!("it ended before its workload was let go: {report:?}"),
                    Err(why) => why,
                };
                self.refuse(guest_failure("keep the cell", &reason))
            }
            // The answer to the release says why, and comes next or came before.
            (other, _) => {
                self.stage = other;
                Ok(())
            }
        }
    }
}

fn reason_of(reply: Reply) -> String {
    match reply {
        Reply::Failed(Failure::InvalidSpec(reason) | Failure::Host(reason)) => reason,
        other => format!("the launcher gave an unexpected answer: {other:?}"),
    }
}
