//! An ordinary user with a delegated parent.

use super::*;

/// Environment of the helper below.
const DELEGATED: &str = "CELLOS_TEST_DELEGATED_PARENT";
/// A user id that exists nowhere else.
const SOMEBODY: u32 = 64_987;

#[test]
fn an_unprivileged_user_uses_a_delegated_parent() {
    let Some(host) = host_with(&[Controller::Pids]) else {
        return;
    };
    let version = host.support(Controller::Pids).unwrap().version;
    let limits = Limits {
        pids_max: Some(9),
        ..Limits::default()
    };
    // Makes the parent ready, beside whose leaves the delegated one is put.
    let probe = create(&host, &limits);
    let parent = probe.0.primary_path().unwrap().parent().unwrap();
    let parent = Scratch(parent.join(format!("test-delegated-{}", std::process::id())));
    fs::create_dir(&parent.0).unwrap();
    let mut given = vec![parent.0.clone()];
    if version == Version::V2 {
        // What `cgroups(7)` says to delegate.
        let files = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
        given.extend(files.map(|file| parent.0.join(file)));
    }
    for path in given {
        std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }

    // The test's program may lie where the other user cannot read.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("test");
    // By another process: a file that a thread's fork still holds open for writing cannot be run.
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copy.status().unwrap().success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let helper = Command::new(&program)
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg("cgroup::real_tests::unprivileged::helper_delegated_user")
        .env(DELEGATED, &parent.0)
        .current_dir("/")
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if version == Version::V2 {
        // Such a user starts in the delegated cgroup, for instance through systemd.
        fs::write(parent.0.join("cgroup.procs"), helper.id().to_string()).unwrap();
    }
    let output = helper.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("the delegated user's cell was limited"),
        "{text}"
    );
}

#[test]
#[ignore = "run as another user by an_unprivileged_user_uses_a_delegated_parent"]
fn helper_delegated_user() {
    let parent = PathBuf::from(std::env::var_os(DELEGATED).unwrap());
    assert!(!rustix::process::geteuid().is_root());
    let unified = parent.join("cgroup.controllers").exists();
    if unified {
        let name = parent.file_name().unwrap().to_str().unwrap().to_owned();
        eventually("we are in the delegated cgroup", || {
            fs::read_to_string("/proc/self/cgroup")
                .unwrap()
                .contains(&name)
        });
        CgroupHost::detect(None).support(Controller::Pids).unwrap();
    } else {
        let refused = CgroupHost::detect(None)
            .support(Controller::Pids)
            .unwrap_err();
        assert!(refused.mend.contains("CELLOS_CGROUP_PARENT"), "{refused}");
    }
    let host = CgroupHost::detect(Some(&parent));
    if !unified {
        let missing = host.support(Controller::Memory).unwrap_err();
        assert!(missing.mend.starts_with("mkdir "), "{missing}");
    }
    let limits = Limits {
        pids_max: Some(2),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    let mut bomb = start(&group, &mut shell("sleep 9 & sleep 9 & sleep 9 & wait"));
    assert!(!bomb.wait().unwrap().success());
    assert!(group.0.stats().unwrap().pids_limit_hits.unwrap() > 0);
    let mut slow = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(slow.id()).unwrap();
    group.0.add_process(pid).unwrap();
    assert!(group.0.processes().unwrap().contains(&pid));
    group.0.kill().unwrap();
    slow.wait().unwrap();
    group.0.remove().unwrap();
    assert!(gone(&group.0));
    if unified {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(
            own.trim_end().ends_with("/cellos-supervisor"),
            "moved aside: {own}"
        );
        // The next run starts there and uses the same parent.
        let again = create(&CgroupHost::detect(None), &limits);
        let leaf = again.0.primary_path().unwrap();
        assert_eq!(leaf.parent().unwrap(), parent);
    }
    eprintln!("the delegated user's cell was limited");
}
