//! Saving a machine and loading it into another VMM.

use std::{fs, io::Write};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Vmm, accept, eventually, line, settings};

/// A folder with a snapshot in `state` and `memory`; its VMM is gone, its sockets removed.
fn saved() -> TempDir {
    let mut vmm = Vmm::start(&settings(&["report", "9000"]));
    vmm.configure();
    let listener = vmm.host_port(9_000);
    vmm.action("InstanceStart");
    let stream = accept(&listener);
    line(&stream);
    vmm.patch_vm("Paused");
    vmm.put("/snapshot/create", create());
    assert_eq!(vmm.get("/")["state"], "Paused");
    // The transport is reset: what was open is over.
    assert_eq!(line(&stream), "");
    vmm.child.kill().unwrap();
    vmm.child.wait().unwrap();
    for name in ["api.sock", "v.sock", "v.sock_9000"] {
        fs::remove_file(vmm.path(name)).unwrap();
    }
    let folder = std::mem::replace(&mut vmm.folder, TempDir::new().unwrap());
    drop(vmm);
    folder
}

fn create() -> Value {
    json!({ "snapshot_path": "state", "mem_file_path": "memory", "snapshot_type": "Full" })
}

fn load(changes: Value) -> Value {
    let mut body = json!({
        "snapshot_path": "state",
        "mem_backend": { "backend_type": "File", "backend_path": "memory" },
        "resume_vm": true,
    });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_loaded_machine_runs_a_fresh_guest_marked_as_restored() {
    let mut vmm = Vmm::start_in(saved(), &settings(&["report", "9000"]));
    assert_eq!(fs::metadata(vmm.path("memory")).unwrap().len(), 64 << 20);
    let listener = vmm.host_port(9_000);
    vmm.put("/snapshot/load", load(json!({})));
    assert_eq!(vmm.get("/")["state"], "Running");
    assert!(vmm.path("v.sock").exists());
    let mut stream = accept(&listener);
    let report: Value = serde_json::from_str(&line(&stream)).unwrap();
    assert_eq!(report["boot"], "restored");
    stream.write_all(b"!").unwrap();
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn a_loaded_machine_can_wait_to_be_resumed() {
    let mut vmm = Vmm::start_in(saved(), &settings(&["print", "resumed"]));
    vmm.put("/snapshot/load", load(json!({ "resume_vm": false })));
    assert_eq!(vmm.get("/")["state"], "Paused");
    assert_eq!(vmm.text("stdout"), "");
    vmm.patch_vm("Resumed");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "resumed\n");
}

#[test]
fn the_vsock_path_can_be_another() {
    let mut vmm = Vmm::start_in(saved(), &settings(&["device"]));
    // The path of the snapshot is taken; only the other one is bound.
    fs::write(vmm.path("v.sock"), "").unwrap();
    vmm.put(
        "/snapshot/load",
        load(json!({ "vsock_override": { "uds_path": "w.sock" } })),
    );
    assert!(vmm.path("w.sock").exists());
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "device: true\n");
}

#[test]
fn a_failed_load_ends_the_process() {
    /// What the message names, what is done before the load, and what the load asks for besides.
    type Case = (&'static str, fn(&Vmm), Value);
    let damage: [Case; 8] = [
        (
            "memory",
            |vmm| fs::remove_file(vmm.path("memory")).unwrap(),
            json!({}),
        ),
        ("digest", |vmm| overwrite(vmm, "memory", b"X"), json!({})),
        ("length", |vmm| append(vmm, "memory"), json!({})),
        (
            "state",
            |vmm| fs::remove_file(vmm.path("state")).unwrap(),
            json!({}),
        ),
        ("digest", |vmm| append(vmm, "state"), json!({})),
        (
            "Error binding",
            |vmm| fs::write(vmm.path("v.sock"), "").unwrap(),
            json!({}),
        ),
        (
            "backing file",
            |vmm| fs::remove_file(vmm.path("rootfs")).unwrap(),
            json!({}),
        ),
        (
            "Unknown Network Device",
            |_| {},
            json!({ "network_overrides": [{ "iface_id": "eth0", "host_dev_name": "lo" }] }),
        ),
    ];
    for (part, damage, changes) in damage {
        let mut vmm = Vmm::start_in(saved(), &settings(&["report", "9000"]));
        damage(&vmm);
        let message = vmm.refused("PUT", "/snapshot/load", load(changes));
        assert!(message.contains(part), "{part}: {message}");
        assert_eq!(vmm.ended().code(), Some(152), "{part}");
    }
}

fn overwrite(vmm: &Vmm, name: &str, text: &[u8]) {
    let mut file = fs::File::options()
        .write(true)
        .open(vmm.path(name))
        .unwrap();
    file.write_all(text).unwrap();
}

fn append(vmm: &Vmm, name: &str) {
    let mut file = fs::File::options()
        .append(true)
        .open(vmm.path(name))
        .unwrap();
    file.write_all(b" ").unwrap();
}

#[test]
fn only_a_fresh_machine_can_be_loaded() {
    let vmm = Vmm::start_in(saved(), &settings(&["sleep", "60000"]));
    vmm.put("/logger", json!({ "level": "Info" }));
    vmm.put(
        "/machine-config",
        json!({ "vcpu_count": 1, "mem_size_mib": 64 }),
    );
    let message = vmm.refused("PUT", "/snapshot/load", load(json!({})));
    assert!(message.contains("boot-specific resources"), "{message}");
    // That refusal does not end the process.
    assert_eq!(vmm.get("/")["state"], "Not started");
}

#[test]
fn fields_of_later_versions_are_unknown_to_earlier_ones() {
    for (version, changes) in [
        (
            "1.15.0",
            json!({ "vsock_override": { "uds_path": "w.sock" } }),
        ),
        ("1.15.0", json!({ "clock_realtime": true })),
        (
            "1.11.0",
            json!({ "network_overrides": [{ "iface_id": "a", "host_dev_name": "b" }] }),
        ),
        ("1.16.1", json!({ "later": true })),
    ] {
        let mut settings = settings(&[]);
        settings["version"] = json!(version);
        let vmm = Vmm::start(&settings);
        let message = vmm.refused("PUT", "/snapshot/load", load(changes));
        assert!(message.contains("unknown field"), "{message}");
        vmm.get("/");
    }
    let mut settings = settings(&[]);
    settings["version"] = json!("1.15.0");
    let mut vmm = Vmm::start_in(saved(), &settings);
    let message = vmm.refused("PUT", "/snapshot/load", load(json!({})));
    assert!(
        message.contains("1.16.1 cannot be loaded by version 1.15.0"),
        "{message}"
    );
    eventually("the end", || vmm.child.try_wait().unwrap().is_some());
}

#[test]
fn exactly_one_memory_is_named() {
    for changes in [
        json!({ "mem_file_path": "memory" }),
        json!({ "mem_backend": null }),
        json!({ "mem_backend": { "backend_type": "Uffd", "backend_path": "u" } }),
    ] {
        let vmm = Vmm::start_in(saved(), &settings(&[]));
        vmm.refused("PUT", "/snapshot/load", load(changes));
    }
    let vmm = Vmm::start_in(saved(), &settings(&["sleep", "60000"]));
    vmm.put(
        "/snapshot/load",
        load(json!({ "mem_backend": null, "mem_file_path": "memory" })),
    );
}

#[test]
fn a_diff_needs_dirty_page_tracking() {
    let vmm = Vmm::start(&settings(&["sleep", "60000"]));
    vmm.configure();
    vmm.action("InstanceStart");
    vmm.patch_vm("Paused");
    let mut body = create();
    body["snapshot_type"] = json!("Diff");
    assert!(
        vmm.refused("PUT", "/snapshot/create", body)
            .contains("dirty page")
    );
}
