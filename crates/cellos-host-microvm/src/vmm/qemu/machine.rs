//! One machine that QEMU runs.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use cellos_core::ports::network::CellNetwork;
use tokio::{net::UnixStream, sync::Mutex};

use super::{
    super::{Machine, MonitorEnd, Snapshot, VmmError, process::Monitor},
    NAME,
    control::Control,
};
use crate::limits::MonitorGroup;

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    monitor: Monitor,
    /// Held, so that QEMU is heard out as long as the machine is there.
    #[expect(dead_code, reason = "dropping it ends the conversation")]
    control: Control,
    /// The one connection that there is: a port of a virtio console, not a network.
    bridge: Mutex<Option<UnixStream>>,
    group: Arc<MonitorGroup>,
}

impl QemuMachine {
    pub(super) fn new(
        monitor: Monitor,
        control: Control,
        bridge: UnixStream,
        group: MonitorGroup,
    ) -> Self {
        Self {
            monitor,
            control,
            bridge: Mutex::new(Some(bridge)),
            group: Arc::new(group),
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.monitor.pid()
    }

    fn cgroup(&self) -> Option<PathBuf> {
        self.group.primary()
    }

    async fn bridge(&self) -> Result<UnixStream, VmmError> {
        match self.bridge.lock().await.take() {
            Some(stream) => Ok(stream),
            None => Err(self
                .monitor
                .ended_during("the wait for PID 1 to dial again")
                .await),
        }
    }

    fn network(&self) -> Option<CellNetwork> {
        self.monitor.network()
    }

    async fn ended(&self) -> MonitorEnd {
        self.monitor.ended().await
    }

    fn console_tail(&self) -> String {
        self.monitor.console()
    }

    async fn ask_to_end(&self) -> Result<(), VmmError> {
        Err(VmmError::Unsupported {
            monitor: NAME,
            what: "press keys on a microvm, which has no keyboard",
        })
    }

    async fn snapshot(&self) -> Result<Snapshot, VmmError> {
        Err(VmmError::Unsupported {
            monitor: NAME,
            what: "write a microvm to a snapshot",
        })
    }

    async fn remove(&self) -> Vec<String> {
        let mut left = Vec::new();
        if let Err(error) = self.monitor.kill_and_wait().await {
            left.push(format!("process {}: {error}", self.monitor.pid()));
        }
        left.extend(remove_group(Arc::clone(&self.group)).await);
        left
    }
}

/// Removes a control group, which may block for a moment.
pub(super) async fn remove_group(group: Arc<MonitorGroup>) -> Vec<String> {
    tokio::task::spawn_blocking(move || group.remove())
        .await
        .unwrap_or_else(|error| vec![format!("control group: {error}")])
}
