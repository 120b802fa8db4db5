//! A bundle from Debian's packages, booted in an emulated machine.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cellos_core::{
    signing::{RevokedKids, SoftwareSigner},
    vm_manifest::{ManifestTrust, Unsigned},
};
use cellos_testkit::require;
use cellos_vm_image::{
    BASE_FILE, BaseSource, BundleSpec, Existing, INITRD_FILE, KERNEL_FILE, KernelSource, Progress,
    REQUIRED_MODULES, build_bundle, open_bundle,
};
use tempfile::TempDir;

use crate::support::{keys_of, runs};

/// The program that the emulated machine starts, made static.
fn guest_program(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("guest");
    let source = folder.join("guest.rs");
    fs::write(&source, include_str!("../guest/init.rs")).unwrap();
    let status = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static"])
        .args(["-C", "opt-level=s", "-C", "strip=symbols", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
    program
}

fn debian_packages_can_be_had() -> Result<(), String> {
    let folder = TempDir::new().unwrap();
    let output = Command::new("apt-get")
        .args(["--quiet=2", "download", "busybox-static"])
        .current_dir(folder.path())
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_bundle_from_debian_packages_boots() {
    require!("debian", debian_packages_can_be_had());
    require!("rustc", runs("rustc", &["--version"]));
    require!("qemu", runs("qemu-system-x86_64", &["--version"]));
    let folder = TempDir::new().unwrap();
    let guest = guest_program(folder.path());
    let target = folder.path().join("bundle");
    let signer = SoftwareSigner::from_seed("builder", [7; 32]);
    let mut steps = 0;
    let report = build_bundle(
        &BundleSpec {
            kernel: &KernelSource::Debian,
            base: &BaseSource::Busybox,
            guest_binary: &guest,
            programs: &[],
            signer: Some(&signer),
            existing: Existing::Keep,
        },
        &target,
        &mut |progress: Progress<'_>| {
            eprintln!("{progress:?}");
            steps += 1;
        },
    )
    .unwrap();
    assert!(steps > 5);
    assert_eq!(report.packages.len(), 2);
    for module in REQUIRED_MODULES {
        assert!(report.modules.iter().any(|name| name == module), "{module}");
    }
    let trust = ManifestTrust {
        keys: &keys_of(&signer),
        revoked: &RevokedKids::default(),
        unsigned: Unsigned::Refuse,
    };
    let opened = open_bundle(&target, &trust).unwrap();
    assert_eq!(opened.signer_kid.as_deref(), Some("builder"));
    assert_eq!(opened.files.len(), 3);

    let console = boot(&target);
    for module in &report.modules {
        assert!(
            console.contains(&format!("loaded {module}.ko")),
            "{console}"
        );
    }
    for line in ["in the base", "command exit status: 0", "guest done"] {
        assert!(console.contains(line), "{line}: {console}");
    }
}

/// What the machine prints until it resets.
fn boot(bundle: &Path) -> String {
    let console = bundle.with_file_name("console");
    let drive = format!(
        "id=base,file={},format=raw,if=none,readonly=on",
        bundle.join(BASE_FILE).display()
    );
    let started = std::time::Instant::now();
    let status = Command::new("timeout")
        .args(["--signal=KILL", "60", "qemu-system-x86_64"])
        .args([
            "-M",
            "microvm,x-option-roms=off",
            "-accel",
            "tcg,thread=multi",
        ])
        .args(["-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config"])
        .args(["-nographic", "-no-reboot", "-serial", "stdio"])
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet reboot=t panic=-1 tsc_early_khz={}",
            clock_khz()
        ))
        .arg("-kernel")
        .arg(bundle.join(KERNEL_FILE))
        .arg("-initrd")
        .arg(bundle.join(INITRD_FILE))
        .arg("-drive")
        .arg(drive)
        .args(["-device", "virtio-blk-device,drive=base"])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&console).unwrap())
        .status()
        .unwrap();
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
    eprintln!("boot to exit: {:?}", started.elapsed());
    assert!(status.success(), "{status}: {text}");
    text
}

/// The rate of the time stamp counter, which the emulated processor shares, in kHz.
///
/// On a busy host the guest cannot measure it, takes the counter for broken and then waits forever
/// for ticks.
fn clock_khz() -> u32 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("cpu MHz"))
        .unwrap();
    let (_, mhz) = line.split_once(':').unwrap();
    let (whole, fraction) = mhz.trim().split_once('.').unwrap();
    format!("{whole}{}", &fraction[..3]).parse().unwrap()
}
