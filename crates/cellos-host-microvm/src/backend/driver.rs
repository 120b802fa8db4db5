//! Which monitor stands behind the port.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    artifacts::Artifacts,
    config::{DriverChoice, MicrovmConfig},
    vmm::{Driver, VmmError},
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
pub(super) struct Chosen;

#[async_trait]
impl MakeDriver for Chosen {
    async fn make(
        &self,
        config: &MicrovmConfig,
        _artifacts: &Artifacts,
    ) -> Result<Arc<dyn Driver>, VmmError> {
        let monitor = match &config.driver {
            DriverChoice::Qemu(_) => "qemu",
            DriverChoice::Firecracker(_) => "firecracker",
        };
        Err(VmmError::Unusable {
            monitor,
            why: "this build has no driver for it".to_owned(),
        })
    }
}
