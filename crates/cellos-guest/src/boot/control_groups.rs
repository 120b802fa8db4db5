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
    use cellos_testkit::{require, test_name};
    use rustix::mount::MountFlags;

    use super::*;
    use crate::boot::namespaces::{Namespaces, inside};

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

    mod as_root {
        use super::*;

        /// Whatever the host has given to its second hierarchy: a group of the real kernel.
        #[test]
        fn a_group_of_the_kernel_is_prepared_or_refused_untouched() {
            require!("root");
            inside(test_name!(), Namespaces::Privileged, |folder| {
                rustix::mount::mount("cgroup2", folder, "cgroup2", MountFlags::empty(), None)
                    .unwrap();
                let before = fs::read_to_string("/proc/self/cgroup").unwrap();
                let before = before.lines().find_map(|line| line.strip_prefix("0::/"));
                let before = folder.join(before.unwrap()).join("cgroup.procs");
                let name = folder.file_name().unwrap().display();
                let group = folder.join(format!("cellos-test-{name}"));
                fs::create_dir(&group).unwrap();
                let outcome = prepare(&group);
                let offered = fs::read_to_string(group.join("cgroup.controllers")).unwrap();
                let missing = CONTROLLERS
                    .into_iter()
                    .find(|name| !offered.split_whitespace().any(|found| found == *name));
                let own = group.join(OWN_GROUP);
                let members = fs::read_to_string(own.join("cgroup.procs"));
                let given = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap();
                // This process leaves before anything is judged, so that nothing stays behind.
                fs::write(before, "0").unwrap();
                let _ = fs::remove_dir(&own);
                fs::remove_dir(&group).unwrap();
                match (outcome, missing) {
                    (Ok(()), None) => {
                        assert!(!members.unwrap().is_empty());
                        assert!(
                            CONTROLLERS.iter().all(|name| given.contains(name)),
                            "{given}"
                        );
                    }
                    (Err(BootError::NoController { controller }), Some(missing)) => {
                        assert_eq!(controller, missing);
                        assert!(members.is_err());
                        assert_eq!(given.trim(), "");
                    }
                    (outcome, missing) => panic!("{outcome:?}, without {missing:?}"),
                }
            });
        }
    }
}
