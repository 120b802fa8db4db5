//! The network of a machine: none, unless a gateway on the host is to answer for it.
//!
//! Each monitor has a network namespace of its own, with nothing in it. A machine that may reach
//! something gets a TAP device there; the namespace is then the gateway's to work in
//! ([`Monitor::network_namespace`](crate::vmm::process::Monitor::network_namespace)), and the
//! host's own network is in no way touched.

use cellos_isolation::confined::{FIRST_DESCRIPTOR, Network};

/// Name of the TAP device, which no other machine's namespace shares.
pub(crate) const TAP_NAME: &str = "tap0";

/// What a machine has of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineNetwork {
    /// No card at all.
    None,
    /// A card on a TAP device in the monitor's namespace.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the gateway, which does not exist yet")
    )]
    Tap,
}

impl MachineNetwork {
    /// What the helper that confines the monitor has to make.
    pub(crate) fn order(self) -> Network {
        match self {
            Self::None => Network::Empty,
            Self::Tap => Network::Tap {
                name: TAP_NAME.to_owned(),
            },
        }
    }

    /// Number that the TAP device's descriptor has in a monitor that is given `given` others.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the gateway, which does not exist yet")
    )]
    pub(crate) fn descriptor(self, given: usize) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Tap => i32::try_from(given)
                .ok()
                .and_then(|given| FIRST_DESCRIPTOR.checked_add(given)),
        }
    }
}
