//! Documentation that is made from the program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use cellos_evidence::finding::{FindingKind, Severity};
use cellos_testkit::{python_bin, require};

use crate::{
    keys::ok,
    program::{Place, source_file},
};

/// Set to write the files instead of comparing them.
const BLESS: &str = "BLESS_DOCS";

fn assert_true_to(name: &str, expected: &str) {
    let path = source_file("../../docs").join(name);
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the program says; {BLESS}=1 cargo test -p cellos writes it"
    );
}

#[test]
fn exit_codes_are_documented_as_they_are() {
    assert_true_to("exit-codes.md", &cellos::exit::documentation());
}

#[test]
fn variables_of_the_drop_in_are_documented_as_they_are() {
    assert_true_to(
        "supervisor-variables.md",
        &cellos::supervisor_variables_documentation(),
    );
}

#[test]
fn every_finding_is_documented_with_its_weight() {
    let page = fs::read_to_string(source_file("../../docs").join("evidence.md")).unwrap();
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        in_table = match cells.as_slice() {
            ["", "code", "weight", ..] => true,
            ["", codes, weight, ..] if in_table => {
                let codes = codes.split('`').skip(1).step_by(2);
                rows.extend(codes.map(|code| (code.to_owned(), (*weight).to_owned())));
                true
            }
            _ => false,
        };
    }
    rows.sort();
    let mut expected: Vec<_> = FindingKind::ALL
        .iter()
        .map(|kind| {
            let weight = match kind.severity() {
                Severity::Note => "note",
                Severity::Error => "error",
            };
            (kind.as_str().to_owned(), weight.to_owned())
        })
        .collect();
    expected.sort();
    assert_eq!(rows, expected);
}

/// What docs/verify_log.py says of a log in this place.
fn by_the_page(place: &Path, files: &[&PathBuf]) -> Output {
    Command::new(python_bin().join("python3"))
        .arg(source_file("../../docs").join("verify_log.py"))
        .arg(place.join("keyring.json"))
        .args(files)
        .output()
        .unwrap()
}

#[test]
fn a_verifier_that_follows_the_page_agrees_with_ours() {
    require!("python-packages");
    let place = Place::new();
    ok(&place.cellos(&["keys", "generate"]).output().unwrap());
    let ring = ok(&place
        .cellos(&["keys", "show", "--keyring"])
        .output()
        .unwrap());
    place.file("keyring.json", ring);
    let run = || {
        let run = ["run", "--quiet", "--backend", "stub", "--events"];
        let more = ["events.jsonl", "--", "true"];
        ok(&place.cellos(&[&run[..], &more].concat()).output().unwrap());
    };
    run();
    // A sealed segment, so that the chain goes over two files.
    let prove = ["prove", "0", "--log", "events.jsonl", "--seal"];
    ok(&place.cellos(&prove).output().unwrap());
    run();
    let live = place.path().join("events.jsonl");
    let sealed = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("events.0") && name.ends_with(".jsonl")
        })
        .unwrap();
    let head = ok(&by_the_page(place.path(), &[&sealed, &live]));
    let verify = ["verify", "events.jsonl", "--keys", "keyring.json", "--head"];
    let ours = [&verify[..], &[head.trim()]].concat();
    let ours = ok(&place.cellos(&ours).output().unwrap());
    assert!(ours.contains(&format!("{}\n", head.trim())), "{ours}");

    let refused = |what: &str| {
        let output = by_the_page(place.path(), &[&sealed, &live]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.starts_with("not well: "), "{what}: {said}");
    };
    let good = fs::read(&live).unwrap();
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    for index in 0..lines.len() {
        let mut changed: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
        let middle = changed[index].len() / 2;
        changed[index][middle] ^= 1;
        fs::write(&live, changed.concat()).unwrap();
        refused(&format!("a byte of line {index} is another one"));
        let without = [&lines[..index], &lines[index + 1..]].concat();
        fs::write(&live, without.concat()).unwrap();
        refused(&format!("line {index} is missing"));
    }
    fs::write(&live, &good[..good.len() - 1]).unwrap();
    refused("the end is torn");
    fs::write(&live, &good).unwrap();
    let head = place.path().join("events.jsonl.head");
    let stated = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    refused("there is no head");
    fs::write(&head, stated).unwrap();
    ok(&by_the_page(place.path(), &[&sealed, &live]));
}
