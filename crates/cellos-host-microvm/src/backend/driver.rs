//! Which monitor stands behind the port.

use std::{io, sync::Arc};

use async_trait::async_trait;
use cellos_isolation::confined::Helper;

use crate::{
    artifacts::Artifacts,
    config::{DriverChoice, MicrovmConfig},
    limits::MonitorGroups,
    place::Place,
    vmm::{
        Driver, VmmError,
        firecracker::Firecracker,
        qemu::{QemuDriver, Trial},
    },
};

/// Makes the driver, once the monitor's program was verified: asking it for its version runs it.
#[async_trait]
pub(super) trait MakeDriver: Send + Sync {
    /// # Errors
    /// [`VmmError`] when the monitor cannot be used on this host.
    async fn make(
        &self,
        config: &MicrovmConfig,
        artifacts: &Artifacts,
    ) -> Result<Arc<dyn Driver>, VmmError>;
}

/// The driver that the operator chose.
pub(super) struct Chosen {
    /// Starts monitors.
    pub(super) helper: Helper,
}

#[async_trait]
impl MakeDriver for Chosen {
    async fn make(
        &self,
        config: &MicrovmConfig,
        artifacts: &Artifacts,
    ) -> Result<Arc<dyn Driver>, VmmError> {
        let host = |step: &str, source| VmmError::Host {
            step: step.to_owned(),
            source,
        };
        match &config.driver {
            DriverChoice::Qemu(qemu) => {
                // Where KVM may be used, a machine is booted to see whether it can be.
                let place = Place::make(&config.run_folder, None)
                    .map_err(|error| host("try the monitor", io::Error::other(error)))?;
                let trial = Trial {
                    artifacts,
                    name: place.name(),
                    folder: place.folder(),
                    record: place.record(),
                };
                let groups = Arc::new(MonitorGroups::new(config.cgroup_parent.as_deref())?);
                let helper = self.helper.clone();
                let driver = QemuDriver::open(qemu, config.rates, helper, groups, trial).await?;
                Ok(Arc::new(driver))
            }
            DriverChoice::Firecracker(firecracker) => {
                let (config, firecracker) = (config.clone(), firecracker.clone());
                let (artifacts, helper) = (artifacts.clone(), self.helper.clone());
                let made = tokio::task::spawn_blocking(move || {
                    Firecracker::new(&config, &firecracker, &artifacts, helper)
                });
                let made = made
                    .await
                    .map_err(|error| host("look at Firecracker", io::Error::other(error)))?;
                Ok(Arc::new(made?))
            }
        }
    }
}
