//! Arguments, exit codes, and the API socket's file.

use std::{fs, process::Command};

use cellos_fake_vmm::programs::Program;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Vmm, eventually, program, settings};

#[test]
fn the_version_parses_and_is_marked_as_a_fake() {
    for (settings, version) in [("{}", "1.16.1"), (r#"{"version":"1.15.0"}"#, "1.15.0")] {
        let output = Command::new(program("fake-firecracker"))
            .arg("--version")
            .env("FAKE_VMM_SETTINGS", settings)
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some(format!("Firecracker v{version}").as_str())
        );
        assert!(lines.next().unwrap().contains("fake"));
    }
}

#[test]
fn the_programs_are_found_beside_the_tests() {
    for program in [Program::Firecracker, Program::Jailer] {
        let found = program.find().unwrap();
        let output = Command::new(found).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("1.16.1") && text.contains("fake"), "{text}");
    }
}

#[test]
fn wrong_arguments_end_with_153() {
    for arguments in [
        &["--log-level", "Error"][..],
        &["api.sock"],
        &["--api-sock"],
        &["--api-sock=a"],
        &["--api-sock", "--no-seccomp"],
        &["--id", "a_b"],
        &["--id", ""],
        &["--id", "a", "--id", "b"],
        &["--level", "Loud"],
        &["--no-api"],
        &["--no-api", "--config-file", "c", "--api-sock", "a"],
        &["--no-seccomp", "--seccomp-filter", "f"],
        &["--http-api-max-payload-size", "many"],
    ] {
        let folder = TempDir::new().unwrap();
        let output = Command::new(program("fake-firecracker"))
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(153), "{arguments:?}");
        assert!(!output.stderr.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let long = "x".repeat(65);
    let status = Command::new(program("fake-firecracker"))
        .args(["--id", &long])
        .output();
    assert_eq!(status.unwrap().status.code(), Some(153));
}

#[test]
fn an_existing_socket_file_makes_it_fail() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("api.sock"), "").unwrap();
    let mut vmm = Vmm::spawn(folder, &settings(&[]), &["--api-sock", "api.sock"]);
    assert_eq!(vmm.ended().code(), Some(1));
    assert!(vmm.text("stderr").contains("API socket"));
}

#[test]
fn settings_that_cannot_be_understood_are_no_settings() {
    for settings in [
        json!({ "gest": {} }),
        json!({ "version": "1.16" }),
        json!("x"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut vmm = Vmm::spawn(folder, &settings, &["--api-sock", "api.sock"]);
        assert_eq!(vmm.ended().code(), Some(1), "{settings}");
        assert!(vmm.text("stderr").contains("fake-vmm.json"));
    }
}

#[test]
fn a_configuration_file_boots_without_a_call() {
    let folder = TempDir::new().unwrap();
    let configuration = json!({
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 64 },
        "boot-source": { "kernel_image_path": "kernel" },
        "drives": [{ "drive_id": "r", "path_on_host": "rootfs", "is_root_device": true }],
        "vsock": { "guest_cid": 3, "uds_path": "v.sock" },
    });
    fs::write(folder.path().join("c.json"), configuration.to_string()).unwrap();
    let arguments = ["--no-api", "--config-file", "c.json"];
    let mut vmm = Vmm::spawn(folder, &settings(&["device"]), &arguments);
    assert_eq!(vmm.ended().code(), Some(0));
    assert_eq!(vmm.text("stdout"), "device: true\n");
    assert!(!vmm.path("api.sock").exists());
}

#[test]
fn a_wrong_configuration_file_ends_with_152() {
    for configuration in [
        json!({ "boot-source": { "kernel_image_path": "missing" } }),
        json!({ "boot-source": { "kernel_image_path": "kernel" }, "x": 1 }),
        json!({}),
    ] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("c.json"), configuration.to_string()).unwrap();
        let mut vmm = Vmm::spawn(
            folder,
            &settings(&[]),
            &["--no-api", "--config-file", "c.json"],
        );
        assert_eq!(vmm.ended().code(), Some(152), "{configuration}");
    }
}

#[test]
fn the_environment_names_the_guest_over_the_file() {
    let folder = TempDir::new().unwrap();
    let configuration = json!({ "boot-source": { "kernel_image_path": "/dev/null" } });
    fs::write(folder.path().join("c.json"), configuration.to_string()).unwrap();
    let output = Command::new(program("fake-firecracker"))
        .args(["--no-api", "--config-file", "c.json"])
        .current_dir(folder.path())
        .env("FAKE_VMM_GUEST", program("fake-vmm-guest-fixture"))
        .env(
            "FAKE_VMM_GUEST_ARGUMENTS",
            r#"["print", "from the environment"]"#,
        )
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "from the environment\n"
    );
}

#[test]
fn the_socket_stays_behind() {
    let mut vmm = Vmm::start(&settings(&["print", "x"]));
    vmm.configure();
    vmm.action("InstanceStart");
    vmm.ended();
    eventually("what the real one leaves too", || {
        vmm.path("api.sock").exists()
    });
    assert!(vmm.path("v.sock").exists());
}
