//! Machines that boot.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time,
};

use super::{
    host::{FIRST_ID, Host, Kind, PATIENCE, Programs, SHAPE, is_there, report},
    needs,
};
use crate::{
    config::{BootFiles, RateLimits},
    leftovers::{self, Which},
    place::Place,
    vmm::{Driver as _, MonitorLimits, Parking},
};
use cellos_core::ports::workload::GuestExecution;

mod as_root {
    use super::*;

    #[tokio::test]
    async fn a_jailed_machine_boots_with_what_was_measured_and_leaves_nothing() {
        needs!(Jailed);
        let host = Host::with(Kind::Jailed, Programs::Fake, json!({}), |config| {
            config.rates = RateLimits {
                disk_bytes_per_second: Some(1 << 20),
                ..RateLimits::default()
            };
        });
        assert_eq!(host.driver.facts().execution, GuestExecution::Fake);
        assert_eq!(host.driver.parking(), Parking::Snapshot);
        let machine = host.boot("m1").await.unwrap();
        let (mut stream, found) = report(&*machine).await;
        let line = found["command_line"].as_str().unwrap();
        assert!(
            line.contains("cellos.bridge=vsock:9010 test.words=1"),
            "{line}"
        );
        assert!(line.contains("8250.nr_uarts=0"), "{line}");

        // What the monitor has: paths in its jail, and no file that it may change.
        let seen = configuration(&host, "m1").await;
        assert_eq!(seen["machine-config"]["vcpu_count"], SHAPE.vcpus);
        assert_eq!(seen["machine-config"]["mem_size_mib"], SHAPE.memory_mib);
        assert_eq!(seen["boot-source"]["kernel_image_path"], "/kernel");
        assert_eq!(seen["boot-source"]["initrd_path"], "/initrd");
        assert_eq!(seen["vsock"], json!({ "guest_cid": 3, "uds_path": "/v" }));
        let drive = &seen["drives"][0];
        assert_eq!(drive["path_on_host"], "/rootfs");
        assert_eq!(drive["is_read_only"], true);
        assert_eq!(
            drive["rate_limiter"]["bandwidth"],
            json!({ "size": 1 << 20, "refill_time": 1000 })
        );
        assert_eq!(seen["drives"].as_array().unwrap().len(), 1);
        for (name, artifact) in [
            ("kernel", &host.artifacts.kernel),
            ("rootfs", &host.artifacts.base),
        ] {
            let staged = fs::File::open(host.root("m1").join(name)).unwrap();
            let metadata = staged.metadata().unwrap();
            assert_eq!(
                super::super::super::stage::digest(&staged).unwrap(),
                artifact.sha256
            );
            assert_eq!((metadata.uid(), metadata.mode() & 0o022), (0, 0), "{name}");
        }
        assert_eq!(
            fs::metadata(host.root("m1").join("v_9010")).unwrap().uid(),
            FIRST_ID
        );

        // The process is the monitor, in its jail, as its user, alone with its network.
        let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
        let uids = status
            .lines()
            .find(|line| line.starts_with("Uid:"))
            .unwrap();
        assert_eq!(
            uids.split_whitespace().nth(1).unwrap(),
            FIRST_ID.to_string()
        );
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let environment = fs::read(format!("/proc/{}/environ", machine.pid())).unwrap();
        assert!(environment.is_empty());
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_ne!(network(&machine.pid().to_string()), network("self"));

        // The guest resets.
        stream.write_all(b"!").await.unwrap();
        let end = time::timeout(PATIENCE, machine.ended()).await.unwrap();
        assert_eq!(end.0.unwrap().code(), Some(0));
        machine.bridge().await.unwrap_err();
        assert_eq!(machine.remove().await, Vec::<String>::new());
        assert_eq!(machine.remove().await, Vec::<String>::new());
        host.assert_clean("m1");
    }

    #[tokio::test]
    async fn every_live_machine_has_its_own_user() {
        needs!(Jailed);
        let host = Host::new(Kind::Jailed, Programs::Fake, json!({}));
        let machines = [
            host.boot("m1").await.unwrap(),
            host.boot("m2").await.unwrap(),
        ];
        let owner = |name| fs::metadata(host.root(name)).unwrap().uid();
        assert_ne!(owner("m1"), owner("m2"));
        assert!(
            host.boot_named("m1").await.is_err(),
            "a name was used twice"
        );
        for machine in machines {
            assert!(is_there(machine.pid()));
            assert_eq!(machine.remove().await, Vec::<String>::new());
            assert!(!is_there(machine.pid()));
        }
        host.assert_clean("m1");
        host.assert_clean("m2");
    }

    #[tokio::test]
    async fn a_killed_monitor_is_noticed_at_once() {
        needs!(Jailed);
        for kind in [Kind::Jailed, Kind::Unjailed] {
            let host = Host::new(kind, Programs::Fake, json!({}));
            let machine = host.boot("m1").await.unwrap();
            let (_stream, _) = report(&*machine).await;
            let pid = rustix::process::Pid::from_raw(machine.pid().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let end = time::timeout(Duration::from_millis(500), machine.ended())
                .await
                .unwrap();
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(end.0.unwrap().signal(), Some(9), "{kind:?}");
            let waiting = machine.bridge().await.unwrap_err().to_string();
            assert!(waiting.contains("signal 9"), "{waiting}");
            assert_eq!(machine.remove().await, Vec::<String>::new());
            host.assert_clean("m1");
        }
    }

    #[tokio::test]
    async fn dropping_a_machine_kills_its_monitor() {
        needs!(Jailed);
        let host = Host::new(Kind::Jailed, Programs::Fake, json!({}));
        let machine = host.boot("m1").await.unwrap();
        let pid = machine.pid();
        drop(machine);
        let start = time::Instant::now();
        while is_there(pid) {
            assert!(start.elapsed() < PATIENCE);
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The test executes itself: with this variable it is the supervisor that is killed.
    const SUPERVISED: &str = "CELLOS_TEST_KILLED_SUPERVISOR";

    /// When a supervisor is killed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    enum Moment {
        /// Its monitor waits for calls that do not come to an end.
        Booting,
        /// Its machine runs.
        Running,
    }

    #[tokio::test]
    async fn nothing_outlives_a_supervisor_that_is_killed_and_what_it_leaves_is_undone() {
        needs!(Jailed);
        if let Some(order) = std::env::var_os(SUPERVISED) {
            let order = order.into_string().unwrap();
            return supervise(&serde_json::from_str(&order).unwrap()).await;
        }
        for (kind, moment) in [
            (Kind::Jailed, Moment::Booting),
            (Kind::Jailed, Moment::Running),
            (Kind::Unjailed, Moment::Running),
        ] {
            killed(kind, moment, cellos_testkit::test_name!()).await;
        }
    }

    /// Boots a machine in a place and waits to be killed.
    async fn supervise(order: &Value) {
        let kind = match order["jailed"].as_bool() {
            Some(true) => Kind::Jailed,
            _ => Kind::Unjailed,
        };
        let settings = match serde_json::from_value(order["moment"].clone()).unwrap() {
            Moment::Booting => {
                json!({ "calls": [{ "call": "PUT /boot-source", "then": "never-answer" }] })
            }
            Moment::Running => json!({}),
        };
        let host = Host::new(kind, Programs::Fake, settings);
        let tell = |name: &str, text: &str| {
            let place = std::path::Path::new(order["place"].as_str().unwrap());
            fs::write(place.join("new"), text).unwrap();
            fs::rename(place.join("new"), place.join(name)).unwrap();
        };
        tell("run", host.folder.path().to_str().unwrap());
        let place = Place::make(host.folder.path(), Some("cell")).unwrap();
        let machine = host.boot_in(&place).await.unwrap();
        let (_stream, _) = report(&*machine).await;
        tell("booted", &machine.pid().to_string());
        std::future::pending::<()>().await;
    }

    async fn killed(kind: Kind, moment: Moment, test: &str) {
        let said = tempfile::tempdir().unwrap();
        let order = json!({
            "place": said.path(), "jailed": kind == Kind::Jailed, "moment": moment,
        });
        let mut supervisor = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SUPERVISED, order.to_string())
            .spawn()
            .unwrap();
        let hear = |name: &str| fs::read_to_string(said.path().join(name)).ok();
        let run = std::path::PathBuf::from(eventually(|| hear("run")).await);
        if moment == Moment::Running {
            eventually(|| hear("booted")).await;
        }
        // What is noted is there, and whatever is there was noted.
        let noted = eventually(|| noted(&run)).await;
        let process = noted
            .iter()
            .find_map(|noted| noted["process"]["pid"].as_u64());
        let Some(pid) = process.and_then(|pid| u32::try_from(pid).ok()) else {
            panic!("{kind:?} {moment:?}: no process in {noted:?}");
        };
        assert!(is_there(pid));
        let jails: Vec<_> = noted
            .iter()
            .filter_map(|noted| noted["folder"]["path"].as_str())
            .collect();
        assert_eq!(jails.len(), usize::from(kind == Kind::Jailed), "{noted:?}");
        assert!(jails.iter().all(|jail| fs::exists(jail).unwrap()));
        let pool = || super::super::super::ids::IdPool::new(&run, FIRST_ID, 1).unwrap();
        if kind == Kind::Jailed {
            pool().lease().unwrap_err();
        }
        assert!(leftovers::remove(&run, Which::All).unwrap().is_empty());
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        eventually(|| (!is_there(pid)).then_some(())).await;
        // The lease's lock went with the last process that could run under the id.
        eventually(|| pool().lease().ok()).await;
        let removed = leftovers::remove(&run, Which::OfCell("cell")).unwrap();
        assert!(removed.len() > jails.len(), "{removed:?}");
        assert!(leftovers::remove(&run, Which::All).unwrap().is_empty());
        assert!(!jails.iter().any(|jail| fs::exists(jail).unwrap()));
        let groups = noted
            .iter()
            .filter_map(|noted| noted["controlGroup"]["path"].as_str());
        for group in groups {
            assert!(!fs::exists(group).unwrap(), "{group} is still there");
        }
        assert!(place_of(&run).is_none());
        fs::remove_dir_all(run).unwrap();
    }

    /// The folder of the only place below a run folder.
    fn place_of(run: &std::path::Path) -> Option<std::path::PathBuf> {
        let entries = fs::read_dir(run).ok()?.flatten();
        let mut folders = entries.map(|entry| entry.path().join("machine.jsonl"));
        folders.find(|record| record.is_file())
    }

    /// What its record names, once the monitor's process is among that.
    fn noted(run: &std::path::Path) -> Option<Vec<Value>> {
        let text = fs::read_to_string(place_of(run)?).ok()?;
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let noted: Vec<Value> = lines
            .map(|told| told["has"].clone())
            .filter(|has| !has.is_null())
            .collect();
        let complete = noted.iter().any(|noted| !noted["process"].is_null());
        complete.then_some(noted)
    }

    async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let start = time::Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE);
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn limits_hold_the_monitor_from_its_first_instruction() {
        needs!(Jailed);
        cellos_testkit::require!("cgroups");
        let host = Host::new(Kind::Jailed, Programs::Fake, json!({}));
        let limits = MonitorLimits {
            memory_bytes: Some(256 << 20),
            cpu_max: None,
        };
        let machine = host.boot_within("m1", limits).await.unwrap();
        let group = machine.cgroup().unwrap();
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let pid = machine.pid().to_string();
        assert!(members.lines().any(|member| member == pid), "{members:?}");
        assert_eq!(machine.remove().await, Vec::<String>::new());
        assert!(!group.exists());
    }

    #[tokio::test]
    async fn a_published_guest_has_no_initial_ram_disk_and_its_own_port() {
        needs!(Jailed);
        let host = Host::with(Kind::Jailed, Programs::Fake, json!({}), |config| {
            config.boot = BootFiles::Published {
                kernel: "/k".into(),
                rootfs: "/r".into(),
                manifest: None,
            };
        });
        assert_eq!(host.driver.parking(), Parking::Live);
        let machine = host.boot("m1").await.unwrap();
        let (_stream, found) = report(&*machine).await;
        let line = found["command_line"].as_str().unwrap();
        assert!(line.contains("root=/dev/vda ro test.words=1"), "{line}");
        assert!(!line.contains("cellos.bridge"), "{line}");
        let seen = configuration(&host, "m1").await;
        assert_eq!(seen["boot-source"].get("initrd_path"), None);
        assert!(host.root("m1").join("v_9000").exists());
        assert_eq!(machine.remove().await, Vec::<String>::new());
        host.assert_clean("m1");
    }
}

#[tokio::test]
async fn a_machine_without_a_jail_boots_in_its_folder() {
    needs!(Unjailed);
    let host = Host::new(Kind::Unjailed, Programs::Fake, json!({}));
    let machine = host.boot("m1").await.unwrap();
    let (_stream, found) = report(&*machine).await;
    assert_eq!(found["boot"], "cold");
    let seen = configuration(&host, "m1").await;
    assert_eq!(seen["boot-source"]["kernel_image_path"], "kernel");
    assert!(
        machine.console_tail().contains("the guest's console"),
        "{}",
        machine.console_tail()
    );
    assert_eq!(machine.remove().await, Vec::<String>::new());
    host.assert_clean("m1");
}

/// The monitor's whole configuration, in its own words.
async fn configuration(host: &Host, name: &str) -> Value {
    let mut stream = UnixStream::connect(host.root(name).join("a"))
        .await
        .unwrap();
    stream
        .write_all(b"GET /vm/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}
