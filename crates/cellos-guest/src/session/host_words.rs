//! What the host wants, as requests to the launcher.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Instant,
};

use cellos_bridge::{Config, HostMessage, Refused};
use cellos_core::ports::workload::StopSignal;
use cellos_isolation::protocol::Request;

use super::{
    LauncherError, Session, SessionError, cell::Stage, files, guest_cannot_start, guest_failure,
    launcher_client::LauncherClient, orders, streams,
};

impl Session {
    pub(super) fn obey(
        &mut self,
        message: HostMessage,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match message {
            HostMessage::Config(config) => self.create(&config, launcher)?,
            HostMessage::Start => self.start(launcher)?,
            HostMessage::Input(bytes) => {
                if let Some(streams) = self.stage.streams() {
                    streams.input.take(&bytes);
                }
            }
            HostMessage::InputEnd => {
                if let Some(streams) = self.stage.streams() {
                    streams.input.end();
                }
            }
            HostMessage::OutputClosed { stream } => {
                if let Some(streams) = self.stage.streams() {
                    streams.close_output(stream);
                }
            }
            HostMessage::Terminate(how) => self.stop(how, launcher)?,
            HostMessage::Fetch(fetch) => {
                if let Stage::Ended { folder, transfer } = &mut self.stage {
                    let folder = folder.as_ref().map(OwnedFd::as_fd);
                    *transfer = files::begin(folder, &fetch, &mut self.end)?;
                }
            }
            // The end has counted the credit; the others say only that the host is there.
            HostMessage::OutputCredit { .. }
            | HostMessage::Heartbeat
            | HostMessage::Acknowledge => {}
        }
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        config: &Config,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        self.next_heartbeat = Instant::now() + self.end.heartbeat_interval();
        let plan = match orders::carry_out(config, self.surroundings, self.card) {
            Ok(plan) => plan,
            Err(refused) => return self.refuse(refused),
        };
        match launcher.ask(Request::Create(Box::new(plan)), &[]) {
            Ok(number) => {
                self.stage = Stage::Building { number, stop: None };
                Ok(())
            }
            Err(error @ LauncherError::TooLarge { .. }) => self.refuse(Refused::InvalidDocument {
                reason: format!("spec.run: {error}"),
            }),
            Err(error) => self.refuse(guest_failure("ask the launcher", &error.to_string())),
        }
    }

    pub(super) fn start(&mut self, launcher: &mut LauncherClient) -> Result<(), SessionError> {
        let cell = match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::Parked(cell) => cell,
            // The bridge's end lets no start pass at any other time.
            other => {
                self.stage = other;
                return Ok(());
            }
        };
        let (streams, ends) = match streams::open() {
            Ok(opened) => opened,
            Err(error) => {
                return self.not_started(guest_cannot_start("make pipes", &error.to_string()));
            }
        };
        let descriptors = [&ends.stdin, &ends.stdout, &ends.stderr].map(OwnedFd::as_fd);
        match launcher.ask(Request::Release(cell.key), &descriptors) {
            Ok(number) => {
                self.stage = Stage::Starting {
                    number,
                    cell,
                    streams,
                };
                Ok(())
            }
            Err(error) => {
                self.not_started(guest_cannot_start("ask the launcher", &error.to_string()))
            }
        }
    }

    pub(super) fn stop(
        &mut self,
        how: StopSignal,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        if let Stage::Building { stop, .. } = &mut self.stage {
            // The later one is the harder one, by the order in which a host sends them.
            *stop = Some(how);
            return Ok(());
        }
        let Some(key) = self.stage.key() else {
            return Ok(());
        };
        match launcher.ask(Request::Stop(key, how.into()), &[]) {
            Ok(_) => Ok(()),
            Err(error) => self.refuse(guest_failure("ask the launcher", &error.to_string())),
        }
    }
}
