//! Hosts as trees of ordinary files: layouts that the machine at hand does not have.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A file or directory is writable to the pretended user by its owner's mode bits, since tests may
/// run as root, whom no mode stops.
fn writable_by_mode(path: &Path) -> Result<(), Errno> {
    let mode = fs::metadata(path)
        .map_err(|_| Errno::NOENT)?
        .permissions()
        .mode();
    if mode & 0o200 == 0 {
        Err(Errno::ACCESS)
    } else {
        Ok(())
    }
}

struct Fixture {
    root: tempfile::TempDir,
    uid: u32,
}

impl Fixture {
    fn new(uid: u32, own_cgroups: &str, mountinfo: &str) -> Self {
        let fixture = Self {
            root: tempfile::tempdir().unwrap(),
            uid,
        };
        fixture.file("proc/self/cgroup", own_cgroups);
        fixture.file("proc/self/mountinfo", mountinfo);
        fixture.file("proc/swaps", "Filename Type Size Used Priority\n");
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A v2 cgroup that has and passes on controllers.
    fn unified(&self, path: &str, controllers: &str, subtree: &str) {
        self.file(&format!("{path}/cgroup.controllers"), controllers);
        self.file(&format!("{path}/cgroup.subtree_control"), subtree);
        self.file(&format!("{path}/cgroup.procs"), "");
    }

    fn protect(&self, path: &str) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o555)).unwrap();
    }

    fn detect(&self, operator: Option<&Path>) -> CgroupHost {
        let system = System {
            root: self.root.path().to_owned(),
            effective_uid: self.uid,
            writable: writable_by_mode,
        };
        CgroupHost::detect_on(system, operator)
    }
}

const PURE_V2: &str = "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
const ROOT: &str = "sys/fs/cgroup";

fn v2(controller: Controller) -> Mechanism {
    Mechanism {
        version: Version::V2,
        controller,
    }
}

fn why(result: Result<Mechanism, Unavailable>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn root_on_a_pure_v2_host_gets_a_top_level_cgroup() {
    let fixture = Fixture::new(0, "0::/user.slice/session-1.scope\n", PURE_V2);
    fixture.unified(ROOT, "cpuset cpu io memory pids\n", "memory pids\n");
    fixture.unified(
        "sys/fs/cgroup/user.slice/session-1.scope",
        "memory pids\n",
        "",
    );
    let host = fixture.detect(None);
    for controller in Controller::ALL {
        assert_eq!(host.support(controller), Ok(v2(controller)));
    }
    assert_eq!(
        host.trees[0].parent.plan,
        Plan::TopLevel {
            root: fixture.path(ROOT)
        }
    );
    assert!(
        !fixture.path("sys/fs/cgroup/cellos").exists(),
        "detection changes nothing"
    );
}

#[test]
fn a_container_root_is_not_the_real_root_and_its_own_cgroup_is_used() {
    let fixture = Fixture::new(0, "0::/\n", PURE_V2);
    fixture.unified(ROOT, "cpu memory pids\n", "cpu memory pids\n");
    fixture.file("sys/fs/cgroup/cgroup.type", "domain\n");
    let host = fixture.detect(None);
    assert_eq!(host.support(Controller::Memory), Ok(v2(Controller::Memory)));
    assert_eq!(
        host.trees[0].parent.plan,
        Plan::Existing(fixture.path(ROOT))
    );
}

#[test]
fn strangers_in_the_parent_make_its_controllers_unusable() {
    let fixture = Fixture::new(0, "0::/\n", PURE_V2);
    fixture.unified(ROOT, "cpu memory pids\n", "");
    fixture.file("sys/fs/cgroup/cgroup.type", "domain\n");
    let own = std::process::id();
    fixture.file("sys/fs/cgroup/cgroup.procs", &format!("{own}\n999999999\n"));
    let message = why(fixture.detect(None).support(Controller::Pids));
    assert!(message.contains("[999999999]"), "{message}");
    fixture.file("sys/fs/cgroup/cgroup.procs", &format!("{own}\n"));
    fixture.detect(None).support(Controller::Pids).unwrap();
}

#[test]
fn a_delegated_cgroup_of_an_ordinary_user_is_used() {
    let own = "sys/fs/cgroup/user.slice/app.scope";
    let fixture = Fixture::new(1000, "0::/user.slice/app.scope\n", PURE_V2);
    fixture.unified(ROOT, "cpu memory pids\n", "memory pids\n");
    fixture.unified(own, "memory pids\n", "");
    let host = fixture.detect(None);
    assert_eq!(host.support(Controller::Memory), Ok(v2(Controller::Memory)));
    let message = why(host.support(Controller::Cpu));
    assert!(
        message.contains("cpu controller is not delegated"),
        "{message}"
    );
    assert!(message.contains("Delegate="), "{message}");
}

#[test]
fn without_delegation_an_ordinary_user_is_told_what_to_do() {
    let own = "sys/fs/cgroup/user.slice/session-1.scope";
    let fixture = Fixture::new(1000, "0::/user.slice/session-1.scope\n", PURE_V2);
    fixture.unified(ROOT, "cpu memory pids\n", "memory pids\n");
    fixture.unified(own, "memory pids\n", "");
    fixture.protect(own);
    let message = why(fixture.detect(None).support(Controller::Memory));
    assert!(message.contains("user 1000 may not write"), "{message}");
    assert!(message.contains("Delegate=yes"), "{message}");
}

#[test]
fn without_delegation_systemd_is_asked_where_it_runs() {
    let own = "sys/fs/cgroup/user.slice/session-1.scope";
    let fixture = Fixture::new(1000, "0::/user.slice/session-1.scope\n", PURE_V2);
    fixture.unified(ROOT, "cpu memory pids\n", "memory pids\n");
    fixture.unified(own, "memory pids\n", "");
    fixture.protect(own);
    fixture.file("run/user/1000/bus", "");
    fixture.file("usr/bin/busctl", "");
    let manager = "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
    fixture.unified(manager, "memory pids\n", "memory pids\n");
    let host = fixture.detect(None);
    assert_eq!(host.support(Controller::Memory), Ok(v2(Controller::Memory)));
    assert!(why(host.support(Controller::Cpu)).contains("not delegated"));
    assert!(matches!(host.trees[0].parent.plan, Plan::UserScope { .. }));
}

#[test]
fn a_process_that_was_moved_aside_uses_the_parent_again() {
    let own = "sys/fs/cgroup/app.scope/cellos-supervisor";
    let fixture = Fixture::new(1000, "0::/app.scope/cellos-supervisor\n", PURE_V2);
    fixture.unified(ROOT, "memory pids\n", "memory pids\n");
    fixture.unified("sys/fs/cgroup/app.scope", "memory pids\n", "memory pids\n");
    fixture.unified(own, "memory pids\n", "");
    let host = fixture.detect(None);
    let want = Plan::Existing(fixture.path("sys/fs/cgroup/app.scope"));
    assert_eq!(host.trees[0].parent.plan, want);
}

#[test]
fn an_ordinary_user_cannot_use_a_parent_across_a_protected_ancestor() {
    let fixture = Fixture::new(1000, "0::/a\n", PURE_V2);
    fixture.unified(ROOT, "memory\n", "memory\n");
    fixture.unified("sys/fs/cgroup/a", "memory\n", "");
    fixture.unified("sys/fs/cgroup/b", "memory\n", "memory\n");
    let parent = fixture.path("sys/fs/cgroup/b");
    fixture
        .detect(Some(&parent))
        .support(Controller::Memory)
        .unwrap();
    fixture.protect("sys/fs/cgroup/cgroup.procs");
    let message = why(fixture.detect(Some(&parent)).support(Controller::Memory));
    assert!(
        message.contains("write access to cgroup.procs"),
        "{message}"
    );
}

#[test]
fn a_parent_that_is_no_cgroup_is_refused() {
    let fixture = Fixture::new(0, "0::/\n", PURE_V2);
    fixture.unified(ROOT, "memory\n", "memory\n");
    for parent in ["/tmp", "relative", "sys/fs/cgroup/../../etc"] {
        let parent = if parent.starts_with('s') {
            fixture.path(parent)
        } else {
            PathBuf::from(parent)
        };
        let message = why(fixture.detect(Some(&parent)).support(Controller::Memory));
        assert!(message.contains("does not lie beneath"), "{message}");
    }
    let missing = fixture.path("sys/fs/cgroup/nope");
    let message = why(fixture.detect(Some(&missing)).support(Controller::Memory));
    assert!(message.contains("there is no cgroup"), "{message}");
}

const PURE_V1: &str = "\
30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";

#[test]
fn on_v1_the_operators_path_holds_for_each_controller() {
    let fixture = Fixture::new(1000, "2:memory:/\n1:pids:/\n", PURE_V1);
    fixture.file("sys/fs/cgroup/memory/team/tasks", "");
    fixture.file("sys/fs/cgroup/pids/tasks", "");
    let parent = fixture.path("sys/fs/cgroup/memory/team");
    let host = fixture.detect(Some(&parent));
    let mechanism = host.support(Controller::Memory).unwrap();
    assert_eq!(mechanism.to_string(), "cgroup v1 memory");
    let message = why(host.support(Controller::Pids));
    assert!(message.contains("pids/team (mkdir "), "{message}");
    let message = why(host.support(Controller::Cpu));
    assert!(
        message.contains("no mounted cgroup hierarchy has the cpu"),
        "{message}"
    );
}

#[test]
fn swap_that_is_not_counted_makes_a_memory_limit_impossible() {
    let fixture = Fixture::new(0, "2:memory:/\n1:pids:/\n", PURE_V1);
    fixture.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "");
    fixture.file("sys/fs/cgroup/pids/tasks", "");
    fixture.detect(None).support(Controller::Memory).unwrap();
    fixture.file("proc/swaps", "Filename Type\n/dev/sda2 partition\n");
    let message = why(fixture.detect(None).support(Controller::Memory));
    assert!(message.contains("swapaccount=1"), "{message}");
    fixture.detect(None).support(Controller::Pids).unwrap();
    fixture.file("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "");
    fixture.detect(None).support(Controller::Memory).unwrap();
}

#[test]
fn a_host_without_cgroups_refuses_limits_and_allows_a_cell_without() {
    let host = Fixture::new(0, "", "").detect(None);
    let creator = super::super::Creator::current().unwrap();
    let name = super::super::leaf_name("a", &creator, 1);
    let none = host.create(&name, &Limits::default()).unwrap();
    assert_eq!(none.primary_path(), None);
    let limits = Limits {
        pids_max: Some(1),
        ..Limits::default()
    };
    let error = host.create(&name, &limits).unwrap_err();
    assert!(matches!(
        error,
        CgroupError::Unavailable {
            controller: Controller::Pids,
            ..
        }
    ));
}

#[test]
fn a_create_that_fails_midway_leaves_nothing() {
    // Ordinary directories take the mkdir, but have no control files to write limits to.
    let fixture = Fixture::new(0, "2:memory:/\n1:pids:/\n", PURE_V1);
    fixture.file("sys/fs/cgroup/memory/tasks", "");
    fixture.file("sys/fs/cgroup/pids/tasks", "");
    let creator = super::super::Creator::current().unwrap();
    let name = super::super::leaf_name("a", &creator, 1);
    let limits = Limits {
        memory_max_bytes: Some(1 << 20),
        pids_max: Some(1),
        ..Limits::default()
    };
    let error = fixture.detect(None).create(&name, &limits).unwrap_err();
    assert!(
        error.to_string().contains("memory.limit_in_bytes"),
        "{error}"
    );
    for controller in ["memory", "pids"] {
        let entries = fs::read_dir(fixture.path(&format!("{ROOT}/{controller}"))).unwrap();
        let names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["tasks"], "{controller}");
    }
}

#[test]
fn a_name_that_was_not_made_by_leaf_name_is_refused() {
    let host = Fixture::new(0, "", "").detect(None);
    for name in ["..", "a/b", "", "cellos_x"] {
        let error = host.create(name, &Limits::default()).unwrap_err();
        assert!(matches!(error, CgroupError::LeafName { .. }), "{name}");
    }
}
