//! How long a host waits for its guest in each phase.

use std::time::Duration;

use super::{HostEnd, Watch};
use crate::{BridgeError, HostTimes, PARKED_HEARTBEAT_INTERVAL, Phase, deadline::Deadline};

impl HostEnd {
    /// Every deadline that runs, with what it means that it has passed.
    pub(super) fn deadlines(&self) -> [Option<Deadline>; 3] {
        if self.watch == Watch::Paused || self.broken.is_some() || self.phase == Phase::Over {
            return [None, None, None];
        }
        let HostTimes { hello, frame, .. } = self.times;
        [
            (self.phase == Phase::AwaitingHello)
                .then(|| {
                    let error = BridgeError::HelloTimeout { waited: hello };
                    Deadline::after(self.opened, hello, error)
                })
                .flatten(),
            self.reader.begun().and_then(|begun| {
                let error = BridgeError::FrameTimeout { waited: frame };
                // A pause in the middle of a frame is not the guest's.
                Deadline::after(begun.max(self.heard), frame, error)
            }),
            self.silence().and_then(|waited| {
                let phase = self.phase;
                Deadline::after(self.heard, waited, BridgeError::Silent { waited, phase })
            }),
        ]
    }

    /// How long the guest may be silent now.
    fn silence(&self) -> Option<Duration> {
        let interval = match self.phase {
            Phase::Parked => PARKED_HEARTBEAT_INTERVAL,
            // The guest goes by the parked interval until it has the configuration.
            Phase::Configured => self.heartbeat_interval?.max(PARKED_HEARTBEAT_INTERVAL),
            Phase::Ready | Phase::Starting | Phase::Running => self.heartbeat_interval?,
            Phase::Exited if self.fetch.is_some() => self.heartbeat_interval?,
            Phase::AwaitingHello | Phase::Exited | Phase::Failed | Phase::Over => return None,
        };
        Some(interval.saturating_mul(self.times.silent_heartbeats.max(1)))
    }
}
