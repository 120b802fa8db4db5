//! Which monitor stands behind the port.

use std::sync::Arc;

use crate::{
    config::{DriverChoice, MicrovmConfig},
    vmm::{Driver, VmmError},
};

/// The driver that the operator chose.
///
/// # Errors
/// [`VmmError`] when the monitor cannot be used on this host.
pub(super) fn of(config: &MicrovmConfig) -> Result<Arc<dyn Driver>, VmmError> {
    let (monitor, program) = match &config.driver {
        DriverChoice::Qemu(qemu) => ("qemu", &qemu.program),
        DriverChoice::Firecracker(firecracker) => ("firecracker", &firecracker.program),
    };
    Err(VmmError::Unusable {
        monitor,
        why: format!("{}: this build has no driver for it", program.display()),
    })
}
