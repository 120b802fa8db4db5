//! What a workload finds around itself.

use cellos_core::ports::workload::WorkloadEnd;
use cellos_testkit::require;

use crate::support::run_script;

const ALL_NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

#[tokio::test]
async fn the_kernel_reports_complete_isolation() {
    require!("userns");
    let finished = run_script("exit 3").await;
    let posture = &finished.posture;
    assert_eq!(
        posture.private_namespaces().collect::<Vec<_>>(),
        ALL_NAMESPACES
    );
    for set in [
        &posture.cap_inh,
        &posture.cap_prm,
        &posture.cap_eff,
        &posture.cap_bnd,
        &posture.cap_amb,
    ] {
        assert_eq!(set, "0000000000000000");
    }
    assert!(posture.no_new_privs);
    assert_eq!(posture.seccomp_mode, 2);
    assert_ne!(posture.host_uid, 0, "a cell is never root on the host");
    assert_eq!(finished.report.end, WorkloadEnd::Exited { code: 3 });
    assert!(finished.residue.found.is_empty(), "{:?}", finished.residue);
    assert_eq!(
        finished.residue.looked_for,
        ["processes", "cgroups", "mounts"]
    );
}

#[tokio::test]
async fn the_workload_itself_sees_the_same() {
    require!("userns");
    let finished = run_script(
        "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; readlink /proc/self/ns/net",
    )
    .await;
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(
            finished.output.contains(line),
            "{line:?} is missing in {}",
            finished.output
        );
    }
    let network = format!("net:[{}]", finished.posture.namespaces["net"]);
    assert!(
        finished.output.contains(&network),
        "{network} is missing in {}",
        finished.output
    );
}

#[tokio::test]
async fn environment_and_descriptors_are_made_from_nothing() {
    require!("userns");
    let finished =
        run_script("env | grep -v -E '^(_|PWD|SHLVL|OLDPWD)=' | sort; ls /proc/self/fd").await;
    // `ls` has one more open for the folder it lists.
    assert_eq!(
        finished.output,
        "HOME=/work\nPATH=/usr/bin:/bin:/usr/local/bin\n0\n1\n2\n3\n"
    );
}

#[tokio::test]
async fn only_the_cell_is_there() {
    require!("userns");
    let finished = run_script(
        "pwd; ls -A /; ls -A /work /tmp /dev/shm; ls /dev; ls -d /proc/[0-9]* | wc -l; hostname; \
         id -un",
    )
    .await;
    let expected = "/work\n";
    assert!(finished.output.starts_with(expected), "{}", finished.output);
    for absent in [
        "root", "home", "var", "run", "sys", "boot", "opt", "srv", "mnt", "media",
    ] {
        assert!(
            !finished.output.lines().any(|line| line == absent),
            "/{absent} of the host is there: {}",
            finished.output
        );
    }
    for node in [
        "full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero",
    ] {
        assert!(
            finished.output.lines().any(|line| line == node),
            "{node} is missing"
        );
    }
    assert!(
        finished.output.ends_with("cell\ncell\n"),
        "{}",
        finished.output
    );
}

#[tokio::test]
async fn the_system_is_read_only_and_the_cells_own_folders_are_not() {
    require!("userns");
    let finished = run_script(
        "for f in /x /usr/x /etc/passwd /etc/x /dev/x /proc/sys/kernel/hostname /bin/x; do \
           (echo x > $f) 2>/dev/null && echo wrote $f; done; \
         for f in /tmp/x /work/x /dev/shm/x; do (echo x > $f) && echo ok $f; done",
    )
    .await;
    assert_eq!(finished.output, "ok /tmp/x\nok /work/x\nok /dev/shm/x\n");
}

#[tokio::test]
async fn the_network_is_loopback_and_nothing_else() {
    require!("userns");
    let finished = run_script("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
    assert_eq!(finished.output, "lo\n");
}

#[tokio::test]
async fn init_cannot_be_looked_into_or_killed() {
    require!("userns");
    let finished = run_script(
        "cat /proc/1/environ 2>&1; cat /proc/1/maps 2>&1; readlink /proc/1/exe; kill -KILL 1; \
         kill -TERM 1; sleep 0.1; echo alive",
    )
    .await;
    assert!(finished.output.ends_with("alive\n"), "{}", finished.output);
    assert!(!finished.output.contains("PATH="), "{}", finished.output);
    assert!(!finished.output.contains("r-xp"), "{}", finished.output);
    assert_eq!(finished.report.end, WorkloadEnd::Exited { code: 0 });
}

mod as_root {
    use cellos_core::ports::{CellBackend, workload::WorkloadControl};
    use cellos_testkit::require;
    use serde_json::json;

    use crate::support::{backend, document, shell};

    #[tokio::test]
    async fn no_two_live_cells_are_the_same_host_user() {
        require!("userns");
        require!("root");
        let backend = backend();
        let mut users = std::collections::BTreeSet::new();
        let mut handles = Vec::new();
        for number in 0..8 {
            let id = format!("cell-{number}");
            let document = document(&id, &shell("sleep 60"), &json!({}));
            handles.push(backend.create(&document).await.unwrap());
            users.insert(backend.posture(&id).await.unwrap().host_uid);
        }
        assert_eq!(users.len(), handles.len(), "{users:?}");
        assert!(users.iter().all(|user| *user >= 1000), "{users:?}");
        for handle in handles {
            backend.destroy(&handle).await.unwrap();
        }
    }
}
