//! Firecracker, behind its jailer, or where the operator wants none, confined as QEMU is.
//!
//! ```text
//! lease of an id ─ control groups ─ jail with staged files ─ listener
//!   ─ jailer, tethered ─ socket ─ process found ─ calls ─ machine
//! ```
//!
//! Each step's traces on the host are in [`FirecrackerMachine`](machine::FirecrackerMachine), which
//! takes them back, from a boot that failed half way too.

mod api;
mod boot;
mod boot_args;
mod bridge;
mod ids;
mod jail;
mod machine;
mod process;
mod requests;
mod ring;
mod running;
mod stage;
mod verified;
mod version;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use cellos_isolation::confined::Helper;

#[cfg(test)]
use self::stage::Use;
use self::{
    boot::Origin,
    boot_args::GuestContract,
    ids::IdPool,
    jail::JailBase,
    requests::RateLimiter,
    verified::Verified,
    version::{RESTORES, Version},
};
#[cfg(test)]
use crate::artifacts::Artifact;
use crate::{
    artifacts::Artifacts,
    config::{FirecrackerConfig, Jail, MicrovmConfig},
    limits::MonitorGroups,
    vmm::{BootOrder, Driver, Machine, MonitorFacts, Parking, Snapshot, VmmError},
};

/// The monitor's name in errors and evidence.
pub(crate) const NAME: &str = "firecracker";

/// The driver.
#[derive(Debug)]
pub(crate) struct Firecracker {
    facts: MonitorFacts,
    version: Version,
    guest: GuestContract,
    /// `None` where the operator wants no jails.
    jails: Option<Jails>,
    disk_rate: Option<RateLimiter>,
    groups: MonitorGroups,
    /// Starts monitors that no jailer starts.
    helper: Helper,
    verified: Arc<Verified>,
    /// Put into each machine's place.
    #[cfg(test)]
    pub(crate) extra_files: Vec<(String, Artifact, Use)>,
}

#[derive(Debug)]
struct Jails {
    base: JailBase,
    ids: IdPool,
}

impl Firecracker {
    /// Looks at the programs and the host once. Blocks for as long as two programs take to say
    /// their versions.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] for versions that do not fit, for jails without root, and for paths
    /// and ids that cannot be used.
    pub(crate) fn new(
        config: &MicrovmConfig,
        settings: &FirecrackerConfig,
        artifacts: &Artifacts,
        helper: Helper,
    ) -> Result<Self, VmmError> {
        let said = version::ask(&artifacts.monitor, artifacts.jailer.as_ref())?;
        let jails = match &settings.jail {
            Jail::None => {
                let longest = config.run_folder.join("n".repeat(jail::MAX_NAME_BYTES));
                jail::check_sockets(&longest.join(jail::FOLDER))?;
                None
            }
            Jail::Jailer {
                chroot_base,
                first_id,
                ids,
                ..
            } => {
                if !rustix::process::geteuid().is_root() {
                    return Err(unusable("its jailer needs root".into()));
                }
                if artifacts.jailer.is_none() {
                    return Err(unusable("there is no jailer among the artifacts".into()));
                }
                Some(Jails {
                    base: JailBase::new(chroot_base)?,
                    ids: IdPool::new(&config.run_folder, *first_id, *ids)?,
                })
            }
        };
        let rates = config.rates;
        Ok(Self {
            facts: MonitorFacts {
                name: NAME,
                version: said.version.to_string(),
                execution: said.execution,
            },
            version: said.version,
            guest: GuestContract::from(&config.boot),
            jails,
            disk_rate: RateLimiter::per_second(
                rates.disk_bytes_per_second,
                rates.disk_operations_per_second,
            ),
            groups: MonitorGroups::new(config.cgroup_parent.as_deref())?,
            helper,
            verified: Arc::default(),
            #[cfg(test)]
            extra_files: Vec::new(),
        })
    }
}

#[async_trait]
impl Driver for Firecracker {
    fn facts(&self) -> MonitorFacts {
        self.facts.clone()
    }

    async fn boot(&self, order: BootOrder<'_>) -> Result<Box<dyn Machine>, VmmError> {
        self.make(&order, Origin::Boot).await
    }

    async fn restore(
        &self,
        order: BootOrder<'_>,
        snapshot: &Snapshot,
    ) -> Result<Box<dyn Machine>, VmmError> {
        if self.parking() != Parking::Snapshot {
            return Err(VmmError::Unsupported {
                monitor: NAME,
                what: "restore machines here: that needs version 1.16.1 and our own bridge",
            });
        }
        if order.shape != snapshot.shape {
            return Err(unusable(
                "the snapshot is of a machine of another shape".into(),
            ));
        }
        self.make(&order, Origin::Snapshot(snapshot)).await
    }

    fn parking(&self) -> Parking {
        // A published guest has its argv from its command line, so none can stand for another.
        if self.version >= RESTORES && self.guest == GuestContract::Bridge {
            Parking::Snapshot
        } else {
            Parking::Live
        }
    }
}

fn unusable(why: String) -> VmmError {
    VmmError::Unusable { monitor: NAME, why }
}
