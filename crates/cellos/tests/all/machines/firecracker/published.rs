//! Guests of the published contract: everything on their kernel's command line, one frame back.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Output,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cellos_bridge::{
    SessionKey,
    published::{ACKNOWLEDGEMENT, BootTokens, EXIT_PORT, exit_frame},
};
use cellos_fake_vmm::outside::{Machine, Play};
use cellos_testkit::require;

use super::{By, Host, sha256, stand_ins};

/// The init of a published guest, as far as the host sees it.
struct Init {
    machine: Machine,
    tokens: BootTokens,
}

impl Init {
    fn new(machine: Machine) -> Self {
        let tokens = BootTokens::parse(&machine.command_line).unwrap();
        assert_eq!(tokens.vsock_port, EXIT_PORT);
        Self { machine, tokens }
    }

    fn dial(&self) -> UnixStream {
        let device = self.machine.device.as_ref().unwrap();
        device.dial(EXIT_PORT).unwrap().into()
    }

    /// Says how the command ended, and waits until that was heard.
    fn report(&self, code: i32) {
        let mut stream = self.dial();
        let frame = exit_frame(code, &self.tokens.cell_id, &self.tokens.exit_hmac_key);
        stream.write_all(&frame).unwrap();
        let mut answer = [!ACKNOWLEDGEMENT];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [ACKNOWLEDGEMENT]);
    }
}

/// Runs a command in a machine of this guest.
fn run(
    by: By,
    manifest: &[(&str, &str)],
    guest: impl Fn(Init) + Send + Sync + 'static,
) -> (Host, Output) {
    run_for(by, "60s", manifest, guest)
}

fn run_for(
    by: By,
    ttl: &str,
    settings: &[(&str, &str)],
    guest: impl Fn(Init) + Send + Sync + 'static,
) -> (Host, Output) {
    let play = Play::Function(Arc::new(move |machine| guest(Init::new(machine))));
    let host = Host::with(by, play);
    let manifest = host.bundle("published.manifest");
    let lines = ["kernel", "rootfs"].map(|name| {
        let content = std::fs::read(host.bundle(name)).unwrap();
        format!("sha256:{} {name} {name}\n", sha256(content))
    });
    std::fs::write(&manifest, lines.concat()).unwrap();
    let output = host
        .run(&["--ttl", ttl, "--id", "published", "--", "true", "two words"])
        .env_remove("CELLOS_VM_ALLOW_UNSIGNED")
        .env("CELLOS_FIRECRACKER_KERNEL_IMAGE", host.bundle("kernel"))
        .env("CELLOS_FIRECRACKER_ROOTFS_IMAGE", host.bundle("rootfs"))
        .env("CELLOS_FIRECRACKER_MANIFEST", manifest)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    (host, output)
}

fn exit_code(by: By) {
    let (host, output) = run(by, &[], |init| {
        assert_eq!(init.tokens.argv, ["true", "two words"]);
        assert_eq!(init.tokens.cell_id, "published");
        init.report(42);
    });
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert_eq!(output.stdout, b"");
    let log = host.log();
    let security = log.data("container_security");
    let machine = &security["machine"];
    assert_eq!(
        machine["exitAuthentication"], "publishedFrame",
        "{security}"
    );
    assert_eq!(machine["execution"], "fake");
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["exitCode"], 42, "{destroyed}");
    host.assert_nothing_left();
}

#[test]
fn its_exit_code_passes_and_the_evidence_says_how_it_is_known() {
    require!("fake-vmm", stand_ins());
    exit_code(By::Us);
}

mod as_root {
    use super::*;

    #[test]
    fn its_exit_code_passes_out_of_a_jail() {
        require!("root");
        require!("fake-vmm", stand_ins());
        exit_code(By::Jailer);
    }
}

#[test]
fn frames_that_are_none_do_not_stop_a_good_one() {
    require!("fake-vmm", stand_ins());
    let (host, output) = run(By::Us, &[], |init| {
        // The workload may dial as well: with another key, with less than a frame, with nothing.
        let forged = exit_frame(0, &init.tokens.cell_id, &SessionKey::new([7; 32]));
        let mut forger = init.dial();
        forger.write_all(&forged).unwrap();
        let mut answer = Vec::new();
        // Closed, perhaps before everything was taken.
        let _ = forger.read_to_end(&mut answer);
        assert!(answer.is_empty(), "a forged frame was acknowledged");
        let mut short = init.dial();
        short.write_all(&forged[..20]).unwrap();
        drop(short);
        let _idle = init.dial();
        init.report(3);
    });
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    host.assert_nothing_left();
}

#[test]
fn a_guest_that_never_reports_ends_at_its_deadline() {
    require!("fake-vmm", stand_ins());
    let begun = Instant::now();
    let (host, output) = run_for(By::Us, "2s", &[], |_init| {
        // Ended with the test at the latest.
        thread::sleep(Duration::from_secs(60));
    });
    assert!(begun.elapsed() < Duration::from_secs(40), "{output:?}");
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let log = host.log();
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["endedBy"], "deadline-ttl", "{destroyed}");
    assert_eq!(destroyed["reason"], "ttl_exceeded", "{destroyed}");
    assert_eq!(destroyed["terminalState"], "forced", "{destroyed}");
    host.assert_nothing_left();
}

#[test]
fn a_guest_that_resets_without_a_word_is_lost_and_not_successful() {
    require!("fake-vmm", stand_ins());
    let (host, output) = run(By::Us, &[], drop);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let log = host.log();
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["endedBy"], "lost", "{destroyed}");
    assert!(destroyed["exitCode"].is_null(), "{destroyed}");
    host.assert_nothing_left();
}

#[test]
fn what_the_manifest_does_not_know_boots_nothing() {
    require!("fake-vmm", stand_ins());
    let (host, output) = run(
        By::Us,
        &[("CELLOS_FIRECRACKER_KERNEL_IMAGE", "/etc/hostname")],
        |_init| panic!("a machine was booted"),
    );
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("digest mismatch: kernel"), "{stderr}");
    host.assert_nothing_left();
}
