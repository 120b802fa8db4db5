//! What goes wrong, at every step: the reason is named and nothing is left.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::time;

use super::{
    host::{FIRST_ID, Host, Kind, PATIENCE, Programs, artifact, names},
    needs,
};
use crate::vmm::{MonitorLimits, VmmError, firecracker::ids::IdPool};

/// The calls of a boot, in the contract's order.
const CALLS: [&str; 5] = [
    "PUT /machine-config",
    "PUT /boot-source",
    "PUT /drives/rootfs",
    "PUT /vsock",
    "PUT /actions InstanceStart",
];

/// The calls before it are answered; the next has to be this one, and goes wrong.
fn fault(place: usize, then: Value) -> Value {
    json!({ "calls": [
        { "call": "*", "times": place },
        { "call": CALLS[place], "then": then },
    ] })
}

mod as_root {
    use super::*;

    #[tokio::test]
    async fn calls_come_in_the_contracts_order_and_a_refused_one_leaves_nothing() {
        needs!(Jailed);
        for kind in [Kind::Jailed, Kind::Unjailed] {
            for (place, call) in CALLS.into_iter().enumerate() {
                let words = format!("not {place}");
                let error = json!({ "error": { "status": 400, "message": words } });
                let host = Host::new(kind, Programs::Fake, fault(place, error));
                let refused = host.boot("m1").await.err().unwrap().to_string();
                let request = call.trim_end_matches(" InstanceStart");
                assert_eq!(
                    refused,
                    format!("firecracker refused {request}: HTTP 400: {words}"),
                    "{kind:?}"
                );
                host.assert_clean("m1");
            }
        }
    }

    #[tokio::test]
    async fn a_monitor_that_ends_in_a_call_is_named_with_its_code() {
        needs!(Jailed);
        for place in [0, 4] {
            let host = Host::new(
                Kind::Jailed,
                Programs::Fake,
                fault(place, json!({ "end": { "exit": 148 } })),
            );
            let error = host.boot("m1").await.err().unwrap();
            assert!(matches!(error, VmmError::Ended { .. }), "{error}");
            assert!(error.to_string().contains("seccomp"), "{error}");
            host.assert_clean("m1");
        }
    }

    #[tokio::test]
    async fn a_silent_monitor_ends_at_the_bound_and_leaves_nothing() {
        needs!(Jailed);
        let host = Host::new(
            Kind::Jailed,
            Programs::Fake,
            fault(1, json!("never-answer")),
        );
        let error = host.boot("m1").await.err().unwrap();
        assert!(matches!(error, VmmError::Timeout { .. }), "{error}");
        host.assert_clean("m1");
    }

    #[tokio::test]
    async fn a_dropped_connection_is_an_error_and_leaves_nothing() {
        needs!(Jailed);
        for then in ["drop", "drop-after"] {
            let host = Host::new(Kind::Jailed, Programs::Fake, fault(2, json!(then)));
            let error = host.boot("m1").await.err().unwrap();
            assert!(matches!(error, VmmError::Unreadable { .. }), "{error}");
            host.assert_clean("m1");
        }
    }

    #[tokio::test]
    async fn a_jailer_that_dies_is_noticed_within_100_ms_with_its_words() {
        needs!(Jailed);
        let mut host = Host::new(Kind::Jailed, Programs::RealIfNamed, json!({}));
        // Refused by the jailer alone: not a program.
        let nonsense = host.folder.path().join("nonsense");
        fs::write(&nonsense, "not a program").unwrap();
        host.artifacts.monitor = artifact(&nonsense);
        // Of several attempts, since other tests take the processors too; it is 10 s where nobody
        // looks.
        let mut best = Duration::MAX;
        for name in ["m1", "m2", "m3", "m4", "m5"] {
            let begun = time::Instant::now();
            let error = host.boot(name).await.err().unwrap();
            best = best.min(begun.elapsed());
            assert!(
                matches!(&error, VmmError::Ended { said, .. } if !said.is_empty()),
                "{error}"
            );
            assert_eq!(names(&host.machine_folder(name)), Vec::<String>::new());
            host.assert_clean(name);
        }
        assert!(best < Duration::from_millis(100), "{best:?}");
    }

    #[tokio::test]
    async fn a_monitor_that_dies_before_it_listens_is_noticed_with_its_words() {
        needs!(Jailed);
        for kind in [Kind::Jailed, Kind::Unjailed] {
            let host = Host::new(
                kind,
                Programs::Fake,
                json!({ "launch": { "stderr": "last words", "end": { "exit": 153 } } }),
            );
            let error = host.boot("m1").await.err().unwrap().to_string();
            assert!(
                error.contains("last words") && error.contains("153"),
                "{error}"
            );
            host.assert_clean("m1");
        }
    }

    #[tokio::test]
    async fn a_slow_monitor_is_waited_for() {
        needs!(Jailed);
        let host = Host::new(
            Kind::Jailed,
            Programs::Fake,
            json!({ "launch": { "delay_ms": 300 } }),
        );
        let machine = host.boot("m1").await.unwrap();
        assert_eq!(machine.remove().await, Vec::<String>::new());
        host.assert_clean("m1");
    }

    #[tokio::test]
    async fn a_file_that_changed_since_it_was_measured_is_not_booted() {
        needs!(Jailed);
        use std::os::unix::fs::PermissionsExt as _;
        let host = Host::new(Kind::Jailed, Programs::RealIfNamed, json!({}));
        let path = &host.artifacts.base.path;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        fs::write(path, "another").unwrap();
        let error = host.boot("m1").await.err().unwrap().to_string();
        assert!(error.contains("not what was measured"), "{error}");
        host.assert_clean("m1");
    }

    #[tokio::test]
    async fn a_real_refusal_leaves_nothing_either() {
        needs!(Jailed);
        // The stand-in takes any kernel, so it is told to refuse; a real one looks at it.
        let error = json!({ "error": { "status": 400, "message": "no kernel" } });
        let host = Host::new(Kind::Jailed, Programs::RealIfNamed, fault(4, error));
        let error = host.boot("m1").await.err().unwrap();
        assert!(matches!(error, VmmError::Refused { .. }), "{error}");
        host.assert_clean("m1");
    }

    #[tokio::test]
    async fn what_does_not_fit_a_machine_is_refused_before_anything_is_made() {
        needs!(Jailed);
        let host = Host::new(Kind::Jailed, Programs::RealIfNamed, json!({}));
        for name in ["", "UPPER", "a.b", "../x", "-x", "abcdefghijklmnopqrstu"] {
            let error = host.boot_named(name).await.err().unwrap();
            assert!(
                matches!(error, VmmError::Unusable { .. }),
                "{name}: {error}"
            );
        }
        assert_eq!(names(&host.jails()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn steps_on_the_host_that_fail_leave_nothing() {
        needs!(Jailed);
        use crate::config::{DriverChoice, Jail};
        let mut host = Host::with(Kind::Jailed, Programs::RealIfNamed, json!({}), |config| {
            let DriverChoice::Firecracker(settings) = &mut config.driver else {
                unreachable!();
            };
            if let Jail::Jailer { ids, .. } = &mut settings.jail {
                *ids = 1;
            }
        });
        // No limit that a kernel takes.
        let limits = MonitorLimits {
            memory_bytes: Some(1),
            cpu_max: None,
        };
        let error = host.boot_within("m1", limits).await.err().unwrap();
        assert!(error.to_string().contains("control group"), "{error}");
        host.assert_clean("m1");
        // A name that is taken.
        let taken = host.jails().join("m2");
        fs::create_dir(&taken).unwrap();
        let error = host.boot("m2").await.err().unwrap().to_string();
        assert!(error.contains("make the jail m2"), "{error}");
        fs::remove_dir(taken).unwrap();
        host.assert_clean("m2");
        // A jailer that is no program.
        let nonsense = host.folder.path().join("nonsense");
        fs::write(&nonsense, "no program").unwrap();
        let jailer = host.artifacts.jailer.replace(artifact(&nonsense));
        let error = host.boot("m3").await.err().unwrap().to_string();
        assert!(error.contains("start firecracker"), "{error}");
        host.assert_clean("m3");
        host.artifacts.jailer = jailer;
        // The only id was given back each time, and is taken now.
        let begun = time::Instant::now();
        let pool = IdPool::new(host.folder.path(), FIRST_ID, 1).unwrap();
        // Another test's process may have a copy of the lock for a moment, between fork and exec.
        let lease = loop {
            match pool.lease() {
                Ok(lease) => break lease,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            time::sleep(Duration::from_millis(1)).await;
        };
        let error = host.boot("m4").await.err().unwrap().to_string();
        assert!(error.contains("larger pool"), "{error}");
        drop(lease);
        host.assert_clean("m4");
    }

    #[tokio::test]
    async fn many_machines_leave_no_descriptor_and_no_thread() {
        needs!(Jailed);
        let host = Host::new(Kind::Jailed, Programs::Fake, json!({}));
        let refusing = Host::new(
            Kind::Jailed,
            Programs::Fake,
            fault(4, json!({ "error": { "status": 400, "message": "no" } })),
        );
        let count = |what: &str| names(Path::new("/proc/self").join(what).as_path()).len();
        let mut before = (0, 0);
        for cycle in 0..25 {
            let name = format!("m{cycle}");
            let machine = host.boot(&name).await.unwrap();
            assert_eq!(machine.remove().await, Vec::<String>::new());
            drop(machine);
            refusing.boot(&name).await.err().unwrap();
            // Aborted tasks go when the runtime comes to them.
            time::sleep(Duration::from_millis(5)).await;
            if cycle == 4 {
                before = (count("fd"), count("task"));
            }
        }
        time::sleep(Duration::from_millis(50)).await;
        let after = (count("fd"), count("task"));
        assert!(
            after.0 <= before.0 && after.1 <= before.1 + 1,
            "{before:?} {after:?}"
        );
        host.assert_clean("m0");
        refusing.assert_clean("m0");
    }

    #[tokio::test]
    async fn a_folder_for_jails_that_others_may_write_is_refused() {
        needs!(Jailed);
        use std::os::unix::fs::PermissionsExt as _;
        let host = Host::new(Kind::Jailed, Programs::RealIfNamed, json!({}));
        let jails = host.folder.path().join("jails");
        fs::set_permissions(&jails, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Host::driver(&host.config, &host.artifacts)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("others than root may write"), "{refused}");
        let elsewhere = host.folder.path().join("elsewhere");
        fs::rename(&jails, &elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &jails).unwrap();
        let refused = Host::driver(&host.config, &host.artifacts)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
    }
}
