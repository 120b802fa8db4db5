//! Wrong calls and unreadable documents: one clear error each, with its exit code.

use cellos_testkit::Ability;

use crate::program::{Place, snapshot, with_input};

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
fn a_limit_that_the_backend_does_not_enforce_is_refused_by_name() {
    let place = Place::new();
    let output = place
        .cellos(&["run", "--backend", "stub", "--memory", "64M", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let hint = match Ability::Cgroups.probe() {
        Ok(()) => "a backend that can: linux",
        Err(_) => "no backend of this build can on this host",
    };
    for part in [
        "spec.run.limits.memoryMaxBytes: backend `stub` does not enforce memory limits",
        hint,
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn broken_and_bottomless_documents_are_refused_with_their_place() {
    let place = Place::new();
    place.file("cut.json", r#"{"apiVersion": "cellos.io/v1", "spec": {"#);
    place.file("cut.yaml", "apiVersion: cellos.io/v1\nspec: [1, {a: \n");
    place.file("empty.yaml", "");
    place.file("deep.json", "[".repeat(500_000));
    place.file("deep.yaml", "[".repeat(500_000));
    place.file(
        "steps.yaml",
        (0..900)
            .map(|n| format!("{}a:\n", " ".repeat(n)))
            .collect::<String>(),
    );
    place.file(
        "bomb.yaml",
        "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n",
    );
    for file in [
        "cut.json",
        "cut.yaml",
        "empty.yaml",
        "deep.json",
        "deep.yaml",
        "steps.yaml",
        "bomb.yaml",
    ] {
        let output = place.cellos(&["run", file]).output().unwrap();
        assert_eq!(output.status.code(), Some(126), "{file}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let first = stderr.lines().next().unwrap();
        assert!(first.starts_with(&format!("cellos: {file}")), "{stderr}");
        assert!(first.contains("error: "), "{stderr}");
        assert!(
            stderr.len() < 4096,
            "{file}: {} bytes of text",
            stderr.len()
        );
        assert!(!place.path().join("state/log").exists(), "{file}");
    }
}

#[test]
fn a_document_on_standard_input_is_capped_too() {
    let place = Place::new();
    let output = with_input(&mut place.cellos(&["run", "-"]), &vec![b'#'; 3 << 20]);
    snapshot!("refused-huge-stdin", place, &output);
}
