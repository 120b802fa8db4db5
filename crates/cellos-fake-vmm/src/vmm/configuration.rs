//! What is configured before the start, and what each part must be.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::bodies::{
    BootSource, CpuTemplate, Drive, Entropy, HugePages, Logger, MachineConfig, Metrics,
    NetworkInterface, Serial, Vsock,
};
use crate::settings::Taps;

/// Most bytes of the kernel's command line (Firecracker's `CMDLINE_MAX_SIZE`).
pub(crate) const MAX_COMMAND_LINE_BYTES: usize = 2_048;
/// vCPUs of one machine (Firecracker's `MAX_SUPPORTED_VCPUS`).
const VCPUS: std::ops::RangeInclusive<u8> = 1..=32;
/// The least context id of a guest (vsock(7): 0 to 2 have fixed meanings).
const MIN_GUEST_CID: u32 = 3;
/// The command line without `boot_args`, from Firecracker's documentation.
const DEFAULT_COMMAND_LINE: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// All that is configured; also what a snapshot keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Configuration {
    #[serde(rename = "machine-config", default)]
    pub(crate) machine: MachineConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_source: Option<BootSource>,
    #[serde(default)]
    pub(crate) drives: Vec<Drive>,
    #[serde(default)]
    pub(crate) network_interfaces: Vec<NetworkInterface>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vsock: Option<Vsock>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entropy: Option<Entropy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logger: Option<Logger>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<Metrics>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<Serial>,
}

impl Default for MachineConfig {
    /// Firecracker's: one vCPU, 128 MiB.
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

impl Configuration {
    /// The kernel's command line with what Firecracker appends: no PCI, the root device, and one
    /// entry for each device.
    pub(crate) fn command_line(&self) -> Result<String, String> {
        let given = self.boot_source.as_ref().and_then(|s| s.boot_args.clone());
        let mut line = given.unwrap_or_else(|| DEFAULT_COMMAND_LINE.into());
        line.push_str(" pci=off");
        if let Some(root) = self.drives.iter().find(|drive| drive.is_root_device) {
            match &root.partuuid {
                Some(partition) => line.push_str(&format!(" root=PARTUUID={partition}")),
                None => line.push_str(" root=/dev/vda"),
            }
            line.push_str(if root.is_read_only { " ro" } else { " rw" });
        }
        let devices = self.drives.len()
            + self.network_interfaces.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.entropy.is_some());
        for device in 0..devices {
            let address = 0xd000_0000_usize + device * 0x1000;
            line.push_str(&format!(
                " virtio_mmio.device=4K@{address:#x}:{}",
                5 + device
            ));
        }
        check_command_line(&line)?;
        Ok(line)
    }

    /// The drives in the order of the guest's devices: the root device first.
    pub(crate) fn drives_in_order(&self) -> Vec<&Drive> {
        let mut drives: Vec<_> = self.drives.iter().collect();
        drives.sort_by_key(|drive| !drive.is_root_device);
        drives
    }

    /// Adds a drive, or replaces the one of the same id.
    pub(crate) fn put_drive(&mut self, drive: Drive) -> Result<(), String> {
        let other_root = self
            .drives
            .iter()
            .any(|known| known.is_root_device && known.drive_id != drive.drive_id);
        if drive.is_root_device && other_root {
            return Err("A root block device already exists!".into());
        }
        let known = self
            .drives
            .iter_mut()
            .find(|k| k.drive_id == drive.drive_id);
        match known {
            Some(known) => *known = drive,
            None => self.drives.push(drive),
        }
        Ok(())
    }

    /// Adds a network interface, or replaces the one of the same id.
    pub(crate) fn put_interface(&mut self, interface: NetworkInterface) -> Result<(), String> {
        let id = interface.iface_id.clone();
        let others = || self.network_interfaces.iter().filter(|k| k.iface_id != id);
        if let Some(address) = &interface.guest_mac
            && others().any(|known| known.guest_mac.as_ref() == Some(address))
        {
            return Err(format!("The MAC address is already in use: {address}"));
        }
        if others().any(|known| known.host_dev_name == interface.host_dev_name) {
            return Err(format!(
                "Open tap device failed: {} is in use",
                interface.host_dev_name
            ));
        }
        let known = self
            .network_interfaces
            .iter_mut()
            .find(|k| k.iface_id == id);
        match known {
            Some(known) => *known = interface,
            None => self.network_interfaces.push(interface),
        }
        Ok(())
    }
}

pub(crate) fn check_machine(machine: &MachineConfig) -> Result<(), String> {
    if !VCPUS.contains(&machine.vcpu_count) {
        return Err("The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is enabled, between 1 and 32.".into());
    }
    if machine.smt && machine.vcpu_count != 1 && machine.vcpu_count % 2 == 1 {
        return Err("The vCPU number is invalid! It must be 1 or even with SMT.".into());
    }
    if machine.smt && cfg!(target_arch = "aarch64") {
        return Err("Enabling simultaneous multithreading is not supported on aarch64".into());
    }
    if machine.mem_size_mib == 0
        || (machine.huge_pages == HugePages::TwoMebibytes && machine.mem_size_mib % 2 == 1)
    {
        return Err("The memory size (MiB) is invalid.".into());
    }
    match machine.cpu_template {
        Some(CpuTemplate::V1N1) if cfg!(target_arch = "x86_64") => {
            Err("the CPU template V1N1 is not for this architecture".into())
        }
        _ => Ok(()),
    }
}

/// Opens what the boot source names.
pub(crate) fn check_boot_source(source: &BootSource) -> Result<(), String> {
    open(&source.kernel_image_path, OpenOptions::new().read(true))
        .map_err(|error| format!("The kernel file cannot be opened: {error}"))?;
    if let Some(path) = &source.initrd_path {
        open(path, OpenOptions::new().read(true))
            .map_err(|error| format!("The initrd file cannot be opened: {error}"))?;
    }
    check_command_line(source.boot_args.as_deref().unwrap_or_default())
}

/// Opens a drive as the guest may use it; it stays open as long as the result.
pub(crate) fn open_drive(drive: &Drive) -> Result<File, String> {
    open(
        &drive.path_on_host,
        OpenOptions::new().read(true).write(!drive.is_read_only),
    )
    .map_err(|error| format!("Unable to open the block device's backing file: {error}"))
}

/// Opens a file that the VMM writes to, without waiting for the reader of a pipe.
pub(crate) fn open_output(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    // For a pipe: reading too lets the open succeed before anyone reads.
    options.read(true).append(true).create(true).mode(0o600);
    options.custom_flags(libc::O_NONBLOCK);
    open(path, &options)
}

/// Checks the interface's form and that the host's device is there.
pub(crate) fn check_interface(interface: &NetworkInterface, taps: Taps) -> Result<(), String> {
    if let Some(address) = &interface.guest_mac {
        let parts: Vec<_> = address.split(':').collect();
        let hexadecimal = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
        if parts.len() != 6 || !parts.iter().all(hexadecimal) {
            return Err(format!("invalid MAC address {address:?}"));
        }
    }
    if interface.mtu.is_some_and(|mtu| mtu < 68) {
        return Err("the MTU is not in 68 to 65535".into());
    }
    check_tap(&interface.host_dev_name, taps)
}

pub(crate) fn check_tap(name: &str, taps: Taps) -> Result<(), String> {
    let found = match taps {
        Taps::Assumed => Ok(()),
        Taps::Checked => rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .and_then(|socket| rustix::net::netdevice::name_to_index(&socket, name))
        .map(drop),
    };
    found.map_err(|error| format!("Open tap device failed: {name}: {error}"))
}

pub(crate) fn check_vsock(vsock: &Vsock) -> Result<(), String> {
    match vsock.guest_cid >= MIN_GUEST_CID {
        true => Ok(()),
        false => Err(format!("guest_cid {} is less than 3", vsock.guest_cid)),
    }
}

fn check_command_line(line: &str) -> Result<(), String> {
    let invalid = |why| format!("The kernel command line is invalid: {why}");
    if line.len() > MAX_COMMAND_LINE_BYTES {
        return Err(invalid("Inserting string would make command line too long"));
    }
    match line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        true => Ok(()),
        false => Err(invalid("String contains a non-printable ASCII character")),
    }
}

fn open(path: &Path, options: &OpenOptions) -> Result<File, String> {
    options
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}
