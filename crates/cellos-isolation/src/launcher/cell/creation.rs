//! How a cell comes about: its control groups, an init for it, and what its document declares.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use rustix::net::SendFlags;

use super::{Cell, DEATH_BOUND, KilledBy, Phase, removal::remove_cgroup};
use crate::{
    cgroup::{Cgroup, CpuMax, Creator, Limits, leaf_name},
    init::MountOrigin,
    launcher::{Shared, Source, host, mounts, seed::Seed},
    message,
    plan::{Card, CellPlan, DEFAULT_USER, WRITABLE_MAX_BYTES, socket_count},
    protocol::{Assignment, CellKey, Failure, to_init},
    sandbox::limits,
};

/// Descriptors of the launcher that are not sockets of the cell that is made: those of its other
/// cells, six for each.
const OWN_DESCRIPTORS: u64 = 1024;

impl Cell {
    /// Creates the cell's init and lets it build the cell. The answer to `request` follows when
    /// init reports.
    pub(in crate::launcher) fn begin(
        key: CellKey,
        request: u64,
        plan: CellPlan,
        shared: &Shared,
    ) -> Result<Self, Failure> {
        make_room_for_sockets(&plan)?;
        let sources = mounts::open_all(&plan.mounts)?;
        let cgroup = Self::make_cgroup(key, &plan, shared)?;
        let is_plain = plan.user == DEFAULT_USER
            && plan.writable_bytes == WRITABLE_MAX_BYTES
            && cgroup.paths().next().is_none();
        let spare = if is_plain { shared.spares.take() } else { None };
        let seed = match spare {
            Some(seed) => seed,
            None => match Seed::make(shared, plan.user, plan.writable_bytes, &cgroup) {
                Ok(seed) => seed,
                Err(failure) => return Err(with_leftover(failure, remove_cgroup(&cgroup))),
            },
        };
        let mut cell = Self::plant(key, request, plan, seed, cgroup);
        match cell.assign(shared, &sources) {
            Ok(()) => Ok(cell),
            Err(failure) => {
                cell.kill(KilledBy::Request);
                cell.wait_for_death(Instant::now() + DEATH_BOUND);
                Err(with_leftover(failure, remove_cgroup(&cell.cgroup)))
            }
        }
    }

    /// The control groups that the plan's limits need: none, and not a look at them, without.
    fn make_cgroup(key: CellKey, plan: &CellPlan, shared: &Shared) -> Result<Cgroup, Failure> {
        let limits = Limits {
            memory_max_bytes: plan.memory_max_bytes,
            cpu_max: plan.cpu_max.map(|(quota_micros, period_micros)| CpuMax {
                quota_micros,
                period_micros,
            }),
            pids_max: plan.pids_max,
            ..Limits::default()
        };
        if limits == Limits::default() {
            return Ok(Cgroup::none());
        }
        let creator = Creator::current().map_err(|error| host("read own start time", &error))?;
        shared
            .cgroups()
            .create(&leaf_name(&plan.cell_id, &creator, key), &limits)
            .map_err(|error| Failure::Host(format!("create a control group: {error}")))
    }

    fn plant(key: CellKey, request: u64, plan: CellPlan, seed: Seed, cgroup: Cgroup) -> Self {
        Self {
            key,
            phase: Phase::SettingUp { request },
            init: seed.init,
            init_descriptor: seed.init_descriptor,
            control: seed.control,
            workload: Some(seed.workload),
            workload_pid: None,
            workload_descriptor: None,
            cgroup,
            ready: None,
            network: Vec::new(),
            setup_failure: None,
            exited: None,
            parked: None,
            started: None,
            backstop: Instant::now().checked_add(plan.backstop),
            killed_by: None,
            destroy_request: None,
            gone: false,
            plan,
        }
    }

    /// Tells the waiting init what its document declares.
    fn assign(&mut self, shared: &Shared, sources: &[mounts::Source]) -> Result<(), Failure> {
        let mounts_follow = shared.identity.mount_origin() == MountOrigin::Launcher;
        let trees = if mounts_follow {
            mounts::map_all(sources, shared.identity.host_ids(self.init))?
        } else {
            Vec::new()
        };
        let assignment = Assignment {
            plan: self.plan.clone(),
            sources_are_folders: sources.iter().map(mounts::Source::is_folder).collect(),
            mounts_follow,
        };
        let tell = |bytes: &[u8], descriptors: &[BorrowedFd<'_>]| {
            message::send(self.control.as_fd(), bytes, descriptors, SendFlags::empty())
                .map_err(|error| host("tell the cell's init", &error))
        };
        let assignment = serde_json::to_vec(&assignment)
            .map_err(|error| host("write the assignment", &error.into()))?;
        tell(&assignment, &[])?;
        for tree in &trees {
            tell(to_init::MOUNT, &[tree.as_fd()])?;
        }
        let many_sockets = self
            .plan
            .network
            .as_ref()
            .is_some_and(|needs| socket_count(needs) > message::MAX_DESCRIPTORS);
        for (descriptor, source) in [
            (
                (many_sockets || self.plan.card == Card::Taken).then_some(self.control.as_fd()),
                Source::Init(self.key),
            ),
            (
                self.workload.as_ref().map(AsFd::as_fd),
                Source::Workload(self.key),
            ),
            (
                Some(self.init_descriptor.as_fd()),
                Source::Process(self.key),
            ),
        ] {
            if let Some(descriptor) = descriptor {
                shared
                    .watch(descriptor, source)
                    .map_err(|error| host("watch the cell", &error))?;
            }
        }
        Ok(())
    }
}

/// The sockets of a cell's network pass through this process. Where its hard limit on descriptors
/// does not allow that, some are missed later.
fn make_room_for_sockets(plan: &CellPlan) -> Result<(), Failure> {
    let Some(needs) = &plan.network else {
        return Ok(());
    };
    let wanted = u64::try_from(socket_count(needs)).unwrap_or(u64::MAX);
    limits::raise_open_files(wanted.saturating_add(OWN_DESCRIPTORS))
        .map(drop)
        .map_err(|error| {
            host(
                "raise the limit on open files for the network's sockets",
                &error,
            )
        })
}

/// Adds to a failure that something could not be undone.
pub(super) fn with_leftover(failure: Failure, left: Option<String>) -> Failure {
    match (failure, left) {
        (failure, None) => failure,
        (Failure::InvalidSpec(text), Some(left)) => {
            Failure::InvalidSpec(format!("{text}; left behind: {left}"))
        }
        (Failure::Host(text), Some(left)) => Failure::Host(format!("{text}; left behind: {left}")),
        (other, Some(left)) => Failure::Host(format!("{other:?}; left behind: {left}")),
    }
}
