//! Control groups: the root gives its controllers to groups of cells, and this program has one of
//! its own.

use std::{fs, path::Path};

use super::{BootError, Step as _};

pub(super) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// This program's own group, and that of the launcher forked from it.
const OWN_GROUP: &str = "cellos-init";

/// What cells are limited by.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Gives the controllers to the root's children and moves this process to a leaf: a group that
/// has children with controllers holds no process (cgroups(7)). The root is exempt from that, but
/// what is in a leaf is counted, and no cell can be made where PID 1 is.
pub(super) fn prepare(root: &Path) -> Result<(), BootError> {
    let controllers = root.join("cgroup.controllers");
    let available = fs::read_to_string(&controllers).on("read", &controllers)?;
    for controller in CONTROLLERS {
        if !available
            .split_ascii_whitespace()
            .any(|name| name == controller)
        {
            return Err(BootError::NoController { controller });
        }
    }
    let own = root.join(OWN_GROUP);
    fs::create_dir_all(&own).on("make", &own)?;
    let processes = own.join("cgroup.procs");
    // 0 is whoever writes it.
    fs::write(&processes, "0").on("write", &processes)?;
    let control = root.join("cgroup.subtree_control");
    fs::write(
        &control,
        CONTROLLERS.map(|name| format!("+{name}")).join(" "),
    )
    .on("write", &control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_controller_is_refused_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("cgroup.controllers"),
            "cpuset cpu memory\n",
        )
        .unwrap();
        assert!(matches!(
            prepare(root.path()),
            Err(BootError::NoController { controller: "pids" })
        ));
        assert!(!root.path().join(OWN_GROUP).exists());
    }

    #[test]
    fn this_process_moves_to_a_leaf_and_the_root_gives_its_controllers() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        prepare(root.path()).unwrap();
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(read("cellos-init/cgroup.procs"), "0");
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids +cpu");
    }
}
