//! What each call refuses, and in which state.

use std::{fs, io::Write};

use serde_json::{Value, json};

use crate::support::{Vmm, call, eventually, receive, settings};

#[test]
fn a_machine_says_what_it_is() {
    let vmm = Vmm::start(&settings(&["sleep", "60000"]));
    let described = json!({
        "app_name": "Firecracker (cellos fake)", "id": "vm-1",
        "state": "Not started", "vmm_version": "1.16.1",
    });
    assert_eq!(vmm.get("/"), described);
    assert_eq!(
        vmm.get("/version"),
        json!({ "firecracker_version": "1.16.1" })
    );
    assert_eq!(vmm.get("/machine-config")["vcpu_count"], 1);
    vmm.configure();
    assert_eq!(vmm.get("/machine-config")["mem_size_mib"], 64);
    let whole = vmm.get("/vm/config");
    assert_eq!(whole["drives"][0]["path_on_host"], "rootfs");
    assert_eq!(whole["vsock"]["guest_cid"], 3);
    vmm.action("InstanceStart");
    assert_eq!(vmm.get("/")["state"], "Running");
    vmm.patch_vm("Paused");
    assert_eq!(vmm.get("/")["state"], "Paused");
    vmm.patch_vm("Resumed");
    assert_eq!(vmm.get("/")["state"], "Running");
}

#[test]
fn bodies_are_read_strictly() {
    let vmm = Vmm::start(&settings(&[]));
    let drive = |change: Value| {
        let mut drive = json!({
            "drive_id": "a", "path_on_host": "rootfs", "is_root_device": false, "is_read_only": true,
        });
        for (name, value) in change.as_object().unwrap() {
            drive[name] = value.clone();
        }
        drive
    };
    let long = "x".repeat(2_049);
    for (method, path, body, part) in [
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 0, "mem_size_mib": 64 }),
            "vCPU",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 33, "mem_size_mib": 64 }),
            "vCPU",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 3, "mem_size_mib": 64, "smt": true }),
            "vCPU",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 0 }),
            "memory size",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1 }),
            "missing field `mem_size_mib`",
        ),
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 64, "x": 1 }),
            "unknown field `x`",
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "missing" }),
            "kernel",
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "kernel", "initrd_path": "missing" }),
            "initrd",
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "kernel", "boot_args": long }),
            "too long",
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "kernel", "boot_args": "a\nb" }),
            "ASCII",
        ),
        ("PUT", "/drives/b", drive(json!({})), "does not match"),
        (
            "PUT",
            "/drives/a-b",
            drive(json!({ "drive_id": "a-b" })),
            "alphanumeric",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "path_on_host": "missing" })),
            "missing",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "io_engine": "Quick" })),
            "unknown variant",
        ),
        (
            "PUT",
            "/drives/a",
            drive(json!({ "rate_limiter": { "bandwidth": { "size": 1 } } })),
            "refill_time",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            json!({ "iface_id": "eth0", "host_dev_name": "cfvnone0" }),
            "tap",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            json!({ "iface_id": "eth1", "host_dev_name": "lo" }),
            "does not match",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            json!({ "iface_id": "eth0", "host_dev_name": "lo", "guest_mac": "AA:BB" }),
            "MAC",
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 2, "uds_path": "v.sock" }),
            "guest_cid",
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 3, "uds_path": "none/v.sock" }),
            "binding",
        ),
        ("PUT", "/logger", json!({ "level": "Loud" }), "level"),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "Explode" }),
            "unknown variant",
        ),
        (
            "PATCH",
            "/vm",
            json!({ "state": "Running" }),
            "unknown variant",
        ),
        ("PUT", "/mmds/config", json!({}), "does not model"),
        (
            "PUT",
            "/nothing",
            json!({}),
            "Invalid request method and/or path",
        ),
        (
            "DELETE",
            "/drives/a",
            json!({}),
            "Invalid request method and/or path",
        ),
        (
            "PUT",
            "/vm",
            json!({ "state": "Paused" }),
            "Invalid request method and/or path",
        ),
        ("PUT", "/vsock", Value::Null, "Empty"),
        ("GET", "/version", json!({}), "cannot have a body"),
    ] {
        let message = vmm.refused(method, path, body);
        assert!(message.contains(part), "{method} {path}: {message}");
    }
    assert!(!vmm.path("v.sock").exists());
    assert_eq!(vmm.get("/vm/config")["drives"], json!([]));
}

#[test]
fn a_second_root_device_is_refused() {
    let vmm = Vmm::start(&settings(&[]));
    vmm.configure();
    let body = json!({ "drive_id": "two", "path_on_host": "rootfs", "is_root_device": true });
    assert!(
        vmm.refused("PUT", "/drives/two", body)
            .contains("root block device")
    );
}

#[test]
fn a_drive_that_may_be_written_must_be_writable() {
    let vmm = Vmm::start(&settings(&[]));
    // A folder can be opened for reading and not for writing, by root too.
    fs::create_dir(vmm.path("folder")).unwrap();
    let body = |read_only| {
        json!({
            "drive_id": "a", "path_on_host": "folder",
            "is_root_device": false, "is_read_only": read_only,
        })
    };
    vmm.refused("PUT", "/drives/a", body(false));
    vmm.put("/drives/a", body(true));
}

#[test]
fn what_belongs_before_the_start_is_refused_after_it() {
    let vmm = Vmm::start(&settings(&["sleep", "60000"]));
    let snapshot = json!({ "snapshot_path": "state", "mem_file_path": "memory" });
    for (method, path, body) in [
        (
            "PUT",
            "/actions",
            json!({ "action_type": "SendCtrlAltDel" }),
        ),
        ("PUT", "/actions", json!({ "action_type": "FlushMetrics" })),
        ("PATCH", "/vm", json!({ "state": "Paused" })),
        ("PUT", "/snapshot/create", snapshot.clone()),
    ] {
        let message = vmm.refused(method, path, body);
        assert!(
            message.contains("before starting the microVM"),
            "{path}: {message}"
        );
    }
    let start = json!({ "action_type": "InstanceStart" });
    let message = vmm.refused("PUT", "/actions", start.clone());
    assert!(message.contains("kernel configuration"), "{message}");
    vmm.configure();
    vmm.action("InstanceStart");
    for (path, body) in [
        ("/actions", start),
        (
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 64 }),
        ),
        ("/boot-source", json!({ "kernel_image_path": "kernel" })),
        (
            "/drives/b",
            json!({ "drive_id": "b", "path_on_host": "rootfs", "is_root_device": false }),
        ),
        ("/vsock", json!({ "guest_cid": 3, "uds_path": "w.sock" })),
        ("/entropy", json!({})),
        ("/logger", json!({ "log_path": "log" })),
        ("/metrics", json!({ "metrics_path": "metrics" })),
        ("/serial", json!({ "serial_out_path": "serial" })),
        (
            "/snapshot/load",
            json!({ "snapshot_path": "state", "mem_file_path": "memory" }),
        ),
    ] {
        let message = vmm.refused("PUT", path, body);
        assert!(
            message.contains("after starting the microVM"),
            "{path}: {message}"
        );
    }
    assert!(
        vmm.refused("PUT", "/snapshot/create", snapshot)
            .contains("not paused")
    );
    for name in ["w.sock", "log", "metrics", "serial", "state"] {
        assert!(!vmm.path(name).exists(), "{name}");
    }
}

#[test]
fn the_appended_devices_count_for_the_command_lines_limit() {
    let vmm = Vmm::start(&settings(&[]));
    vmm.configure();
    let body = json!({ "kernel_image_path": "kernel", "boot_args": "x".repeat(2_000) });
    vmm.put("/boot-source", body);
    let start = json!({ "action_type": "InstanceStart" });
    assert!(vmm.refused("PUT", "/actions", start).contains("too long"));
    assert_eq!(vmm.get("/")["state"], "Not started");
}

#[test]
fn requests_have_bounds() {
    let vmm = Vmm::start(&settings(&[]));
    for (head, status) in [
        ("PUT /vsock HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", 413),
        ("PUT /vsock HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (
            "PUT /vsock HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "PUT /vsock HTTP/1.1\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n{}",
            400,
        ),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut stream = vmm.connect();
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(receive(&mut stream).unwrap().0, status, "{head:?}");
        assert_eq!(receive(&mut stream), None, "{head:?}: closed");
    }
    // A body of the greatest size is read.
    let body = json!({ "x": "y".repeat(51_200 - 8) });
    assert_eq!(body.to_string().len(), 51_200);
    assert!(vmm.refused("PUT", "/vsock", body).contains("unknown field"));
}

#[test]
fn a_connection_serves_several_calls() {
    let vmm = Vmm::start(&settings(&[]));
    let mut stream = vmm.connect();
    for _ in 0..3 {
        assert_eq!(call(&mut stream, "GET", "/version", &Value::Null).0, 200);
    }
}

#[test]
fn the_guests_end_is_the_machines() {
    let mut vmm = Vmm::start(&settings(&["print", "hello"]));
    vmm.configure();
    vmm.action("InstanceStart");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "hello\n");
}

#[test]
fn the_serial_console_goes_where_it_is_sent() {
    let mut vmm = Vmm::start(&settings(&["print", "hello"]));
    vmm.put("/logger", json!({ "log_path": "log", "level": "Info" }));
    vmm.put("/metrics", json!({ "metrics_path": "metrics" }));
    vmm.put("/serial", json!({ "serial_out_path": "serial" }));
    vmm.configure();
    vmm.action("InstanceStart");
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("serial"), "hello\n");
    assert_eq!(vmm.text("stdout"), "");
    assert!(
        vmm.text("log")
            .contains("Firecracker v1.16.1 (cellos fake)")
    );
}

#[test]
fn metrics_are_written_on_demand() {
    let vmm = Vmm::start(&settings(&["sleep", "60000"]));
    vmm.put("/metrics", json!({ "metrics_path": "metrics" }));
    vmm.configure();
    vmm.action("InstanceStart");
    vmm.action("FlushMetrics");
    assert!(vmm.text("metrics").contains("cellos_fake"));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_keyboard_interrupts_the_guest() {
    let mut vmm = Vmm::start(&settings(&["sleep", "60000"]));
    vmm.configure();
    vmm.action("InstanceStart");
    vmm.action("SendCtrlAltDel");
    assert_eq!(vmm.ended().code(), Some(0));
}

#[test]
fn a_paused_guest_does_not_run() {
    let mut vmm = Vmm::start(&settings(&["sleep", "100", "print", "done"]));
    vmm.configure();
    vmm.action("InstanceStart");
    vmm.patch_vm("Paused");
    vmm.patch_vm("Paused");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(vmm.child.try_wait().unwrap(), None);
    vmm.patch_vm("Resumed");
    assert_eq!(vmm.ended().code(), Some(0));
    eventually("the guest's line", || vmm.text("stdout").contains("done"));
}
