//! Cells that end in the middle of everything that a program can do to the gateway at once.

use std::{
    fs,
    io::Read as _,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use cellos_testkit::require;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    hostile::Attack,
    trial::{signal, wait},
};

/// Opens a lot, and goes on for ever.
const STORM: &str = r#"
def storm(what):
    while True:
        try: what()
        except OSError: pass
held = []
def hold():
    if len(held) > 400: held.pop(0).close()
    s = connect(); s.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}:{PORT}\r\n\r\n".encode()); held.append(s)
def scan():
    socket.socket().connect(("192.0.2.7", 81))
def ask():
    socket.getaddrinfo("evil.example", 80)
def send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (THERE[0], UDP))
for what in (hold, scan, ask, send): threading.Thread(target=storm, args=(what,)).start()
time.sleep(2); print("storm", flush=True)
"#;

fn storming(attack: &Attack) -> Child {
    let mut child = attack.start();
    let mut said = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"storm\n");
    child
}

#[test]
fn a_cell_that_is_stopped_in_a_storm_ends_in_time_and_tells_every_flow() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(None, STORM);
    let child = storming(&attack);
    let begun = Instant::now();
    signal(&child, Signal::TERM);
    let output = wait(child);
    let took = begun.elapsed();
    println!("ended within {took:?}");
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    attack.verified();
    let flows = attack.flows();
    let egress = attack.egress();
    let allowed = flows.iter().filter(|flow| flow["decision"] == "allow");
    assert_eq!(
        allowed.count() as u64,
        egress["flowsAllowed"].as_u64().unwrap()
    );
    assert!(flows.iter().any(|flow| flow["endedBy"] == "cell_ended"));
    assert_eq!(attack.events("lifecycle.v1.destroyed").len(), 1);
}

#[test]
fn a_supervisor_that_is_killed_in_a_storm_leaves_nothing_behind() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(None, STORM);
    let child = storming(&attack);
    let marker = format!("{}\0{}", attack.server.port, attack.udp);
    signal(&child, Signal::KILL);
    wait(child);
    let begun = Instant::now();
    while anybody_with(&marker) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the cell lives");
        thread::sleep(Duration::from_millis(20));
    }
    for (round, cells) in [(1, 1), (2, 0)] {
        let reaped = attack.place.cellos(&["reap", "--json"]).output().unwrap();
        assert!(reaped.status.success(), "{reaped:?}");
        let said: Value = serde_json::from_slice(&reaped.stdout).unwrap();
        let found = said["reaped"].as_array().map_or(0, Vec::len);
        assert_eq!(found, cells, "round {round}: {said}");
    }
}

/// Whether a process has this among its arguments.
fn anybody_with(marker: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(marker))
}

/// A file system that is full, in short: no file may become larger.
#[test]
fn a_record_that_is_full_ends_the_cell_and_lets_nothing_through() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(None, STORM);
    let program = attack.place.cellos(&[]).get_program().to_owned();
    let events = attack.place.events();
    let script = r#"trap "" XFSZ; ulimit -f 256; exec "$0" run --events "$1" cell.json"#;
    let begun = Instant::now();
    let ran = std::process::Command::new("bash")
        .args(["-c", script])
        .args([&program, events.as_os_str()])
        .current_dir(attack.place.path())
        .env("CELLOS_STATE_DIR", attack.place.path().join("state"))
        .env("CELLOS_KEY_DIR", attack.place.path().join("keys"))
        .output()
        .unwrap();
    let took = begun.elapsed();
    println!("{took:?} {ran:?}");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(125), "{ran:?}");
    assert!(said.contains("sink full"), "{said}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(!anybody_with(&format!(
        "{}\0{}",
        attack.server.port, attack.udp
    )));
}
