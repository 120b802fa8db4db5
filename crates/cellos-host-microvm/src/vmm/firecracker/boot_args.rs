//! The kernel's command line.

use super::NAME;
use crate::{
    config::BootFiles,
    vmm::{BRIDGE_PORT, VmmError},
};

/// What the guest's PID 1 speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestContract {
    /// Our bridge.
    Bridge,
    /// The published exit frame, with everything on the kernel's command line.
    Published,
}

impl From<&BootFiles> for GuestContract {
    fn from(files: &BootFiles) -> Self {
        match files {
            BootFiles::Bundle(_) => Self::Bridge,
            BootFiles::Published { .. } => Self::Published,
        }
    }
}

/// Firecracker's bound on the whole line, in bytes (`CMDLINE_MAX_SIZE` of its `layout.rs`).
pub(crate) const MAX_COMMAND_LINE_BYTES: usize = 2048;

/// What Firecracker appends itself: the root device, `pci=off`, and about 40 bytes for each of the
/// three devices that a machine has at most.
const APPENDED_BYTES: usize = 256;

/// For every guest, from Firecracker's own default line. `reboot=k` and `panic=1`: a reset or a
/// panic ends the monitor. No serial port: what a guest writes there costs the host. No probing of
/// keyboard devices, which takes tens of milliseconds, and no bounce buffers. Not its `nomodule`:
/// our initial RAM disk loads modules.
const COMMON: &str = "reboot=k panic=1 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd \
                      swiotlb=noforce";

/// For a published guest: it has no initial RAM disk.
const PUBLISHED: &str = "pci=off ipv6.disable=1 root=/dev/vda ro";

/// Makes the line.
///
/// # Errors
/// [`VmmError::Unusable`] for one that is too long, or that has other characters than visible
/// ASCII and spaces.
pub(crate) fn command_line(contract: GuestContract, extra: &str) -> Result<String, VmmError> {
    let mut line = match contract {
        GuestContract::Bridge => format!("{COMMON} cellos.bridge=vsock:{BRIDGE_PORT}"),
        GuestContract::Published => format!("{COMMON} {PUBLISHED}"),
    };
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    let refuse = |why: String| Err(VmmError::Unusable { monitor: NAME, why });
    if let Some(odd) = line.chars().find(|c| !matches!(c, ' '..='~')) {
        return refuse(format!(
            "a kernel's command line may not have {odd:?} in it"
        ));
    }
    let bound = MAX_COMMAND_LINE_BYTES - APPENDED_BYTES;
    if line.len() > bound {
        return refuse(format!(
            "the kernel's command line has {} bytes, and Firecracker takes {bound} beside its own",
            line.len()
        ));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_the_bridge_is_and_lets_modules_load() {
        let line = command_line(GuestContract::Bridge, "a=b").unwrap();
        assert!(line.ends_with(" cellos.bridge=vsock:9010 a=b"), "{line}");
        assert!(
            !line.contains("nomodule") && !line.contains("console="),
            "{line}"
        );
        let published = command_line(GuestContract::Published, "").unwrap();
        assert!(published.ends_with(" root=/dev/vda ro"), "{published}");
    }

    #[test]
    fn what_the_kernel_would_cut_off_is_refused_before_the_boot() {
        let room = MAX_COMMAND_LINE_BYTES
            - APPENDED_BYTES
            - command_line(GuestContract::Published, "").unwrap().len()
            - 1;
        command_line(GuestContract::Published, &"x".repeat(room)).unwrap();
        command_line(GuestContract::Published, &"x".repeat(room + 1)).unwrap_err();
        command_line(GuestContract::Bridge, "a=b\nc").unwrap_err();
        command_line(GuestContract::Bridge, "ä").unwrap_err();
    }
}
