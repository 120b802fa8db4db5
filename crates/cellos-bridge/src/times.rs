//! How long an end waits for the other.

use std::time::Duration;

/// How often a parked guest sends [`Telemetry`](crate::Telemetry): known to both ends before there
/// is a [`Config`](crate::Config). Long, because many guests may be parked and each beat wakes one.
pub const PARKED_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// Default of [`HostTimes::hello`]. A guest boots in 1 to 2 s even under software emulation; the
/// rest is for a loaded machine.
pub const DEFAULT_HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of [`HostTimes::frame`]. The largest frame a guest sends is 64 KiB.
pub const DEFAULT_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of [`HostTimes::silent_heartbeats`]. An emulated guest on a loaded machine misses some.
pub const DEFAULT_SILENT_HEARTBEATS: u32 = 10;

/// How long a host waits for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTimes {
    /// From the beginning to the guest's hello.
    pub hello: Duration,
    /// From the first byte of a frame to its last.
    pub frame: Duration,
    /// How many heartbeats in a row may be missing. The interval is
    /// [`PARKED_HEARTBEAT_INTERVAL`], and that of the configuration once there is one.
    pub silent_heartbeats: u32,
}

impl Default for HostTimes {
    fn default() -> Self {
        Self {
            hello: DEFAULT_HELLO_TIMEOUT,
            frame: DEFAULT_FRAME_TIMEOUT,
            silent_heartbeats: DEFAULT_SILENT_HEARTBEATS,
        }
    }
}

/// What a guest makes of a host that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSilence {
    /// Nothing: only the stream's end tells that the host is gone.
    Tolerated,
    /// An error once the host, having configured the guest, said nothing for so long.
    ErrorAfter(Duration),
}
