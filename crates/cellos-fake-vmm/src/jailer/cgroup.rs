//! Control groups: made, given their values and joined, or it fails.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Failure,
    arguments::{CgroupVersion, Cgroups},
    attempt,
};

const MOUNTS: &str = "/proc/mounts";

/// Makes the groups of a machine and moves this process into them.
pub(crate) fn join(cgroups: &Cgroups, id: &str) -> Result<(), Failure> {
    match (cgroups.version, cgroups.values.is_empty()) {
        (CgroupVersion::V1, true) => Ok(()),
        (CgroupVersion::V1, false) => join_v1(cgroups, id),
        // As the real one: without values there is no group of the machine's own, but a parent that
        // is named is joined.
        (CgroupVersion::V2, true) if cgroups.parent_given => {
            enter(&mount_of(None)?.join(&cgroups.parent), "cgroup.procs")
        }
        (CgroupVersion::V2, true) => Ok(()),
        (CgroupVersion::V2, false) => join_v2(cgroups, id),
    }
}

fn join_v1(cgroups: &Cgroups, id: &str) -> Result<(), Failure> {
    let mut entered = BTreeSet::new();
    for value in &cgroups.values {
        let mount = mount_of(Some(&value.controller))?;
        let folder = mount.join(&cgroups.parent).join(id);
        attempt("make", &folder, fs::create_dir_all(&folder))?;
        if value.controller == "cpuset" {
            inherit_cpuset(&mount, &folder)?;
        }
        write(&folder.join(&value.file), &value.value)?;
        entered.insert(folder);
    }
    entered.iter().try_for_each(|folder| enter(folder, "tasks"))
}

fn join_v2(cgroups: &Cgroups, id: &str) -> Result<(), Failure> {
    let mount = mount_of(None)?;
    let controllers: BTreeSet<_> = cgroups
        .values
        .iter()
        .map(|value| value.controller.as_str())
        // `cgroup.*` are files of every group and belong to no controller.
        .filter(|controller| *controller != "cgroup")
        .collect();
    let mut folder = mount;
    for part in cgroups.parent.iter().chain([id.as_ref()]) {
        for controller in &controllers {
            write(
                &folder.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            )?;
        }
        folder.push(part);
        attempt("make", &folder, fs::create_dir_all(&folder))?;
    }
    for value in &cgroups.values {
        write(&folder.join(&value.file), &value.value)?;
    }
    enter(&folder, "cgroup.procs")
}

/// A group of `cpuset` takes no process before it has processors and memory nodes.
fn inherit_cpuset(mount: &Path, folder: &Path) -> Result<(), Failure> {
    let below = folder.strip_prefix(mount).unwrap_or(folder);
    let mut parent = mount.to_owned();
    for part in below {
        let child = parent.join(part);
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(name), child.join(name));
            let present = attempt("read", &to, fs::read_to_string(&to))?;
            if present.trim().is_empty() {
                let inherited = attempt("read", &from, fs::read_to_string(&from))?;
                write(&to, inherited.trim())?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// Where a controller of the first version is mounted, or the second version.
fn mount_of(controller: Option<&str>) -> Result<PathBuf, Failure> {
    let mounts = attempt("read", Path::new(MOUNTS), fs::read_to_string(MOUNTS))?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        fits.then(|| PathBuf::from(path))
    });
    found.ok_or_else(|| Failure::NoHierarchy(controller.unwrap_or("cgroup2").to_owned()))
}

fn enter(folder: &Path, file: &str) -> Result<(), Failure> {
    write(&folder.join(file), &std::process::id().to_string())
}

fn write(path: &Path, value: &str) -> Result<(), Failure> {
    attempt("write", path, fs::write(path, value))
}
