//! Every example runs, isolated, and does what it says.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use cellos_testkit::require;

use crate::program::Place;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
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
