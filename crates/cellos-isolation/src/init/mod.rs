//! PID 1 of a cell: builds the cell around itself, gives up everything, parks the workload's
//! process, then reaps and forwards signals until the workload has ended.

pub(crate) mod network;
mod reaper;
mod root;
mod step;
mod workload;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use cellos_core::document::{MountAccess, RunUser};
use rustix::{
    net::SendFlags,
    process::{Gid, Uid},
    thread::UnshareFlags,
};

use root::OpenedMount;
use step::{Step, StepResult};

use crate::{
    base::BaseEntry,
    cgroup::Cgroup,
    message,
    plan::{Card, CellPlan, DEFAULT_PROCESS_LIMIT},
    protocol::{Assignment, FromInit, to_init},
    sandbox, sys,
};

/// What init has from the launcher's memory. What its document declares comes later, as an
/// [`Assignment`], so that an init can be made before there is a document.
pub(crate) struct InitContext<'a> {
    pub(crate) parts: InitParts<'a>,
    pub(crate) control: OwnedFd,
    pub(crate) workload: OwnedFd,
}

/// What an init is made from.
pub(crate) struct InitParts<'a> {
    pub(crate) user: RunUser,
    /// Bound on what the cell may write to its own folders, in bytes.
    pub(crate) writable_bytes: u64,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) base: &'a [BaseEntry],
    pub(crate) filter: &'a sandbox::seccomp::Filter,
    pub(crate) mounts: MountOrigin,
    pub(crate) groups: SupplementaryGroups,
}

/// Where the mounts of a cell come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountOrigin {
    /// The launcher sends them, mapped to the cell's identity.
    Launcher,
    /// The cell opens their sources itself.
    Cell,
}

/// Whether supplementary groups can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SupplementaryGroups {
    Drop,
    Keep,
}

/// Runs as the cell's init until the cell ends.
pub(crate) fn run(context: InitContext<'_>) -> ! {
    sys::set_process_name(c"cellos-init");
    let InitContext {
        parts,
        control,
        workload,
    } = context;
    let control = control.as_fd();
    match set_up(&parts, control, workload) {
        Ok(main) => {
            let code = reaper::run(control, main);
            sys::exit_now(code)
        }
        Err(failure) => {
            // Nobody to tell when the launcher is gone; the exit ends the cell either way.
            let _ = tell(control, &FromInit::Failed(failure), &[]);
            sys::exit_now(1)
        }
    }
}

/// The main process of the workload as init knows it, and the signals init receives.
struct Main {
    pid: rustix::process::Pid,
    signals: OwnedFd,
}

fn set_up(parts: &InitParts<'_>, control: BorrowedFd<'_>, workload: OwnedFd) -> StepResult<Main> {
    let InitParts {
        user,
        writable_bytes,
        cgroup,
        base,
        filter,
        mounts: origin,
        groups,
    } = parts;
    cgroup
        .join_v1_from_child()
        .step("join the control groups")?;
    let mut kept = [control.as_raw_fd(), workload.as_raw_fd()];
    kept.sort_unstable();
    sandbox::descriptors::close_except(&kept).step("close inherited descriptors")?;
    await_word(control, to_init::GO)?;

    become_cell_user(*user, *groups)?;
    // Set after the identity change, which clears it (PR_SET_PDEATHSIG(2const)). A launcher that
    // died in between shows as the end of the control socket, which is read next and watched
    // later.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .step("die with the launcher")?;
    let own = UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has one thread and no descriptor table shared with another process.
    unsafe { rustix::thread::unshare_unsafe(own) }.step(
        "make the network, IPC, UTS and control group namespaces (they are limited by sysctl \
         user.max_{net,ipc,uts,cgroup}_namespaces)",
    )?;
    rustix::system::sethostname(b"cell").step("set the host name")?;
    sys::bring_loopback_up().step("bring the loopback interface up")?;
    network::open_low_ports();
    // What is made for the cell gets exactly the permissions it is made with.
    sandbox::privileges::set_umask(0);
    let skeleton = root::build(base, *user, *writable_bytes, *origin)?;

    let (plan, mounts) = await_assignment(control)?;
    let network_sockets = match &plan.network {
        Some(needs) => network::make(needs, control)?,
        None => 0,
    };
    if plan.card == Card::Taken {
        tell(control, &FromInit::CardWanted, &[]).step("ask for the machine's network card")?;
        await_word(control, to_init::CARD)?;
        network::link::set_up_card()?;
    }
    root::enter(&skeleton, &plan, &mounts)?;
    drop((mounts, skeleton));
    let folder = root::open_working_folder(&plan)?;
    let landlock_abi = give_up_everything(&plan, base, filter)?;

    let signals = sys::signals_as_descriptor().step("receive signals")?;
    let usage = sys::resource_usage(libc::RUSAGE_SELF);
    let ready = FromInit::Ready {
        landlock_abi,
        network_sockets,
        setup_cpu_micros: (micros(usage.ru_utime), micros(usage.ru_stime)),
    };
    tell(control, &ready, &[folder.as_fd()]).step("report to the launcher")?;
    drop(folder);
    // SAFETY: init has a single thread.
    match unsafe { sys::fork() }.step("fork the workload's process")? {
        Some(pid) => {
            // The launcher sees the execution of the program by the end of this socket, so the
            // workload's process must be the only one that holds it.
            drop(workload);
            Ok(Main { pid, signals })
        }
        None => workload::park_and_execute(&plan, workload.as_fd()),
    }
}

/// Waits for the launcher to say something. Exits when the launcher gave up on this cell or is
/// gone.
fn await_launcher(control: BorrowedFd<'_>) -> StepResult<message::Message> {
    match message::receive_any(control).step("wait for the launcher")? {
        Some(message) => Ok(message),
        None => sys::exit_now(1),
    }
}

fn await_word(control: BorrowedFd<'_>, word: &[u8]) -> StepResult<Vec<OwnedFd>> {
    let message = await_launcher(control)?;
    if message.bytes == word {
        Ok(message.descriptors)
    } else {
        Err(io::Error::from_raw_os_error(libc::EPROTO)).step("understand the launcher")
    }
}

fn await_assignment(control: BorrowedFd<'_>) -> StepResult<(CellPlan, Vec<OpenedMount>)> {
    let message = await_launcher(control)?;
    let Assignment {
        plan,
        sources_are_folders,
        mounts_follow,
    } = serde_json::from_slice(&message.bytes).step("understand the launcher")?;
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for (mount, is_folder) in plan.mounts.iter().cloned().zip(sources_are_folders) {
        let tree = if mounts_follow {
            await_word(control, to_init::MOUNT)?.into_iter().next()
        } else {
            None
        };
        mounts.push(OpenedMount {
            mount,
            is_folder,
            tree,
        });
    }
    Ok((plan, mounts))
}

fn become_cell_user(user: RunUser, groups: SupplementaryGroups) -> StepResult<()> {
    let step = "become the cell's user";
    if groups == SupplementaryGroups::Drop {
        rustix::thread::set_thread_groups(&[]).step("drop supplementary groups")?;
    }
    let gid = Gid::from_raw(user.gid);
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(step)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(step)
}

/// Gives up, in the one order that works, everything that the workload shall not have. Init
/// keeps no more than the workload gets, so a workload that took over init would gain nothing.
fn give_up_everything(
    plan: &CellPlan,
    base: &[BaseEntry],
    filter: &sandbox::seccomp::Filter,
) -> StepResult<u32> {
    use sandbox::{landlock, limits, privileges};
    privileges::new_session_keyring().step("start a session keyring")?;
    // Well above a declared limit, so that it is the control group that refuses and counts.
    let processes = DEFAULT_PROCESS_LIMIT.max(plan.pids_max.unwrap_or(0).saturating_mul(2));
    limits::lower(Some(processes)).step("lower resource limits")?;
    privileges::set_umask(0o022);
    privileges::lock_securebits().step("lock the secure bits")?;
    privileges::drop_bounding_set().step("empty the bounding set")?;
    privileges::drop_capabilities().step("drop capabilities")?;
    privileges::set_no_new_privs().step("set no_new_privs")?;
    privileges::set_dumpable(privileges::Dumpable::No).step("become undumpable")?;
    let writable = writable_folders(plan, base);
    let landlock = landlock::restrict(&[Path::new("/")], &writable, &[Path::new("/dev")])
        .step("restrict with Landlock")?;
    filter.install().step("install the seccomp filter")?;
    Ok(landlock.abi)
}

fn writable_folders<'a>(plan: &'a CellPlan, base: &[BaseEntry]) -> Vec<&'a Path> {
    let mut folders = vec![Path::new("/tmp"), Path::new("/dev/shm")];
    if root::working_folder_kind(plan, base) == root::WorkingFolder::Own {
        folders.push(Path::new(&plan.working_folder));
    }
    folders.extend(
        plan.mounts
            .iter()
            .filter(|mount| mount.access == MountAccess::Rw)
            .map(|mount| Path::new(&mount.target)),
    );
    folders
}

fn micros(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(micros)
}

/// Tells the launcher something.
fn tell(
    control: BorrowedFd<'_>,
    what: &FromInit,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(what).map_err(io::Error::other)?;
    message::send(control, &bytes, descriptors, SendFlags::empty())
}
