//! Nothing is left behind, and what a dead run left is found.

use super::*;

#[test]
fn leaves_of_a_dead_run_are_found_and_removed_with_their_processes() {
    let Some(host) = host_with(&[Controller::Pids]) else {
        return;
    };
    let mut creator = Command::new("sleep").arg("60").spawn().unwrap();
    let limits = Limits {
        pids_max: Some(9),
        ..Limits::default()
    };
    let name = fresh_name(&Creator::of(creator.id()).unwrap());
    let group = Guard(Arc::new(host.create(&name, &limits).unwrap()));
    let paths: Vec<PathBuf> = group.0.paths().map(Path::to_owned).collect();
    let mut orphan = start(&group, Command::new("sleep").arg("60"));

    let alive = remove_stale(&paths);
    assert!(
        alive.removed.is_empty() && alive.left.len() == 1,
        "{alive:?}"
    );
    assert!(!host.find_stale().unwrap().contains(&paths[0]));

    creator.kill().unwrap();
    creator.wait().unwrap();
    assert!(host.find_stale().unwrap().contains(&paths[0]));
    let report = remove_stale(&paths);
    assert_eq!(report.removed, paths);
    assert!(report.left.is_empty(), "{report:?}");
    assert!(!orphan.wait().unwrap().success());
    let again = remove_stale(&paths);
    assert!(
        again.removed.is_empty() && again.left.is_empty(),
        "{again:?}"
    );
}

#[test]
fn what_is_not_a_leaf_is_never_removed() {
    let ordinary = tempfile::tempdir().unwrap();
    let name = fresh_name(&Creator::current().unwrap());
    let directory = ordinary.path().join(name);
    fs::create_dir(&directory).unwrap();
    for path in [
        directory.as_path(),
        Path::new("/sys/fs/cgroup"),
        Path::new("/"),
    ] {
        let report = remove_stale([path]);
        let (_, error) = &report.left[0];
        assert!(matches!(error, CgroupError::NotALeaf { .. }), "{error}");
    }
    assert!(directory.is_dir());
}

#[test]
fn two_hundred_cells_leave_no_directory_and_no_descriptor() {
    let Some(host) = host_with(&[Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        pids_max: Some(9),
        ..Limits::default()
    };
    let mut paths = Vec::new();
    for _ in 0..200 {
        let group = create(&host, &limits);
        assert!(
            start(&group, &mut Command::new("true"))
                .wait()
                .unwrap()
                .success()
        );
        group.0.remove().unwrap();
        paths.extend(group.0.paths().map(Path::to_owned));
    }
    assert!(paths.iter().all(|path| !path.exists()));
    // Other tests of this process hold descriptors of their own leaves, never of these.
    let held = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    let open: Vec<PathBuf> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| held(entry.unwrap()))
        .collect();
    assert!(
        paths
            .iter()
            .all(|path| !open.iter().any(|o| o.starts_with(path)))
    );
}
