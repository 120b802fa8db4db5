//! Saving a machine and becoming a saved one.

use super::{
    super::{
        bodies::{SnapshotCreate, SnapshotLoad, SnapshotType, VmState},
        configuration::{self as check, Configuration},
        http::Response,
        snapshot,
    },
    Machine, Phase,
};

/// Why a call fails, and whether the process goes with it.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) fatal: bool,
}

impl Fault {
    pub(super) fn plain(message: String) -> Self {
        Self {
            message,
            fatal: false,
        }
    }
}

impl Machine {
    /// Loads a saved machine, if nothing was configured before.
    pub(super) fn load(&mut self, order: SnapshotLoad) -> Result<Response, Fault> {
        self.only_before_start().map_err(Fault::plain)?;
        if self.configured {
            return Err(Fault::plain(
                "Loading a microVM snapshot not allowed after configuring boot-specific resources."
                    .into(),
            ));
        }
        self.restore(order).map_err(|message| Fault {
            message: format!("Load snapshot error: Failed to restore from snapshot: {message}"),
            fatal: true,
        })?;
        Ok(Response::done())
    }

    fn restore(&mut self, order: SnapshotLoad) -> Result<(), String> {
        let mut restored =
            snapshot::load(&order, self.settings.version).map_err(|error| error.to_string())?;
        for change in order.network_overrides {
            restored
                .network_interfaces
                .iter_mut()
                .find(|interface| interface.iface_id == change.iface_id)
                .ok_or_else(|| format!("Unknown Network Device: {}", change.iface_id))?
                .host_dev_name = change.host_dev_name;
        }
        match (&mut restored.vsock, order.vsock_override) {
            (Some(vsock), Some(change)) => vsock.uds_path = change.uds_path,
            (None, Some(_)) => return Err("Unknown Vsock Device".into()),
            (_, None) => {}
        }
        for drive in &restored.drives {
            self.drives.push(check::open_drive(drive)?);
        }
        for interface in &restored.network_interfaces {
            check::check_tap(&interface.host_dev_name, self.settings.taps)?;
        }
        if let Some(vsock) = &restored.vsock {
            self.bind_vsock(&vsock.uds_path)?;
        }
        // These are not in a snapshot: they stay as this process has them.
        restored.logger = self.configuration.logger.take();
        restored.metrics = self.configuration.metrics.take();
        restored.serial = self.configuration.serial.take();
        restored.machine.track_dirty_pages = order.track_dirty_pages;
        self.configuration = restored;
        self.phase = Phase::Paused;
        self.parked = true;
        if order.resume_vm {
            self.set_state(VmState::Resumed)?;
        }
        Ok(())
    }

    /// Saves a paused machine.
    pub(super) fn create_snapshot(&mut self, order: &SnapshotCreate) -> Result<(), String> {
        if self.phase != Phase::Paused {
            return Err(
                "Create snapshot error: Cannot save the microVM state: it is not paused.".into(),
            );
        }
        if order.snapshot_type == SnapshotType::Diff
            && !self.configuration.machine.track_dirty_pages
        {
            return Err("Diff snapshots are not allowed without dirty page tracking.".into());
        }
        if let Some(vsock) = &self.vsock {
            vsock.reset();
        }
        let saved = Configuration {
            logger: None,
            metrics: None,
            serial: None,
            ..self.configuration.clone()
        };
        snapshot::create(order, &saved, self.settings.version)
            .map_err(|error| format!("Create snapshot error: {error}"))
    }
}
