//! Real machines, wherever QEMU and a bundle are.

use std::{fs, time::Instant};

use cellos_testkit::Ability;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    place::Place,
    plan::{MONITOR_OVERHEAD_BYTES, MachineShape},
    testing::{self, Bundle},
    vmm::MonitorLimits,
};

const MEMORY_MIB: u64 = 256;

/// What a machine and its monitor may use on the host.
const MONITOR_BYTES: u64 = (MEMORY_MIB << 20) + MONITOR_OVERHEAD_BYTES;

/// A booted machine, its place and what it was booted with.
struct Booted {
    machine: Box<dyn Machine>,
    place: Place,
    _run_folder: tempfile::TempDir,
}

async fn boot_with(
    bundle: &Bundle,
    change: impl FnOnce(&mut BootOrder<'_>),
) -> Result<Booted, VmmError> {
    let run_folder = tempfile::tempdir().unwrap();
    let place = Place::make(run_folder.path(), Some("cell")).unwrap();
    let accelerator = Accelerator::Emulation {
        tsc_khz: cellos_isolation::tsc::frequency_khz(),
    };
    let groups = Arc::new(MonitorGroups::new(None)?);
    let rates = RateLimits {
        disk_bytes_per_second: Some(256 << 20),
        ..RateLimits::default()
    };
    let qemu = testing::qemu();
    let driver = QemuDriver::new(&qemu, accelerator, rates, testing::helper(), groups).await;
    let driver = driver?;
    let artifacts = bundle.artifacts(&testing::qemu());
    let mut order = BootOrder {
        name: place.name(),
        shape: MachineShape {
            vcpus: 2,
            memory_mib: MEMORY_MIB,
        },
        artifacts: &artifacts,
        folder: place.folder(),
        record: place.record(),
        limits: MonitorLimits {
            memory_bytes: Ability::Cgroups.probe().ok().map(|()| MONITOR_BYTES),
            cpu_max: None,
        },
        network: None,
        extra_boot_arguments: "",
    };
    change(&mut order);
    let machine = driver.boot(order).await?;
    Ok(Booted {
        machine,
        place,
        _run_folder: run_folder,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_boots_speaks_over_its_bridge_and_leaves_nothing() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let bundle = testing::bundle().unwrap();
    let begun = Instant::now();
    let booted = boot_with(&bundle, |_| ()).await.unwrap();
    let running_after = begun.elapsed();
    let machine = booted.machine;
    let mut bridge = machine.bridge().await.unwrap();
    let mut first = [0; 1];
    tokio::select! {
        read = tokio::time::timeout(Duration::from_secs(60), bridge.read_exact(&mut first)) => {
            read.expect("a first byte").unwrap();
        }
        end = machine.ended() => {
            panic!("{}: {}", super::super::process::describe(end), machine.console_tail());
        }
    }
    let spoke_after = begun.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    let resident = testing::field(&status, "VmRSS");
    println!(
        "QEMU speaks after {running_after:?}, its guest after {spoke_after:?}, RSS {resident}"
    );
    bridge.write_all(b"x").await.unwrap();

    let group = machine.cgroup();
    assert_eq!(machine.remove().await, [""; 0]);
    assert!(!fs::exists(format!("/proc/{}", machine.pid())).unwrap());
    assert!(!group.is_some_and(|group| group.exists()));
    // Beside its record there is nothing in the place, and nothing is left of what that names.
    let noted = booted.place.record().noted();
    assert!(
        noted
            .iter()
            .any(|noted| matches!(noted, Resource::Process { pid, .. } if *pid == machine.pid())),
        "{noted:?}"
    );
    assert_eq!(booted.place.remove(), [""; 0]);
    // Again, and after that everything says that it has ended.
    assert_eq!(machine.remove().await, [""; 0]);
    assert!(machine.bridge().await.is_err());
}

#[tokio::test]
async fn a_guest_that_panics_ends_its_monitor_at_once() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let bundle = testing::bundle().unwrap();
    let booted = boot_with(&bundle, |order| {
        order.extra_boot_arguments = "rdinit=/no-such-init"
    });
    // Its place has to stay: dropping that kills what its record names.
    let booted = booted.await.unwrap();
    let machine = booted.machine;
    let end = tokio::time::timeout(Duration::from_secs(60), machine.ended())
        .await
        .unwrap();
    let console = machine.console_tail();
    // A panic is an orderly end for QEMU: its code alone says nothing.
    assert!(end.0.unwrap().success(), "{console}");
    assert!(console.contains("Kernel panic - not syncing"), "{console}");
    assert_eq!(machine.remove().await, [""; 0]);
}

#[tokio::test]
async fn a_monitor_is_confined_before_its_guest_runs() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let booted = boot_with(&testing::bundle().unwrap(), |_| ())
        .await
        .unwrap();
    let machine = booted.machine;
    let process = PathBuf::from(format!("/proc/{}", machine.pid()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    for (field, value) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        // QEMU's own filter.
        ("Seccomp", "2"),
    ] {
        assert_eq!(testing::field(&status, field), value, "{field}");
    }
    if rustix::process::geteuid().is_root() {
        assert!(!testing::field(&status, "Uid").starts_with("0\t"));
        let network = fs::read_link(process.join("ns/net")).unwrap();
        assert_ne!(network, fs::read_link("/proc/self/ns/net").unwrap());
        let command = fs::read_to_string(process.join("cmdline")).unwrap();
        let folder = booted.place.folder().to_str().unwrap();
        assert!(!command.contains(folder), "{command}");
    }
    assert_eq!(machine.remove().await, [""; 0]);
}

#[tokio::test]
async fn dropping_a_machine_kills_its_monitor() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let booted = boot_with(&testing::bundle().unwrap(), |_| ())
        .await
        .unwrap();
    let process = format!("/proc/{}", booted.machine.pid());
    let group = booted.machine.cgroup();
    // Not its place, which would kill it too.
    drop(booted.machine);
    let gone = async {
        while fs::exists(&process).unwrap() || group.as_ref().is_some_and(|group| group.exists()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_qemu_that_refuses_its_machine_is_an_error_in_its_words() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let too_many = |order: &mut BootOrder<'_>| order.shape.vcpus = 100_000;
    let refused = boot_with(&testing::bundle().unwrap(), too_many).await;
    let error = refused.err().unwrap();
    assert!(matches!(error, VmmError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("CPUs"), "{error}");
}

#[tokio::test]
async fn what_is_not_qemu_is_unusable_by_its_name() {
    for program in ["/bin/true", "/no/such/qemu"] {
        let driver = QemuDriver::new(
            Path::new(program),
            Accelerator::Kvm,
            RateLimits::default(),
            testing::helper(),
            Arc::new(MonitorGroups::new(None).unwrap()),
        );
        let error = driver.await.unwrap_err();
        assert!(matches!(error, VmmError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains(program), "{error}");
    }
}

async fn trial_with(accelerator: Accelerator, bound: Duration) -> Result<(), String> {
    let groups = Arc::new(MonitorGroups::new(None).unwrap());
    let qemu = testing::qemu();
    let rates = RateLimits::default();
    let driver = QemuDriver::new(&qemu, accelerator, rates, testing::helper(), groups).await;
    let run_folder = tempfile::tempdir().unwrap();
    let place = Place::make(run_folder.path(), None).unwrap();
    let mut artifacts = testing::bundle().unwrap().artifacts(&qemu);
    artifacts.initrd = None;
    let order = BootOrder {
        name: place.name(),
        shape: TRIAL_SHAPE,
        artifacts: &artifacts,
        folder: place.folder(),
        record: place.record(),
        limits: MonitorLimits::default(),
        network: None,
        extra_boot_arguments: "",
    };
    kvm::trial(&driver.unwrap(), order, bound).await
}

/// A trial that no accelerator can pass would say nothing about KVM.
#[tokio::test]
async fn a_trial_is_passed_by_what_runs_guests() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let tsc_khz = cellos_isolation::tsc::frequency_khz();
    assert_eq!(
        trial_with(Accelerator::Emulation { tsc_khz }, Duration::from_secs(60)).await,
        Ok(())
    );
}

#[tokio::test]
async fn a_trial_and_a_glance_agree_where_kvm_cannot_run_guests() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("kvm");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let tried = trial_with(Accelerator::Kvm, kvm::TRIAL_BOUND).await;
    // Whatever came of it came of a guest, not of a monitor that did not start.
    let refused = tried.as_ref().err().cloned().unwrap_or_default();
    assert!(!refused.contains("during boot"), "{refused}");
    match KvmVerdict::at_a_glance() {
        KvmVerdict::OpensButCannotRunGuests { .. } => assert!(tried.is_err()),
        verdict => assert_eq!(verdict, KvmVerdict::Untried),
    }
}

#[tokio::test]
async fn the_best_accelerator_is_emulation_where_kvm_was_not_seen_to_work() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::can_boot());
    let run_folder = tempfile::tempdir().unwrap();
    let place = Place::make(run_folder.path(), None).unwrap();
    let qemu = testing::qemu();
    let artifacts = testing::bundle().unwrap().artifacts(&qemu);
    let open = |accelerators| {
        let config = QemuConfig {
            program: qemu.clone(),
            accelerators,
        };
        let groups = Arc::new(MonitorGroups::new(None).unwrap());
        let trial = Trial {
            artifacts: &artifacts,
            name: place.name(),
            folder: place.folder(),
            record: place.record(),
        };
        async move {
            let rates = RateLimits::default();
            QemuDriver::open(&config, rates, testing::helper(), groups, trial).await
        }
    };
    let best = open(Accelerators::Best).await.unwrap().facts();
    assert_eq!(best.name, "qemu");
    assert!(
        best.version.starts_with(|c: char| c.is_ascii_digit()),
        "{best:?}"
    );
    match open(Accelerators::KvmOnly).await {
        Ok(driver) => assert_eq!(
            (driver.facts(), best.execution),
            (best.clone(), GuestExecution::Kvm)
        ),
        Err(error) => {
            assert!(matches!(error, VmmError::Unusable { .. }), "{error}");
            assert_eq!(best.execution, GuestExecution::Emulated);
        }
    }
    let emulated = open(Accelerators::Emulation).await.unwrap().facts();
    assert_eq!(emulated.execution, GuestExecution::Emulated);
}

mod as_root {
    use super::*;

    #[tokio::test]
    async fn a_kernel_that_only_root_may_read_is_refused_with_what_mends_it() {
        cellos_testkit::require!("root");
        cellos_testkit::require!("qemu");
        let place = tempfile::tempdir().unwrap();
        for name in ["kernel", "initrd", "base"] {
            let path = place.path().join(name);
            fs::write(&path, "no kernel").unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
        }
        let refused = boot_with(&Bundle::at(place.path()), |_| ())
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, VmmError::Unusable { .. }), "{refused}");
        assert!(refused.to_string().contains("chmod a+r"), "{refused}");
    }
}
