//! A host that is gone, or is none: nothing of a cell is left.

use std::{
    fs,
    io::Write as _,
    time::{Duration, Instant},
};

use cellos_bridge::{FrameKind, HEADER_BYTES, PROTOCOL_VERSION};
use cellos_testkit::require;

use crate::host::{Host, config, shell};

/// A workload that can be told from every other process of this host.
fn marked(mark: &str) -> serde_json::Value {
    shell(&format!(
        ": {mark}-{}; sleep 60 & sleep 60",
        std::process::id()
    ))
}

fn is_running(mark: &str) -> bool {
    let mark = format!("{mark}-{}", std::process::id());
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&mark))
    })
}

fn children_of(process: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default()
}

#[test]
fn a_stream_that_closes_at_any_stage_leaves_no_process() {
    require!("userns");
    require!("cgroups");
    let (status, said) = Host::start().leave();
    assert!(status.success(), "a parked guest just ends: {said}");

    let mut configured = Host::start();
    let run = marked("closed-while-configured");
    configured
        .end
        .configure(&config(&run), Instant::now())
        .unwrap();
    configured.flush();
    let (ready, _) = Host::ready(&config(&marked("closed-while-ready")));
    let running = Host::running(&config(&marked("closed-while-running")));
    assert!(is_running("closed-while-running"), "the mark is not found");
    let mut exited = Host::running(&config(&shell("true")));
    exited.exit();
    for host in [configured, ready, running, exited] {
        let launcher: Vec<u32> = children_of(host.guest.id())
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert_eq!(launcher.len(), 1);
        let (status, said) = host.leave();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("the stream ended"), "{said}");
        assert!(!fs::exists(format!("/proc/{}", launcher[0])).unwrap());
    }
    for mark in [
        "closed-while-configured",
        "closed-while-ready",
        "closed-while-running",
    ] {
        assert!(!is_running(mark), "{mark}");
    }
}

#[test]
fn a_killed_guest_takes_its_cell_along() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&marked("killed")));
    assert!(is_running("killed"));
    host.guest.kill().unwrap();
    let begun = Instant::now();
    while is_running("killed") {
        assert!(begun.elapsed() < Duration::from_secs(10), "it still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A frame as a host might write it that is none.
fn frame(kind: u8, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend([PROTOCOL_VERSION, kind, 0, 0]);
    bytes.extend(sequence.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_BYTES);
    bytes.extend(body);
    bytes
}

#[test]
fn frames_that_no_host_sends_end_the_guest_and_its_cell() {
    require!("userns");
    require!("cgroups");
    for (what, bytes) in [
        ("a kind that does not exist", frame(99, 0, b"")),
        (
            "a kind of the guest's",
            frame(FrameKind::Exit as u8, 0, b"{}"),
        ),
        (
            "a start before there is a cell",
            frame(FrameKind::Start as u8, 0, b""),
        ),
        (
            "a configuration that is none",
            frame(FrameKind::Config as u8, 0, b"{\"a\":1}"),
        ),
        (
            "a frame out of sequence",
            frame(FrameKind::Heartbeat as u8, 7, b""),
        ),
    ] {
        let mut host = Host::start();
        host.stream.write_all(&bytes).unwrap();
        assert_refused(host, what);
    }
    for (what, kind, body) in [
        ("a second configuration", FrameKind::Config, &b"{}"[..]),
        ("a second start", FrameKind::Start, b""),
        (
            "a fetch before the end",
            FrameKind::Fetch,
            b"{\"path\":\"a\",\"maxBytes\":1}",
        ),
        ("an acknowledgement of nothing", FrameKind::Acknowledge, b""),
        ("input beyond the credit", FrameKind::Input, &[0; 65536][..]),
    ] {
        let mut host = Host::running(&config(&marked("misled")));
        // The configuration and the start came before.
        let mut bytes = frame(kind as u8, 2, body);
        if kind == FrameKind::Input {
            bytes.extend(frame(kind as u8, 3, body));
            bytes.extend(frame(kind as u8, 4, body));
        }
        host.stream.write_all(&bytes).unwrap();
        assert_refused(host, what);
        assert!(!is_running("misled"), "{what}");
    }
}

fn assert_refused(mut host: Host, what: &str) {
    let begun = Instant::now();
    while host.guest.try_wait().unwrap().is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{what} was taken"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let (status, said) = host.leave();
    assert_eq!(status.code(), Some(1), "{what}: {said}");
    assert!(said.contains("bridge: "), "{what}: {said}");
    assert!(!said.contains("ended"), "{what}: {said}");
}
