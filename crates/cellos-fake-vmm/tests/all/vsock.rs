//! The vsock device: which sockets there are, who reaches whom, and what ends with what.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixListener,
};

use serde_json::{Value, json};

use crate::support::{Vmm, accept, alive, connect, eventually, line, receive, settings};

#[test]
fn the_socket_is_bound_by_the_call() {
    let vmm = Vmm::start(&settings(&[]));
    let device = |path: &str| json!({ "guest_cid": 3, "uds_path": path });
    vmm.put("/vsock", device("v.sock"));
    assert!(vmm.path("v.sock").exists());
    // Another configuration replaces the socket.
    vmm.put("/vsock", device("w.sock"));
    assert!(!vmm.path("v.sock").exists());
    assert!(vmm.path("w.sock").exists());
}

#[test]
fn an_existing_file_is_in_the_way() {
    let vmm = Vmm::start(&settings(&[]));
    fs::write(vmm.path("v.sock"), "").unwrap();
    let body = json!({ "guest_cid": 3, "uds_path": "v.sock" });
    assert!(vmm.refused("PUT", "/vsock", body).contains("Error binding"));
    drop(UnixListener::bind(vmm.path("w.sock")).unwrap());
    let body = json!({ "guest_cid": 3, "uds_path": "w.sock" });
    assert!(vmm.refused("PUT", "/vsock", body).contains("Error binding"));
}

#[test]
fn the_guest_reaches_what_listens_on_the_host() {
    let mut vmm = Vmm::start(&settings(&["report", "9000"]));
    vmm.configure();
    let listener = vmm.host_port(9_000);
    vmm.action("InstanceStart");
    let mut stream = accept(&listener);
    let report: Value = serde_json::from_str(&line(&stream)).unwrap();
    assert_eq!(report["boot"], "cold");
    let command_line = report["command_line"].as_str().unwrap();
    assert!(
        command_line.starts_with(
            "console=ttyS0 pci=off root=/dev/vda ro virtio_mmio.device=4K@0xd0000000:5"
        )
    );
    let drives: Value = serde_json::from_str(report["drives"].as_str().unwrap()).unwrap();
    assert_eq!(drives[0]["path_on_host"], "rootfs");
    // Nothing of the VMM's own environment reaches the guest.
    for name in report["environment"].as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with("FAKE_VMM_"), "{name}");
    }
    assert_eq!(vmm.child.try_wait().unwrap(), None);
    stream.write_all(b"!").unwrap();
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn a_port_without_a_listener_refuses_the_guest() {
    let mut vmm = Vmm::start(&settings(&["try", "9001", "try", "9002", "try", "9003"]));
    vmm.configure();
    let _listening = vmm.host_port(9_001);
    // A socket file that nobody listens on any more.
    drop(vmm.host_port(9_003));
    vmm.action("InstanceStart");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(
        vmm.text("stdout"),
        "connected\nrefused 9002\nrefused 9003\n"
    );
}

#[test]
fn the_host_reaches_what_listens_in_the_guest() {
    let mut vmm = Vmm::start(&settings(&["echo", "52"]));
    vmm.configure();
    vmm.action("InstanceStart");
    eventually("the guest's listener", || {
        vmm.text("stdout") == "listening\n"
    });
    let mut ports = Vec::new();
    for text in ["one", "two", "end"] {
        let mut stream = connect(&vmm.path("v.sock"));
        stream
            .write_all(format!("CONNECT 52\n{text}").as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (first, echoed) = answer.split_once('\n').unwrap();
        assert_eq!(echoed, text);
        ports.push(first.strip_prefix("OK ").unwrap().parse::<u32>().unwrap());
    }
    assert!(ports[0] >= 1 << 30 && ports[1] > ports[0], "{ports:?}");
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn the_host_is_turned_away_where_nobody_listens() {
    let vmm = Vmm::start(&settings(&["echo", "52"]));
    vmm.configure();
    vmm.action("InstanceStart");
    eventually("the guest's listener", || {
        vmm.text("stdout") == "listening\n"
    });
    for request in [
        "CONNECT 53\n",
        "CONNECT\n",
        "HELLO 52\n",
        "CONNECT 52 1\n",
        "CONNECT -1\n",
    ] {
        let mut stream = connect(&vmm.path("v.sock"));
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Closed with what was sent still unread, it may also be reset.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{request:?}");
    }
}

#[test]
fn a_machine_without_the_device_has_none() {
    let mut vmm = Vmm::start(&settings(&["device"]));
    vmm.put("/boot-source", json!({ "kernel_image_path": "kernel" }));
    vmm.action("InstanceStart");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "device: false\n");
}

#[test]
fn the_host_sees_the_end_of_a_killed_machine() {
    let mut vmm = Vmm::start(&settings(&["report", "9000", "sleep", "60000"]));
    vmm.configure();
    let listener = vmm.host_port(9_000);
    vmm.action("InstanceStart");
    let mut stream = accept(&listener);
    let report: Value = serde_json::from_str(&line(&stream)).unwrap();
    let guest = report["pid"].as_u64().unwrap();
    assert!(alive(guest));
    vmm.child.kill().unwrap();
    vmm.child.wait().unwrap();
    eventually("the guest's end", || !alive(guest));
    assert!(receive(&mut stream).is_none());
}
