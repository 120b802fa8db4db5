//! Attestations of real cells, whose log is signed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use cellos_testkit::require;

use crate::program::Place;

/// A file key that nobody published.
const OTHER_SEED: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg";

#[track_caller]
fn ends(command: &mut Command, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert_eq!(status.code(), Some(code), "{said}");
    said
}

/// A place with keys of its own, and a cell in its signed log that exported `made`.
fn place_with_run() -> Place {
    let place = Place::new();
    ends(&mut place.cellos(&["keys", "generate"]), 0);
    let document = r#"{"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": {"id": "ev",
        "run": {"argv": ["/bin/sh", "-c", "echo made > out.txt"]},
        "authority": {}, "lifetime": {"ttlSeconds": 30},
        "export": {"artifacts": [{"name": "out", "path": "out.txt"}]}}}"#;
    place.file("cell.json", document);
    let run = ["run", "--run-id", "r1", "--export-dir", "out"];
    ends(
        &mut place.cellos(&[&run[..], &["--attest", "own.jsonl", "cell.json"]].concat()),
        0,
    );
    place
}

#[test]
fn a_stranger_finds_the_artifact_of_a_cell_and_no_changed_one() {
    require!("userns");
    let place = place_with_run();
    let artifact = place.path().join("out/ev/out");
    assert_eq!(fs::read_to_string(&artifact).unwrap(), "made\n");
    // A later key signs the attestation; the keyset that publishes it has the earlier one too.
    ends(&mut place.cellos(&["keys", "rotate"]), 0);
    let attest = [
        "attest",
        "r1",
        "--document",
        "cell.json",
        "-o",
        "later.jsonl",
    ];
    ends(&mut place.cellos(&attest), 0);
    for file in ["own.jsonl", "later.jsonl"] {
        let check = [
            "attest",
            "--check",
            file,
            "--keys",
            "keys/keyset.json",
            "--artifact",
            "out/ev/out",
        ];
        fs::write(&artifact, "made\n").unwrap();
        let said = ends(&mut place.cellos(&check), 0);
        assert!(said.contains("out/ev/out: attested by line 1, 2"), "{said}");
        fs::write(&artifact, "Made\n").unwrap();
        let said = ends(&mut place.cellos(&check), 125);
        assert!(said.contains("no attestation is about it"), "{said}");
    }
}

#[test]
fn a_signed_log_is_attested_with_the_keys_that_signed_it() {
    require!("userns");
    let place = place_with_run();
    let key = place.file("other.key", OTHER_SEED);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let with_other = ["attest", "r1", "--signing-key", "./other.key"];
    let attest = |more: &[&str]| place.cellos(&[&with_other, more].concat());
    // Nobody published the other key, so nothing says who may have signed the log.
    let said = ends(&mut attest(&[]), 125);
    assert!(said.contains("unknown_key"), "{said}");
    let said = ends(&mut attest(&["--allow-findings"]), 0);
    assert!(said.contains("unknown_key"), "{said}");
    ends(&mut attest(&["--keys", "keys/keyset.json"]), 0);
    // Keys of another host.
    let generate = ["keys", "generate", "--key-dir", "others"];
    ends(&mut place.cellos(&generate), 0);
    let said = ends(&mut attest(&["--keys", "others/keyset.json"]), 125);
    assert!(said.contains("unknown_key"), "{said}");
}

#[test]
fn a_log_whose_signatures_were_taken_out_is_not_attested() {
    require!("userns");
    let place = place_with_run();
    // The same events in a log that anybody can write: chained, and unsigned.
    let mut tail = cellos_evidence::line::Tail::of_new_log("01J");
    let log = fs::read(place.path().join("state/log/events.jsonl")).unwrap();
    let mut forged = Vec::new();
    for line in log.trim_ascii_end().split(|byte| *byte == b'\n') {
        let parsed = cellos_evidence::line::parse(line).unwrap();
        let event = serde_json::from_str(parsed.event.get()).unwrap();
        forged.extend(cellos_evidence::line::encode(&mut tail, &[event], None).unwrap());
    }
    place.file("forged.jsonl", forged);
    let attest = ["attest", "r1", "--log", "forged.jsonl"];
    let said = ends(&mut place.cellos(&attest), 125);
    assert!(said.contains("unsigned"), "{said}");
    // Nor by a key that nobody published, which has not signed it either.
    let key = place.file("other.key", OTHER_SEED);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let with_other = [&attest[..], &["--signing-key", "./other.key"]].concat();
    let said = ends(&mut place.cellos(&with_other), 125);
    assert!(said.contains("unsigned"), "{said}");
}
