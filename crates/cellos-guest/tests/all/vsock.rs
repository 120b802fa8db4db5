//! A real machine whose bridge is a vsock. Its device is a process of its own, which joins the
//! machine's ports with Unix sockets of the host as Firecracker's does.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cellos_bridge::Hello;
use cellos_testkit::require;
use rustix::net::{RecvFlags, recv};
use tempfile::TempDir;

use crate::{
    host::{Host, PATIENCE},
    machine::{MEMORY, bundle, hello, qemu, runs_a_cell},
};

const SWITCH: &str = "vhost-device-vsock";

const PORT: u32 = 9010;

/// Many attempts to connect of a guest that does not wait longer than it says.
const NOBODY_LISTENS: Duration = Duration::from_secs(3);

/// On the search path, or where cargo installs it.
fn switch_program() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    cargo
        .map(|home| home.join("bin").join(SWITCH))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| PathBuf::from(SWITCH))
}

fn switch() -> Result<(), String> {
    Command::new(switch_program())
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map(drop)
        .map_err(|error| format!("{SWITCH}: {error}"))
}

/// The device and the host's socket.
struct Vsock {
    folder: TempDir,
    switch: Child,
}

impl Drop for Vsock {
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

impl Vsock {
    /// A device that waits for its machine.
    fn start() -> Self {
        // Short, since the address of a Unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("vsock")
            .tempdir_in("/tmp")
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let switch = Command::new(switch_program())
            .arg("--guest-cid=3")
            .arg(format!("--socket={}", path("vhost")))
            .arg(format!("--uds-path={}", path("v")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let vsock = Self { folder, switch };
        let begun = Instant::now();
        while !vsock.path("vhost").exists() {
            assert!(begun.elapsed() < PATIENCE, "{SWITCH} does not run");
            std::thread::sleep(Duration::from_millis(5));
        }
        vsock
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn port(&self) -> PathBuf {
        self.path(&format!("v_{PORT}"))
    }

    fn boot(&self) -> Child {
        // The device's process reads and writes the machine's memory, and knows virtio 1 alone.
        qemu(
            "microvm,acpi=on,memory-backend=mem",
            &format!("vsock:{PORT}"),
        )
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=mem,size={MEMORY},share=on"
        ))
        .args(["-global", "virtio-mmio.force-legacy=false", "-chardev"])
        .arg(format!("socket,id=v,path={}", self.path("vhost").display()))
        .args(["-device", "vhost-user-vsock-device,chardev=v"])
        .spawn()
        .unwrap()
    }
}

/// The machine's side of a dialogue, once it has said hello.
fn meet(port: &Path, mut machine: Child) -> (Host, Hello) {
    let listener = UnixListener::bind(port).unwrap();
    listener.set_nonblocking(true).unwrap();
    // A connection that the guest has given up ends without a word, and another one follows.
    let mut streams = Vec::new();
    let begun = Instant::now();
    loop {
        streams.extend(listener.accept().map(|(stream, _)| stream));
        if let Some(at) = streams.iter().position(speaks) {
            let stream = streams.swap_remove(at);
            std::fs::remove_file(port).unwrap();
            return hello(Host::over(stream, machine));
        }
        if begun.elapsed() > PATIENCE {
            machine.kill().unwrap();
            let said = machine.wait_with_output().unwrap().stderr;
            panic!("nobody connects: {}", String::from_utf8_lossy(&said));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn speaks(stream: &UnixStream) -> bool {
    let mut byte = [0_u8];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(stream, &mut byte[..], flags).is_ok_and(|(length, _)| length > 0)
}

#[test]
fn a_machine_is_served_over_vsock_to_its_reset() {
    require!("vhost-device-vsock", switch());
    require!("machines", bundle().map(drop));
    let vsock = Vsock::start();
    let (host, _) = meet(&vsock.port(), vsock.boot());
    runs_a_cell(host);
}

/// The device says nothing at all about a port where nobody listens.
#[test]
fn an_attempt_that_is_not_answered_is_given_up_for_another() {
    require!("vhost-device-vsock", switch());
    require!("machines", bundle().map(drop));
    let vsock = Vsock::start();
    let (mut host, first) = meet(&vsock.port(), vsock.boot());
    host.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let machine = std::mem::replace(&mut host.guest, Command::new("true").spawn().unwrap());
    drop(host);
    std::thread::sleep(NOBODY_LISTENS);
    let (host, again) = meet(&vsock.port(), machine);
    assert_ne!(first.boot_nonce, again.boot_nonce);
    drop(host);
}
