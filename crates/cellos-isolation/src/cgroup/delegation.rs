//! The parent of v2 leaves: where it may be, and making it ready.
//!
//! v2 gives controllers to the children of a cgroup only when the cgroup itself holds no process
//! (the root excepted) and names them in `cgroup.subtree_control` (`cgroups(7)`). So whoever runs in
//! the cgroup that becomes the parent moves to a leaf beside the cells.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    BUSCTL_TIMEOUT, CgroupError, Controller, Operation, Unavailable, control::Directory,
    host::System, layout::Hierarchy, leaf_name::stat_field, scope,
};

/// Where root's cells live on a host that shows the real root: systemd leaves it alone.
pub(super) const TOP_LEVEL: &str = "cellos";
/// Leaf that our own processes move to. Not the prefix of cells' leaves.
pub(super) const SUPERVISOR_LEAF: &str = "cellos-supervisor";
/// How many ancestors are looked at; deeper trees of processes do not start cells.
const ANCESTORS_MAX: usize = 64;
/// How often processes that were forked meanwhile are moved after.
const MOVE_ROUNDS: usize = 8;

/// Where the parent of leaves is or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// A cgroup that is there: the operator's, or our own.
    Existing(PathBuf),
    /// `cellos` beneath the real root, made when first needed.
    TopLevel { root: PathBuf },
    /// A scope that the user's systemd gives when first needed.
    UserScope { busctl: PathBuf, mount: PathBuf },
}

/// A usable parent and the controllers that it can give to leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) plan: Plan,
    pub(super) available: Vec<Controller>,
}

/// Decides where v2 leaves go. Changes nothing.
pub(super) fn plan(
    system: &System,
    hierarchy: &Hierarchy,
    operator: Option<&Path>,
) -> Result<Parent, Unavailable> {
    let own = hierarchy.own.as_deref();
    if let Some(path) = operator {
        check_usable(system, path, own, &hierarchy.mount)?;
        return Ok(existing(path));
    }
    // Started by a process that an earlier run moved aside: the leaf's parent is the place.
    let own = own.map(|path| match path.parent() {
        Some(parent) if path.ends_with(SUPERVISOR_LEAF) => parent,
        _ => path,
    });
    let mount = &hierarchy.mount;
    let own_usable = own.map(|path| check_usable(system, path, Some(path), mount));
    if let (Some(path), Some(Ok(()))) = (own, &own_usable)
        && is_delegated(path)
    {
        return Ok(existing(path));
    }
    if system.effective_uid == 0 && is_real_root(mount) && system.may_write(mount).is_ok() {
        return Ok(Parent {
            available: controllers_in(&mount.join("cgroup.controllers")),
            plan: Plan::TopLevel {
                root: mount.clone(),
            },
        });
    }
    if system.effective_uid != 0
        && let Some(busctl) = scope::reachable(&system.root, system.effective_uid)
    {
        let uid = system.effective_uid;
        let manager = format!("user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
        return Ok(Parent {
            available: controllers_in(&mount.join(manager)),
            plan: Plan::UserScope {
                busctl,
                mount: mount.clone(),
            },
        });
    }
    match (own, own_usable) {
        (Some(path), Some(Ok(()))) => Ok(existing(path)),
        (_, Some(Err(unavailable))) => Err(unavailable),
        _ => Err(Unavailable {
            why: "our own cgroup lies outside what the cgroup2 mount shows".to_owned(),
            mend: "mount cgroup2 in our cgroup namespace, or set CELLOS_CGROUP_PARENT".to_owned(),
        }),
    }
}

fn existing(path: &Path) -> Parent {
    Parent {
        plan: Plan::Existing(path.to_owned()),
        available: controllers_in(&path.join("cgroup.controllers")),
    }
}

/// The real root is the only cgroup without a type (`cgroup-v2`, "Core Interface Files").
fn is_real_root(path: &Path) -> bool {
    path.join("cgroup.controllers").exists() && !path.join("cgroup.type").exists()
}

/// systemd marks what it delegates (`user.delegate` since version 251, `trusted.delegate` before).
fn is_delegated(path: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 2];
        let length = rustix::fs::getxattr(path, *name, &mut value[..]);
        length == Ok(1) && value.first() == Some(&b'1')
    })
}

fn controllers_in(file: &Path) -> Vec<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let listed = |c: &Controller| text.split_ascii_whitespace().any(|name| name == c.name());
    Controller::ALL.into_iter().filter(listed).collect()
}

fn check_usable(
    system: &System,
    path: &Path,
    own: Option<&Path>,
    mount: &Path,
) -> Result<(), Unavailable> {
    system.check_parent(path)?;
    for file in ["cgroup.subtree_control", "cgroup.procs"] {
        system.check_writable(&path.join(file))?;
    }
    if let Some(own) = own
        && !own.starts_with(path)
    {
        // To move a process, the mover must be able to write to the common ancestor.
        let ancestor = path.ancestors().find(|a| own.starts_with(a));
        let ancestor = ancestor.filter(|a| a.starts_with(mount)).unwrap_or(mount);
        if system.may_write(&ancestor.join("cgroup.procs")).is_err() {
            return Err(Unavailable {
                why: format!(
                    "no process may be moved from {} to {}: that needs write access to cgroup.procs \
                     of {}",
                    own.display(),
                    path.display(),
                    ancestor.display()
                ),
                mend: format!("start cellos in {}", path.display()),
            });
        }
    }
    let held = controllers_in(&path.join("cgroup.subtree_control"));
    let wanted = controllers_in(&path.join("cgroup.controllers"));
    if !is_real_root(path) && wanted.iter().any(|c| !held.contains(c)) {
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let ours = ourselves();
        let mut others = super::control::process_ids(&procs);
        others.retain(|pid| !ours.contains(pid));
        if !others.is_empty() {
            return Err(Unavailable {
                why: format!(
                    "{} holds processes that are not ours ({others:?}), and cgroup v2 gives limits \
                     only to cgroups whose parent holds none",
                    path.display()
                ),
                mend: "start cellos in a cgroup of its own (systemd-run --user --scope -p \
                       Delegate=yes), or set CELLOS_CGROUP_PARENT"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// Makes the parent ready and opens it.
pub(super) fn prepare(system: &System, parent: &Parent) -> Result<Directory, CgroupError> {
    let names: Vec<&str> = parent.available.iter().map(|c| c.name()).collect();
    let ours = ourselves();
    match &parent.plan {
        Plan::Existing(path) => {
            let directory = Directory::open(path)?;
            enable(&directory, &names, &ours)?;
            Ok(directory)
        }
        Plan::TopLevel { root } => {
            let root = Directory::open(root)?;
            enable(&root, &names, &[])?;
            let directory = make_or_open(&root, TOP_LEVEL)?;
            enable(&directory, &names, &ours)?;
            Ok(directory)
        }
        Plan::UserScope { busctl, mount } => {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            let path = scope::start_user_scope(busctl, pid, system.effective_uid, BUSCTL_TIMEOUT)?;
            let directory = Directory::open(&mount.join(path.strip_prefix("/").unwrap_or(&path)))?;
            enable(&directory, &names, &[pid])?;
            Ok(directory)
        }
    }
}

fn make_or_open(parent: &Directory, name: &str) -> Result<Directory, CgroupError> {
    let path = || parent.path().join(name);
    match rustix::fs::mkdirat(parent.fd(), name, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(CgroupError::io(Operation::Make, path(), e)),
    }
    let opened = parent.open_child(name);
    opened.map_err(|e| CgroupError::io(Operation::Open, path(), e))
}

/// Gives the named controllers to the children of a cgroup; moves `ours` aside if it must be empty.
pub(super) fn enable(
    directory: &Directory,
    controllers: &[&str],
    ours: &[i32],
) -> Result<(), CgroupError> {
    const FILE: &std::ffi::CStr = c"cgroup.subtree_control";
    let held = directory.read(FILE)?;
    let missing: Vec<String> = controllers
        .iter()
        .filter(|name| !held.split_ascii_whitespace().any(|h| h == **name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let value = missing.join(" ");
    match directory.write_raw(FILE, value.as_bytes()) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => {
            move_aside(directory, ours)?;
            directory.write(FILE, &value)
        }
        // One that cannot be given (`cpu` while realtime threads run, for one) must not keep the others
        // away; a limit that needs it fails later, for want of its control file.
        Err(e) => {
            let given = |name: &&String| directory.write_raw(FILE, name.as_bytes()).is_ok();
            if missing.iter().filter(given).count() > 0 {
                return Ok(());
            }
            Err(CgroupError::io(Operation::Write, directory.file(FILE), e))
        }
    }
}

fn move_aside(directory: &Directory, ours: &[i32]) -> Result<(), CgroupError> {
    let others = |pids: Vec<i32>| CgroupError::OtherProcesses {
        path: directory.path().to_owned(),
        pids,
    };
    // Look before moving anyone: a refusal leaves everything as it was.
    let strangers = |pids: &[i32]| -> Vec<i32> {
        pids.iter()
            .copied()
            .filter(|pid| !ours.contains(pid))
            .collect()
    };
    let members = directory.processes()?;
    if !strangers(&members).is_empty() {
        return Err(others(strangers(&members)));
    }
    let aside = make_or_open(directory, SUPERVISOR_LEAF)?;
    for _ in 0..MOVE_ROUNDS {
        let members = directory.processes()?;
        if members.is_empty() {
            return Ok(());
        }
        for pid in members {
            match aside.write_raw(c"cgroup.procs", pid.to_string().as_bytes()) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(CgroupError::io(Operation::Join, aside.path(), e)),
            }
        }
    }
    Err(others(directory.processes()?))
}

/// The calling process and those that it descends from: they started the cell, so they may be moved.
fn ourselves() -> Vec<i32> {
    let mut pid = rustix::process::getpid().as_raw_nonzero().get();
    let mut chain = vec![pid];
    for _ in 0..ANCESTORS_MAX {
        let parent = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| stat_field(&stat, 4))
            .and_then(|parent| i32::try_from(parent).ok());
        match parent {
            Some(parent) if parent > 0 => {
                chain.push(parent);
                pid = parent;
            }
            _ => break,
        }
    }
    chain
}
