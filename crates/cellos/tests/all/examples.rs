//! Every example runs, isolated, and does what it says; and what only real cells show.

use std::{path::PathBuf, process::Output};

use cellos_testkit::require;

use crate::program::{Place, source_file};

fn example(name: &str) -> PathBuf {
    source_file("../../examples").join(name)
}

fn run(place: &Place, name: &str) -> Output {
    let output = place
        .cellos(&[
            "run",
            "--export-dir",
            "out",
            example(name).to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    output
}

#[test]
fn every_example_is_a_valid_document() {
    let place = Place::new();
    for name in [
        "hello.yaml",
        "limits.yaml",
        "build-export.yaml",
        "python-job/cell.yaml",
    ] {
        let file = example(name);
        let output = place
            .cellos(&["validate", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn hello_sees_nothing_of_the_host() {
    require!("userns");
    let output = run(&Place::new(), "hello.yaml");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Hello from a cell."), "{text}");
    assert!(text.contains("Home folders:    0"), "{text}");
}

#[test]
fn limits_leave_room_for_their_workers() {
    require!("userns");
    require!("cgroups");
    let output = run(&Place::new(), "limits.yaml");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 3);
}

#[test]
fn the_python_job_reads_its_mount_and_writes_its_folder() {
    require!("userns");
    require!("cgroups");
    require!("python3");
    let output = run(&Place::new(), "python-job/cell.yaml");
    assert_eq!(
        output.stdout,
        b"{\"ada\": \"42.50\", \"grace\": \"7.25\"}\n"
    );
}

#[test]
fn the_build_exports_its_archive() {
    require!("userns");
    let place = Place::new();
    run(&place, "build-export.yaml");
    let archive = place.path().join("out/build-export/greeting.tar.gz");
    let list = std::process::Command::new("tar")
        .arg("-tzf")
        .arg(archive)
        .output()
        .unwrap();
    assert_eq!(list.stdout, b"./\n./bin/\n./bin/greet\n");
}

#[test]
fn a_mount_that_this_host_lacks_is_a_refusal() {
    require!("userns");
    let place = Place::new();
    let output = place
        .cellos(&["run", "--json", "--mount", "missing:/data", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["shellExitCode"], 126);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("cellos: error: spec.authority.filesystem.mounts[0].source: "),
        "{stderr}"
    );
}

#[test]
fn the_evidence_is_what_the_kernel_says_of_the_workload() {
    require!("userns");
    let place = Place::new();
    let output = place
        .cellos(&["run", "--show-evidence", "--", "true"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in [
        "namespaces    own cgroup ipc mnt net pid user uts",
        "CapEff 0000000000000000 (none)",
        "Seccomp 2 (filter",
        "NoNewPrivs 1",
        "residue       none",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn doctor_agrees_that_cells_can_run() {
    require!("userns");
    let place = Place::new();
    let output = place.cellos(&["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "works", "{report}");
    assert_eq!(output.status.code(), Some(0));
    assert!(report["checks"].as_array().unwrap().len() > 15);
}
