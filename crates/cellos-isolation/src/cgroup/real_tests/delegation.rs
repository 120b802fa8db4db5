//! Making a parent ready on a real v2 tree.

use super::{
    super::{delegation, scope},
    *,
};

/// A controller of the real v2 tree that is subject to the rule against internal processes.
fn some_controller(scratch: &Scratch) -> Option<String> {
    let text = fs::read_to_string(scratch.0.join("cgroup.controllers")).unwrap();
    let parent =
        fs::read_to_string(scratch.0.parent().unwrap().join("cgroup.controllers")).unwrap();
    let domain = ["hugetlb", "memory", "io"];
    let found = domain
        .into_iter()
        .find(|c| parent.split_ascii_whitespace().any(|p| p == *c));
    let Some(found) = found else {
        skip("the v2 tree has no controller to try this with");
        return None;
    };
    if !text.contains(found) {
        let root = Directory::open(scratch.0.parent().unwrap()).unwrap();
        delegation::enable(&root, &[found], &[]).unwrap();
    }
    Some(found.to_owned())
}

#[test]
fn our_own_processes_move_aside_so_that_children_get_controllers() {
    let Some(scratch) = unified("aside") else {
        return;
    };
    let Some(controller) = some_controller(&scratch) else {
        return;
    };
    let parent = Directory::open(&scratch.0).unwrap();
    let mut ours = Command::new("sleep").arg("60").spawn().unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let own_id = i32::try_from(ours.id()).unwrap();
    let procs = scratch.0.join("cgroup.procs");
    fs::write(&procs, ours.id().to_string()).unwrap();
    fs::write(&procs, stranger.id().to_string()).unwrap();

    let refused = delegation::enable(&parent, &[&controller], &[own_id]);
    let stranger_id = i32::try_from(stranger.id()).unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let untouched = parent.processes().unwrap();
    let enabled = delegation::enable(&parent, &[&controller], &[own_id]);
    let aside = scratch
        .0
        .join(delegation::SUPERVISOR_LEAF)
        .join("cgroup.procs");
    let moved = fs::read_to_string(aside).unwrap_or_default();
    let again = delegation::enable(&parent, &[&controller], &[own_id]);
    ours.kill().unwrap();
    ours.wait().unwrap();

    assert!(
        matches!(&refused, Err(CgroupError::OtherProcesses { pids, .. }) if *pids == [stranger_id]),
        "{refused:?}"
    );
    assert_eq!(untouched, [own_id], "a refusal moves nobody");
    enabled.unwrap();
    assert_eq!(moved, format!("{own_id}\n"));
    again.unwrap();
    let partly = delegation::enable(&parent, &["nonsense", &controller], &[]);
    assert!(partly.is_err(), "nothing was given");
    let held = fs::read_to_string(scratch.0.join("cgroup.subtree_control")).unwrap();
    assert_eq!(held.trim(), controller);
}

#[test]
fn a_scope_from_systemd_is_where_the_process_went() {
    let Some(scratch) = unified("scope") else {
        return;
    };
    let tools = tempfile::tempdir().unwrap();
    let busctl = tools.path().join("busctl");
    // Does what systemd would: checks the call, makes the unit's cgroup and moves the process there.
    let script = format!(
        "set -eu\n[ \"$XDG_RUNTIME_DIR\" = /run/user/1234 ]\nunit= pid= delegate= last=\n\
         for word in \"$@\"; do\n case \"$word\" in *.scope) unit=$word;; esac\n \
         [ \"$last\" = Delegate ] && delegate=b\n last=$word\ndone\n\
         [ \"$delegate\" = b ]\nwhile [ $# -gt 2 ]; do [ \"$1 $2\" = 'au 1' ] && pid=$3; shift; done\n\
         mkdir \"{0}/$unit\"\necho \"$pid\" > \"{0}/$unit/cgroup.procs\"\n",
        scratch.0.display()
    );
    scope::write_script(&busctl, &script);
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let path = start_user_scope(&busctl, pid, 1234, BUSCTL_TIMEOUT);
    child.kill().unwrap();
    child.wait().unwrap();
    let path = path.unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("cellos-{pid}-")), "{name}");
    assert!(scratch.0.join(name).is_dir());
}
