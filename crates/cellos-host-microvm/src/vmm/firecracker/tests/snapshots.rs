//! Machines that are parked in files.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use serde_json::json;

use super::{
    host::{Host, Kind, Programs, is_there, report},
    needs,
};

mod as_root {
    use super::*;

    #[tokio::test]
    async fn a_parked_machine_is_restored_many_times_and_dials_again() {
        needs!(Jailed);
        for kind in [Kind::Jailed, Kind::Unjailed] {
            let host = Host::new(kind, Programs::Fake, json!({}));
            let parked = host.boot("m1").await.unwrap();
            let (_stream, _) = report(&*parked).await;
            let snapshot = parked.snapshot().await.unwrap();
            assert!(!is_there(parked.pid()));
            // The files are all that is left, while the machine is still somebody's.
            host.assert_clean("m1");
            assert_eq!(parked.remove().await, Vec::<String>::new());
            host.assert_clean("m1");
            for path in [&snapshot.state, &snapshot.memory] {
                let metadata = fs::metadata(path).unwrap();
                assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o444));
            }
            let restored = [
                host.restore("m2", &snapshot).await.unwrap(),
                host.restore("m3", &snapshot).await.unwrap(),
            ];
            for machine in &restored {
                let (_stream, found) = report(&**machine).await;
                assert_eq!(found["boot"], "restored", "{kind:?}");
            }
            for (machine, name) in restored.iter().zip(["m2", "m3"]) {
                assert_eq!(machine.remove().await, Vec::<String>::new());
                assert!(!host.root(name).join("rootfs").exists());
            }
            host.assert_clean("m3");
            assert!(snapshot.memory.exists());
        }
    }

    #[tokio::test]
    async fn an_altered_snapshot_is_not_used() {
        needs!(Jailed);
        let host = Host::new(Kind::Jailed, Programs::Fake, json!({}));
        let parked = host.boot("m1").await.unwrap();
        let (_stream, _) = report(&*parked).await;
        let snapshot = parked.snapshot().await.unwrap();
        parked.remove().await;
        let restored = host.restore("m2", &snapshot).await.unwrap();
        assert_eq!(restored.remove().await, Vec::<String>::new());
        for path in [&snapshot.memory, &snapshot.state] {
            let content = fs::read(path).unwrap();
            let mut altered = content.clone();
            let last = altered.last_mut().unwrap();
            *last ^= 1;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(path, altered).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
            let error = host
                .restore("m3", &snapshot)
                .await
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains("not what was measured"), "{error}");
            host.assert_clean("m3");
            fs::remove_dir_all(host.machine_folder("m3")).unwrap();
            fs::write(path, content).unwrap();
        }
        // A link in its place is no snapshot either.
        let moved = host.folder.path().join("moved");
        fs::rename(&snapshot.memory, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &snapshot.memory).unwrap();
        host.restore("m4", &snapshot).await.err().unwrap();
        host.assert_clean("m4");
    }

    #[tokio::test]
    async fn a_failed_snapshot_or_restore_leaves_nothing() {
        needs!(Jailed);
        let error = json!({ "error": { "status": 400, "message": "no space" } });
        let host = Host::new(
            Kind::Jailed,
            Programs::Fake,
            json!({ "calls": [{ "call": "PUT /snapshot/create", "then": error, "times": 1 },
                              { "call": "PUT /snapshot/load", "then": error }] }),
        );
        let parked = host.boot("m1").await.unwrap();
        let (_stream, _) = report(&*parked).await;
        let refused = parked.snapshot().await.unwrap_err().to_string();
        assert!(refused.contains("no space"), "{refused}");
        // The refusal was for once.
        let snapshot = parked.snapshot().await.unwrap();
        assert_eq!(parked.remove().await, Vec::<String>::new());
        host.assert_clean("m1");
        let refused = host
            .restore("m2", &snapshot)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(refused.contains("PUT /snapshot/load"), "{refused}");
        host.assert_clean("m2");
    }
}
