//! A real machine: the bundle that the gate makes, booted by QEMU, with this program as its PID 1.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cellos_bridge::{GuestMessage, Hello, Ready};
use cellos_core::ports::workload::{LimitHit, WorkloadEnd};
use cellos_testkit::require;

use crate::host::{Host, PATIENCE, config, shell};

/// Names the bundle that machines boot.
const BUNDLE: &str = "CELLOS_TEST_VM_BUNDLE";

/// Memory of a machine.
pub(crate) const MEMORY: &str = "256M";

pub(crate) fn bundle() -> Result<PathBuf, String> {
    Command::new("qemu-system-x86_64")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
    std::env::var_os(BUNDLE)
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
        .ok_or_else(|| format!("{BUNDLE} names no bundle; cargo xtask test makes one"))
}

/// QEMU with all of a machine but its bridge.
pub(crate) fn qemu(machine: &str, bridge: &str) -> Command {
    let bundle = bundle().unwrap();
    let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
    let mut words = format!("console=ttyS0 quiet reboot=t panic=-1 cellos.bridge={bridge}");
    if let Some(khz) = cellos_isolation::tsc::frequency_khz() {
        // The kernel's own measurement fails where the host is busy.
        words.push_str(&format!(" tsc_early_khz={khz}"));
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", machine, "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-m", MEMORY, "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot"])
        .args(["-kernel", &file("kernel"), "-initrd", &file("initrd")])
        .args(["-append", &words, "-serial", "stdio", "-drive"])
        .arg(format!(
            "id=d,file={},format=raw,if=none,readonly=on",
            file("base")
        ))
        .args(["-device", "virtio-blk-device,drive=d"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A machine whose bridge is a port that leads to a socket in this folder.
fn boot(folder: &Path) -> Child {
    let socket = folder.join("bridge");
    qemu("microvm", "virtio")
        .args(["-device", "virtio-serial-device", "-chardev"])
        .arg(format!(
            "socket,path={},server=on,wait=off,id=b",
            socket.display()
        ))
        .args(["-device", "virtserialport,chardev=b,name=cellos.bridge"])
        .spawn()
        .unwrap()
}

/// The machine's side of a dialogue, once it has said hello.
fn meet(folder: &Path, machine: Child) -> (Host, Hello) {
    let begun = Instant::now();
    let stream = loop {
        match UnixStream::connect(folder.join("bridge")) {
            Ok(stream) => break stream,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    hello(Host::over(stream, machine))
}

pub(crate) fn hello(mut host: Host) -> (Host, Hello) {
    let hello = host.until(|message| match message {
        GuestMessage::Hello(hello) => Some(hello),
        other => panic!("{other:?}"),
    });
    eprintln!("{hello:?}");
    (host, hello)
}

fn until_ready(host: &mut Host) -> Box<Ready> {
    host.until(|message| match message {
        GuestMessage::Ready(ready) => Some(ready),
        GuestMessage::Refused(refused) => panic!("{refused:?}"),
        _ => None,
    })
}

#[test]
fn a_machine_runs_a_cell_and_resets_when_that_is_acknowledged() {
    require!("machines", bundle().map(drop));
    let folder = tempfile::tempdir().unwrap();
    let (mut host, hello) = meet(folder.path(), boot(folder.path()));

    // A host that goes, and another that comes: the machine is as good as new.
    host.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let machine = std::mem::replace(&mut host.guest, Command::new("true").spawn().unwrap());
    drop(host);
    // Until the guest has seen it: a port tells its state, not each change of it.
    std::thread::sleep(Duration::from_millis(500));
    let (host, again) = meet(folder.path(), machine);
    assert_ne!(hello.boot_nonce, again.boot_nonce);
    assert_eq!(hello.kernel_release, again.kernel_release);
    runs_a_cell(host);
}

/// From the configuration to the machine's end.
pub(crate) fn runs_a_cell(mut host: Host) {
    let script = "id -u; cat; echo seen > file; ls -d /dev/v* /dev/hv*; \
                  ls /sys/class /run/* 2>/dev/null; date +%s; \
                  echo x > /usr/y; exit 7";
    let mut config = config(&shell(script));
    config.memory_limit_bytes = 64 << 20;
    config.wall_clock_unix_ns = 4_000_000_000_000_000_000;
    host.end.configure(&config, Instant::now()).unwrap();
    let ready = until_ready(&mut host);
    eprintln!("{ready:?}");
    assert!(ready.posture.no_new_privs);
    assert_eq!(ready.posture.seccomp_mode, 2);
    host.end.start().unwrap();
    host.until(|message| matches!(message, GuestMessage::Started(_)).then_some(()));
    while host.end.input_credit() == 0 {
        host.hear();
    }
    let input = b"over the bridge\n";
    assert_eq!(host.end.input(input).unwrap(), input.len());
    host.end.end_input().unwrap();
    let exit = host.exit();
    let seen = String::from_utf8_lossy(&host.stdout).into_owned();
    eprintln!(
        "{seen}\n{}\n{exit:?}",
        String::from_utf8_lossy(&host.stderr)
    );
    assert_eq!(exit.report.end, WorkloadEnd::Exited { code: 7 });
    assert!(seen.contains("1000\nover the bridge\n"));
    assert!(
        seen.lines().any(|line| line.starts_with("40000000")),
        "the clock was not set"
    );
    assert!(
        !["vport", "vda", "vsock"]
            .iter()
            .any(|name| seen.contains(name)),
        "a device of the machine shows"
    );
    assert!(String::from_utf8_lossy(&host.stderr).contains("Read-only file system"));
    assert!(exit.report.usage.memory_peak_bytes.is_some());
    assert_eq!(exit.residue.found, Vec::<String>::new());
    assert_eq!(host.fetch("file", 100).unwrap(), b"seen\n");
    host.acknowledge();
}

#[test]
fn a_cell_of_a_machine_meets_its_own_limit_on_memory() {
    require!("machines", bundle().map(drop));
    let folder = tempfile::tempdir().unwrap();
    let (mut host, _) = meet(folder.path(), boot(folder.path()));
    let mut config = config(&shell("exec tail /dev/zero"));
    config.memory_limit_bytes = 32 << 20;
    host.end.configure(&config, Instant::now()).unwrap();
    until_ready(&mut host);
    host.end.start().unwrap();
    let report = host.exit().report;
    assert_eq!(report.end, WorkloadEnd::Signalled { signal: 9 });
    assert!(
        matches!(report.limits_hit[..], [LimitHit::Memory { limit_bytes, .. }]
            if limit_bytes == 32 << 20),
        "{report:?}"
    );
    host.acknowledge();
}

#[test]
fn a_machine_whose_host_goes_away_resets_with_its_cell() {
    require!("machines", bundle().map(drop));
    let folder = tempfile::tempdir().unwrap();
    let (mut host, _) = meet(folder.path(), boot(folder.path()));
    host.end
        .configure(&config(&shell("sleep 60")), Instant::now())
        .unwrap();
    until_ready(&mut host);
    host.end.start().unwrap();
    host.until(|message| matches!(message, GuestMessage::Started(_)).then_some(()));
    host.leave();
}
