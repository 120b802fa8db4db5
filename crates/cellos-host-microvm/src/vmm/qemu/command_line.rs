//! QEMU's command line for one machine (qemu(1)).
//!
//! Nothing in it comes from a document: numbers of the machine's shape, a name that is checked,
//! and descriptors. Files and sockets are handed over open, so no path is in it either.

use sha2::{Digest as _, Sha256};

use super::VmmError;
use crate::{config::RateLimits, network, plan::MachineShape};

/// Name of the port of the virtio console that is the bridge.
pub(crate) const BRIDGE_PORT_NAME: &str = "cellos.bridge";

/// Longest kernel command line in bytes: `COMMAND_LINE_SIZE` of x86 is 2048 with the NUL.
pub(crate) const KERNEL_COMMAND_LINE_BYTES: usize = 2047;

/// What the kernel is told:
/// - `quiet`: only what is worse than a warning reaches the console, each byte of which stops the
///   processor;
/// - `reboot=t`: a triple fault, which `-no-reboot` turns into the end of the monitor at once;
///   other ways ask a keyboard controller or firmware that this machine does not have;
/// - `panic=-1`: a panic is a reboot without a wait;
/// - `pci=off`: there is no bus to look for.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet reboot=t panic=-1 pci=off random.trust_cpu=on cellos.bridge=virtio";

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The kernel's virtual machines.
    Kvm,
    /// QEMU's translation, a thread for each processor.
    Emulation {
        /// Rate of the host's time-stamp counter, which the guest reads, where it is known.
        tsc_khz: Option<u64>,
    },
}

/// Numbers of QEMU's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    pub(crate) kernel: i32,
    pub(crate) initrd: Option<i32>,
    pub(crate) base: i32,
    pub(crate) bridge: i32,
    pub(crate) control: i32,
    pub(crate) console: i32,
    /// Of a TAP device, where the machine has a network card.
    pub(crate) tap: Option<i32>,
}

/// What a command line is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandLine<'a> {
    pub(crate) name: &'a str,
    pub(crate) accelerator: Accelerator,
    pub(crate) shape: MachineShape,
    pub(crate) rates: RateLimits,
    pub(crate) descriptors: Descriptors,
    pub(crate) extra_boot_arguments: &'a str,
}

impl CommandLine<'_> {
    /// All arguments, the program's name first.
    ///
    /// # Errors
    /// [`VmmError::Host`] for a name or boot arguments that could mean something else to QEMU or
    /// are too long.
    pub(crate) fn arguments(&self) -> Result<Vec<String>, VmmError> {
        let refuse = |why: &str| VmmError::Host {
            step: "write QEMU's command line".to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned()),
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if self.name.is_empty() || self.name.len() > 20 || !self.name.bytes().all(plain) {
            return Err(refuse(
                "the machine's name is not 1 to 20 letters and digits",
            ));
        }
        let append = self.kernel_command_line();
        if append.len() > KERNEL_COMMAND_LINE_BYTES {
            return Err(refuse("the kernel's command line is too long"));
        }
        if !append.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(refuse("the kernel's command line is not printable ASCII"));
        }
        let Descriptors {
            kernel,
            initrd,
            base,
            bridge,
            control,
            console,
            tap,
        } = self.descriptors;

        let mut line = Line(vec!["qemu-system-x86_64".to_owned()]);
        // The guest finds its devices by ACPI: distributions build their kernels without the
        // words of the command line that QEMU would append otherwise.
        line.option(
            "-M",
            "microvm,acpi=on,auto-kernel-cmdline=off,x-option-roms=off,mem-merge=off,\
             dump-guest-core=off",
        );
        match self.accelerator {
            Accelerator::Kvm => {
                line.option("-accel", "kvm");
                // A register of this feature makes QEMU give up on hosts that lack it.
                line.option("-cpu", "host,arch-capabilities=off");
            }
            Accelerator::Emulation { .. } => {
                line.option("-accel", "tcg,thread=multi");
                line.option("-cpu", "max");
            }
        }
        line.option("-m", &format!("{}M", self.shape.memory_mib));
        line.option("-smp", &self.shape.vcpus.to_string());
        line.option("-name", &format!("cellos-{}", self.name));
        line.option("-uuid", &uuid(self.name));
        line.flag("-nodefaults");
        line.flag("-no-user-config");
        line.flag("-nographic");
        line.flag("-no-reboot");
        line.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        line.option("-kernel", &format!("/proc/self/fd/{kernel}"));
        if let Some(initrd) = initrd {
            line.option("-initrd", &format!("/proc/self/fd/{initrd}"));
        }
        line.option("-append", &append);
        self.disk(&mut line, base);
        if let Some(tap) = tap {
            card(&mut line, tap);
        }
        line.option("-device", "virtio-serial-device,max_ports=2");
        line.option("-chardev", &format!("socket,id=bridge,fd={bridge}"));
        line.option(
            "-device",
            &format!("virtserialport,chardev=bridge,name={BRIDGE_PORT_NAME}"),
        );
        line.option("-chardev", &format!("socket,id=console,fd={console}"));
        line.option("-serial", "chardev:console");
        line.option("-chardev", &format!("socket,id=control,fd={control}"));
        line.option("-mon", "chardev=control,mode=control");
        Ok(line.0)
    }

    fn kernel_command_line(&self) -> String {
        let mut words = KERNEL_ARGUMENTS.to_owned();
        if let Accelerator::Emulation {
            tsc_khz: Some(tsc_khz),
        } = self.accelerator
        {
            // Without it, the guest's kernel measures, fails when the host is busy, and hangs.
            words.push_str(&format!(" tsc_early_khz={tsc_khz}"));
        }
        if self.descriptors.tap.is_some() {
            words.push(' ');
            words.push_str(network::CARD_WORD);
        }
        if !self.extra_boot_arguments.is_empty() {
            words.push(' ');
            words.push_str(self.extra_boot_arguments);
        }
        words
    }

    /// The shared base: a read-only disk, with the operator's bounds.
    fn disk(&self, line: &mut Line, base: i32) {
        line.option("-add-fd", &format!("fd={base},set={base}"));
        let mut properties = Vec::new();
        for (limit, name) in [
            (self.rates.disk_bytes_per_second, "x-bps-total"),
            (self.rates.disk_operations_per_second, "x-iops-total"),
        ] {
            properties.extend(limit.map(|limit| format!(",{name}={limit}")));
        }
        // The page cache is what makes a shared base cheap, so no direct access.
        let file = format!("file.driver=file,file.filename=/dev/fdset/{base},file.locking=off");
        let raw = "driver=raw,read-only=on,auto-read-only=off";
        if properties.is_empty() {
            line.option("-blockdev", &format!("node-name=base,{raw},{file}"));
        } else {
            line.option(
                "-object",
                &format!("throttle-group,id=disks{}", properties.concat()),
            );
            line.option("-blockdev", &format!("node-name=bare,{raw},{file}"));
            line.option(
                "-blockdev",
                "node-name=base,driver=throttle,read-only=on,throttle-group=disks,file=bare",
            );
        }
        line.option("-device", "virtio-blk-device,drive=base,serial=base");
    }
}

/// A network card on a TAP device, with one queue each way. Frames are copied by QEMU itself, not by
/// the kernel for it.
fn card(line: &mut Line, tap: i32) {
    line.option("-netdev", &format!("tap,id=network,fd={tap},vhost=off"));
    line.option(
        "-device",
        &format!(
            "virtio-net-device,netdev=network,mac={},mq=off",
            network::card_address()
        ),
    );
}

/// A UUID made of a name (RFC 9562, version 8).
fn uuid(name: &str) -> String {
    let digest = Sha256::digest(format!("cellos machine {name}"));
    let mut hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "8");
    for at in [20, 16, 12, 8] {
        hex.insert(at, '-');
    }
    hex
}

struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: &str) {
        self.flag(name);
        self.flag(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> CommandLine<'static> {
        CommandLine {
            name: "m0",
            accelerator: Accelerator::Emulation {
                tsc_khz: Some(2_500_000),
            },
            shape: MachineShape {
                vcpus: 3,
                memory_mib: 385,
            },
            rates: RateLimits::default(),
            descriptors: Descriptors {
                kernel: 3,
                initrd: Some(4),
                base: 5,
                bridge: 6,
                control: 7,
                console: 8,
                tap: None,
            },
            extra_boot_arguments: "cellos.log=1",
        }
    }

    fn value<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        line.windows(2)
            .filter(|pair| pair[0] == option)
            .map(|pair| pair[1].as_str())
            .collect()
    }

    #[test]
    fn a_machine_has_exactly_its_shape() {
        let line = example().arguments().unwrap();
        assert_eq!(value(&line, "-m"), ["385M"]);
        assert_eq!(value(&line, "-smp"), ["3"]);
        assert_eq!(value(&line, "-accel"), ["tcg,thread=multi"]);
        assert_eq!(value(&line, "-kernel"), ["/proc/self/fd/3"]);
        let append = value(&line, "-append");
        assert!(append[0].ends_with(" cellos.bridge=virtio tsc_early_khz=2500000 cellos.log=1"));
        assert!(value(&line, "-netdev").is_empty());
    }

    #[test]
    fn a_machine_with_a_card_has_it_on_its_tap_device_and_is_told() {
        let mut example = example();
        example.descriptors.tap = Some(9);
        let line = example.arguments().unwrap();
        assert_eq!(value(&line, "-netdev"), ["tap,id=network,fd=9,vhost=off"]);
        let card = "virtio-net-device,netdev=network,mac=02:63:65:6c:6c:02,mq=off";
        assert!(value(&line, "-device").contains(&card), "{line:?}");
        let append = value(&line, "-append")[0];
        assert!(append.contains(" cellos.network=card "), "{append}");
    }

    #[test]
    fn a_machine_without_an_initial_disk_names_none() {
        let mut example = example();
        example.descriptors.initrd = None;
        assert!(value(&example.arguments().unwrap(), "-initrd").is_empty());
    }

    #[test]
    fn rates_become_a_group_that_throttles_the_base() {
        let mut example = example();
        example.rates.disk_bytes_per_second = Some(1 << 20);
        example.rates.disk_operations_per_second = Some(50);
        let line = example.arguments().unwrap();
        assert_eq!(
            value(&line, "-object"),
            ["throttle-group,id=disks,x-bps-total=1048576,x-iops-total=50"]
        );
        assert!(value(&line, "-blockdev")[1].contains("throttle-group=disks,file=bare"));
    }

    #[test]
    fn no_name_can_mean_anything_else_to_qemu() {
        for name in [
            "",
            "a,debug-threads=on",
            "A",
            "a b",
            "m=1",
            "aaaaaaaaaaaaaaaaaaaaa",
        ] {
            let line = CommandLine { name, ..example() };
            assert!(line.arguments().is_err(), "{name:?}");
        }
    }

    #[test]
    fn boot_arguments_are_one_argument_and_bounded() {
        let with = |extra_boot_arguments| {
            let line = CommandLine {
                extra_boot_arguments,
                ..example()
            };
            line.arguments()
        };
        let commas = with("a=1,-monitor stdio,b").unwrap();
        assert!(value(&commas, "-append")[0].ends_with(" a=1,-monitor stdio,b"));
        assert!(value(&commas, "-monitor").is_empty());
        for extra in [
            "x".repeat(KERNEL_COMMAND_LINE_BYTES).as_str(),
            "a\nb",
            "a\0b",
            "é",
        ] {
            assert!(with(extra).is_err(), "{extra:?}");
        }
    }

    #[test]
    fn machines_have_ids_of_their_own() {
        let id = |name| {
            value(
                &CommandLine { name, ..example() }.arguments().unwrap(),
                "-uuid",
            )[0]
            .to_owned()
        };
        assert_eq!(id("m1"), id("m1"));
        assert_ne!(id("m1"), id("m2"));
        assert_eq!(id("m1").len(), 36);
    }
}
