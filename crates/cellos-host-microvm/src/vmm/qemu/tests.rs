//! Real machines, wherever QEMU and a bundle are.

use std::{fs, time::Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    plan::MachineShape,
    testing::{self, Bundle},
    vmm::MonitorLimits,
};

const MEMORY_MIB: u64 = 256;

/// A booted machine, its place and what it was booted with.
struct Booted {
    machine: Box<dyn Machine>,
    folder: tempfile::TempDir,
}

async fn boot_with(
    bundle: &Bundle,
    change: impl FnOnce(&mut BootOrder<'_>),
) -> Result<Booted, VmmError> {
    let folder = tempfile::tempdir().unwrap();
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
        name: "test1",
        shape: MachineShape {
            vcpus: 2,
            memory_mib: MEMORY_MIB,
        },
        artifacts: &artifacts,
        folder: folder.path(),
        limits: MonitorLimits::default(),
        extra_boot_arguments: "",
    };
    change(&mut order);
    let machine = driver.boot(order).await?;
    Ok(Booted { machine, folder })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_boots_speaks_over_its_bridge_and_leaves_nothing() {
    cellos_testkit::require!("qemu");
    cellos_testkit::require!("vm-bundle", testing::bundle().map(drop));
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
    assert_eq!(fs::read_dir(booted.folder.path()).unwrap().count(), 0);
    // Again, and after that everything says that it has ended.
    assert_eq!(machine.remove().await, [""; 0]);
    assert!(machine.bridge().await.is_err());
}
