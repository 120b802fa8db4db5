//! What a test can make go wrong.

use std::{
    io::Read,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Vmm, connect, receive, send, settings};

const START: &str = r#"{"action_type":"InstanceStart"}"#;

fn with(part: &str, value: Value) -> Value {
    let mut settings = settings(&["sleep", "60000"]);
    settings[part] = value;
    settings
}

fn call_fault(call: &str, then: Value) -> Value {
    with("calls", json!([{ "call": call, "then": then, "times": 1 }]))
}

#[test]
fn a_call_can_fail_without_being_carried_out() {
    let vmm = Vmm::start(&call_fault(
        "PUT /vsock",
        json!({ "error": { "status": 500, "message": "out of luck" } }),
    ));
    let body = json!({ "guest_cid": 3, "uds_path": "v.sock" });
    let (status, answer) = vmm.call("PUT", "/vsock", &body);
    assert_eq!(
        (status, answer["fault_message"].as_str()),
        (500, Some("out of luck"))
    );
    assert!(!vmm.path("v.sock").exists());
    // It was asked for once.
    vmm.put("/vsock", body);
}

#[test]
fn a_call_can_be_slow() {
    let delayed = json!([{ "call": "GET /version", "delay_ms": 300 }]);
    let vmm = Vmm::start(&with("calls", delayed));
    let start = Instant::now();
    vmm.get("/version");
    assert!(start.elapsed() >= Duration::from_millis(300));
    // Others go on meanwhile.
    vmm.get("/");
}

#[test]
fn a_connection_can_be_dropped_before_or_after_the_call() {
    for (then, state) in [("drop", "Not started"), ("drop-after", "Running")] {
        let vmm = Vmm::start(&call_fault("PUT /actions InstanceStart", json!(then)));
        vmm.configure();
        let mut stream = vmm.connect();
        send(&mut stream, "PUT", "/actions", START);
        assert!(receive(&mut stream).is_none(), "{then}");
        assert_eq!(vmm.get("/")["state"], state, "{then}");
    }
}

#[test]
fn a_call_can_stay_unanswered() {
    let vmm = Vmm::start(&call_fault("*", json!("never-answer")));
    let mut stream = vmm.connect();
    send(&mut stream, "GET", "/", "");
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    vmm.get("/");
}

#[test]
fn a_call_can_end_the_vmm() {
    for (how, code, signal) in [
        (json!({ "exit": 148 }), Some(148), None),
        (json!({ "exit": 0 }), Some(0), None),
        (json!({ "signal": 9 }), None, Some(9)),
    ] {
        let mut vmm = Vmm::start(&call_fault("PUT /boot-source", json!({ "end": how })));
        let mut stream = vmm.connect();
        send(
            &mut stream,
            "PUT",
            "/boot-source",
            r#"{"kernel_image_path":"kernel"}"#,
        );
        assert!(receive(&mut stream).is_none());
        let status = vmm.ended();
        assert_eq!((status.code(), status.signal()), (code, signal));
    }
}

#[test]
fn a_vmm_can_die_before_its_socket() {
    let launch = json!({ "stderr": "no /dev/kvm today", "end": { "exit": 1 } });
    let mut vmm = Vmm::spawn(
        TempDir::new().unwrap(),
        &with("launch", launch),
        &["--api-sock", "api.sock"],
    );
    assert_eq!(vmm.ended().code(), Some(1));
    assert_eq!(vmm.text("stderr"), "no /dev/kvm today\n");
    assert!(!vmm.path("api.sock").exists());
}

#[test]
fn a_guest_can_be_silent() {
    let mut vmm = Vmm::start(&with("start", json!({ "guest": "silent" })));
    vmm.configure();
    vmm.action("InstanceStart");
    assert_eq!(vmm.get("/")["state"], "Running");
    let mut stream = connect(&vmm.path("v.sock"));
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(stream.read(&mut [0]).is_err());
    assert_eq!(vmm.child.try_wait().unwrap(), None);
}

#[test]
fn a_guest_can_lack_the_device() {
    let mut settings = settings(&["device"]);
    settings["start"] = json!({ "vsock": "absent" });
    let mut vmm = Vmm::start(&settings);
    vmm.configure();
    vmm.action("InstanceStart");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "device: false\n");
}

#[test]
fn a_vmm_can_end_under_a_running_guest() {
    for (how, code, signal) in [
        (json!({ "exit": 0 }), Some(0), None),
        (json!({ "exit": 149 }), Some(149), None),
        (json!({ "signal": 6 }), None, Some(6)),
    ] {
        let late = json!({ "end": { "after_ms": 50, "how": how } });
        let mut vmm = Vmm::start(&with("start", late));
        vmm.configure();
        vmm.action("InstanceStart");
        let status = vmm.ended();
        assert_eq!((status.code(), status.signal()), (code, signal));
        assert!(vmm.text("stderr").contains("internal error"));
    }
}

#[test]
fn a_guest_that_cannot_be_started_fails_the_start() {
    for settings in [json!({}), json!({ "guest": { "program": "missing" } })] {
        let vmm = Vmm::start(&settings);
        vmm.configure();
        let start = serde_json::from_str(START).unwrap();
        let message = vmm.refused("PUT", "/actions", start);
        assert!(message.contains("cellos fake"), "{message}");
        assert_eq!(vmm.get("/")["state"], "Not started");
    }
}
