//! What the kernel's command line says: where the bridge is.

use std::{fs::File, io, io::Read as _};

use cellos_isolation::plan::Card;

/// Most bytes of a command line that are read; kernels take 4096 at most on the machines that
/// this runs on (`COMMAND_LINE_SIZE`).
pub const MAX_COMMAND_LINE_BYTES: u64 = 64 * 1024;

const FILE: &str = "/proc/cmdline";
const KEY: &str = "cellos.bridge=";

/// Says that the machine has a network card, which is its cell's.
const CARD: &str = "cellos.network=card";

/// Where the bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeDevice {
    /// The port `cellos.bridge` of a virtio console.
    VirtioPort,
    /// A port of the host (`VMADDR_CID_HOST`, vsock(7)).
    Vsock {
        /// Its number.
        port: u32,
    },
}

/// The command line does not say where the bridge is.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// It cannot be read.
    #[error("read {FILE}: {0}")]
    Unreadable(#[from] io::Error),
    /// It says nothing.
    #[error("the kernel's command line has no `{KEY}`; give `{KEY}virtio` or `{KEY}vsock:PORT`")]
    Missing,
    /// It says it twice.
    #[error("the kernel's command line has `{KEY}` more than once")]
    Repeated,
    /// It says something else.
    #[error("`{KEY}{value}` on the kernel's command line is neither `virtio` nor `vsock:PORT`")]
    Unknown {
        /// What it says.
        value: String,
    },
}

pub(super) fn read() -> Result<String, CommandLineError> {
    let mut line = Vec::new();
    File::open(FILE)?
        .take(MAX_COMMAND_LINE_BYTES)
        .read_to_end(&mut line)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// What the line says to a module, as the kernel takes it at the module's loading: `a=1 b=2` of
/// `name.a=1 name.b=2`. The kernel does this itself for what is built into it alone; on machines
/// without ACPI a monitor tells so where its virtio devices are.
pub(super) fn module_parameters(line: &str, module: &str) -> String {
    let same = |a: u8, b: u8| a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-'));
    let is_this = |name: &str| {
        name.len() == module.len() && name.bytes().zip(module.bytes()).all(|(a, b)| same(a, b))
    };
    let parameters: Vec<_> = line
        .split_ascii_whitespace()
        .filter_map(|token| token.split_once('.'))
        .filter(|(name, _)| is_this(name))
        .map(|(_, parameter)| parameter)
        .collect();
    parameters.join(" ")
}

/// Whether the machine has a network card for its cell.
pub(super) fn card(line: &str) -> Card {
    match line.split_ascii_whitespace().any(|token| token == CARD) {
        true => Card::Taken,
        false => Card::Left,
    }
}

pub(super) fn bridge_device(line: &str) -> Result<BridgeDevice, CommandLineError> {
    let mut values = line
        .split_ascii_whitespace()
        .filter_map(|token| token.strip_prefix(KEY));
    let value = values.next().ok_or(CommandLineError::Missing)?;
    if values.next().is_some() {
        return Err(CommandLineError::Repeated);
    }
    let port = value
        .strip_prefix("vsock:")
        // `parse` would take a sign.
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    match (value, port) {
        ("virtio", _) => Ok(BridgeDevice::VirtioPort),
        (_, Some(port)) => Ok(BridgeDevice::Vsock { port }),
        _ => Err(CommandLineError::Unknown {
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_is_found_among_other_words() {
        for (line, device) in [
            (
                "console=ttyS0 cellos.bridge=virtio panic=-1\n",
                BridgeDevice::VirtioPort,
            ),
            (
                "cellos.bridge=vsock:9100",
                BridgeDevice::Vsock { port: 9100 },
            ),
        ] {
            assert_eq!(bridge_device(line).unwrap(), device, "{line:?}");
        }
    }

    #[test]
    fn a_card_is_for_the_cell_where_the_line_says_so() {
        assert_eq!(card("a=b cellos.network=card c"), Card::Taken);
        for line in [
            "",
            "cellos.network=",
            "xcellos.network=card",
            "cellos.network=card2",
        ] {
            assert_eq!(card(line), Card::Left, "{line}");
        }
    }

    #[test]
    fn a_module_gets_what_the_line_says_to_it_and_nothing_else() {
        let line = "quiet virtio_mmio.device=512@0xfeb00e00:12 loop.max=1 \
                    virtio-mmio.device=512@0xfeb00c00:11 xvirtio_mmio.device=1";
        assert_eq!(
            module_parameters(line, "virtio_mmio"),
            "device=512@0xfeb00e00:12 device=512@0xfeb00c00:11"
        );
        assert_eq!(module_parameters(line, "virtio"), "");
    }

    #[test]
    fn anything_else_is_refused_with_what_was_found() {
        assert!(matches!(
            bridge_device("a=b"),
            Err(CommandLineError::Missing)
        ));
        assert!(matches!(
            bridge_device("cellos.bridge=virtio cellos.bridge=virtio"),
            Err(CommandLineError::Repeated)
        ));
        for value in [
            "",
            "virtio2",
            "vsock",
            "vsock:",
            "vsock:+1",
            "vsock:4294967296",
        ] {
            let found = bridge_device(&format!("cellos.bridge={value}"));
            assert!(
                matches!(&found, Err(CommandLineError::Unknown { value: said }) if said == value),
                "{value:?}: {found:?}"
            );
        }
    }
}
