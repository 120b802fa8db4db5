//! Wrong calls and unreadable documents: one clear error each, with its exit code.

use crate::program::{Place, regex_escape, snapshot, with_input};

#[test]
fn wrong_calls_of_run_are_explained() {
    let place = Place::new();
    place.file("cell.yaml", "{}");
    for (name, arguments) in [
        ("nothing", &["run"][..]),
        ("unknown-flag", &["run", "--memroy", "1G", "--", "true"]),
        ("document-and-command", &["run", "cell.yaml", "--", "true"]),
        (
            "document-and-flags",
            &["run", "--memory", "1G", "--ttl", "5s", "cell.yaml"],
        ),
        (
            "unknown-backend",
            &["run", "--backend", "firecracker", "--", "true"],
        ),
        ("bad-size", &["run", "--memory", "256MB", "--", "true"]),
        ("bad-ttl", &["run", "--ttl", "500ms", "--", "true"]),
        ("bad-mount", &["run", "--mount", "here", "--", "true"]),
        ("bad-run-id", &["run", "--run-id", "../x", "--", "true"]),
        (
            "variable-twice",
            &["run", "--env", "A=1", "--env", "A=2", "--", "true"],
        ),
        (
            "unwritable-events",
            &[
                "run",
                "--backend",
                "stub",
                "--events",
                "/proc/no/file",
                "--",
                "true",
            ],
        ),
        (
            "mount-above",
            &["run", "--mount", "a/../b:/data", "--", "true"],
        ),
        (
            "no-limits-with-stub",
            &["run", "--backend", "stub", "--memory", "64M", "--", "true"],
        ),
    ] {
        let output = place.cellos(arguments).output().unwrap();
        snapshot!(format!("refused-{name}"), place, &output);
    }
}

#[test]
fn documents_that_cannot_be_read_are_named_for_what_they_are() {
    let place = Place::new();
    place.file("utf16.yaml", b"\xff\xfea\0:\0");
    place.file("mark.yaml", b"\xef\xbb\xbfa: 1");
    place.file("latin1.yaml", b"a: 1\nb: caf\xe9\n");
    place.file("huge.yaml", vec![b'#'; (1 << 20) + 1]);
    std::os::unix::fs::symlink("mark.yaml", place.path().join("link.yaml")).unwrap();
    std::fs::create_dir(place.path().join("folder")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(place.path().join("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let files = [
        "missing.yaml",
        "utf16.yaml",
        "mark.yaml",
        "latin1.yaml",
        "huge.yaml",
        "link.yaml",
        "folder",
        "fifo",
        "/dev/zero",
    ];
    for file in files {
        let output = place.cellos(&["run", file]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{file}");
    }
    let output = place
        .cellos(&[&["validate"], &files[..]].concat())
        .output()
        .unwrap();
    snapshot!("unreadable", place, &output);
}

#[test]
fn a_document_on_standard_input_is_capped_too() {
    let place = Place::new();
    let output = with_input(&mut place.cellos(&["run", "-"]), &vec![b'#'; 3 << 20]);
    snapshot!("refused-huge-stdin", place, &output);
}
