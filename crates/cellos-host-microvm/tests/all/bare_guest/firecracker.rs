//! In a real Firecracker, spoken to by its API's socket and nothing of ours in between.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use cellos_testkit::require;
use serde_json::{Value, json};

use super::{
    Entry, Guarded, MACHINE_BOUND, Place, WORDS, answers, can_build, takes_the_frame, wait_for,
};

const VARIABLE: &str = "CELLOS_FIRECRACKER_BINARY";

/// Longest answer's head that is read, in bytes: several times what there is.
const MAX_HEAD_BYTES: usize = 8192;

fn program() -> Result<PathBuf, String> {
    std::env::var_os(VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| format!("{VARIABLE} names no program"))
}

fn firecracker() -> Result<(), String> {
    answers(Command::new(program()?).arg("--version"))
}

#[test]
fn a_machine_reports_its_exit_by_either_entry() {
    require!("kvm");
    require!("rustc", can_build());
    require!("firecracker", firecracker());
    for entry in [Entry::AsOffered, Entry::WithoutPvh] {
        let place = Place::new(entry);
        let listener = place.listen();
        let mut monitor = start(&place);
        wait_for("the API's socket", || {
            assert_eq!(monitor.ended(), None, "{}", place.serial());
            UnixStream::connect(place.path("api")).ok()
        });
        boot(&place);
        let status = takes_the_frame(&place, &listener, &mut monitor);
        assert!(status.success(), "{entry:?}: {status}, {}", place.serial());
    }
}

/// The monitor, with its output and the machine's serial port, which are one, in a file.
fn start(place: &Place) -> Guarded {
    let said = File::create(place.path("serial")).unwrap();
    let mut command = Command::new(program().unwrap());
    command
        .arg("--api-sock")
        .arg(place.path("api"))
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said);
    Guarded::start(&mut command)
}

fn boot(place: &Place) {
    put(
        place,
        "/machine-config",
        &json!({"vcpu_count": 1, "mem_size_mib": 128}),
    );
    put(
        place,
        "/boot-source",
        &json!({
            "kernel_image_path": place.guest(),
            "boot_args": format!("console=ttyS0 reboot=k panic=1 pci=off {WORDS}"),
        }),
    );
    put(
        place,
        "/vsock",
        &json!({"guest_cid": 3, "uds_path": place.path("v")}),
    );
    put(place, "/actions", &json!({"action_type": "InstanceStart"}));
}

/// One request on a connection of its own; anything but success ends the test.
fn put(place: &Place, path: &str, body: &Value) {
    let body = body.to_string();
    let mut stream = UnixStream::connect(place.path("api")).unwrap();
    stream.set_read_timeout(Some(MACHINE_BOUND)).unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0 && answer.len() < MAX_HEAD_BYTES, "PUT {path}");
        answer.extend_from_slice(&buffer[..length]);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 2"),
        "PUT {path}: {answer} {}",
        place.serial()
    );
}
