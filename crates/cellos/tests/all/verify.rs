//! `cellos verify`, over logs of real runs and of a signer of the test's own.

use std::{fs, path::PathBuf, process::Output};

use cellos_core::{
    CloudEventV1,
    signing::{Signer, SoftwareSigner},
};
use cellos_evidence::{
    line::{self, Tail},
    log::{EventLog, LogConfig},
};
use cellos_testkit::require;
use serde_json::{Value, json};

use crate::program::{Place, source_file};

/// A log of two runs, signed by k1, in this place; and the keyring for it.
fn signed_log(place: &Place) -> PathBuf {
    let path = place.path().join("signed.jsonl");
    let signer = std::sync::Arc::new(SoftwareSigner::from_seed("k1", [7; 32]));
    let log = EventLog::open(LogConfig {
        signer: Some(signer),
        ..LogConfig::new(&path)
    })
    .unwrap();
    for run in ["r1", "r2"] {
        log.append(&[event(run, "started", 0)]).unwrap();
        log.append(&[event(run, "destroyed", 1)]).unwrap();
    }
    log.sync().unwrap();
    place.file(
        "keys.json",
        r#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#,
    );
    path
}

fn event(run: &str, ty: &str, second: u32) -> CloudEventV1 {
    serde_json::from_value(json!({
        "specversion": "1.0",
        "id": format!("{run}-{ty}"),
        "source": "cellos-supervisor",
        "type": format!("dev.cellos.events.cell.lifecycle.v1.{ty}"),
        "datacontenttype": "application/json",
        "data": {
            "cellId": "c", "specId": "c", "runId": run, "ttlSeconds": 3600,
            "outcome": "succeeded", "terminalState": "clean",
        },
        "time": format!("2026-01-02T03:04:{second:02}Z"),
    }))
    .unwrap()
}

fn verify(place: &Place, arguments: &[&str]) -> Output {
    place
        .cellos(&[&["verify"], arguments].concat())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    text(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn codes(output: &Output) -> Vec<String> {
    let objects = objects(output);
    let findings = objects.iter().filter(|it| it["kind"] == "finding");
    let errors = findings.filter(|it| it["severity"] == "error");
    errors
        .map(|it| it["code"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_signed_log_is_well_with_its_key_and_says_what_it_is() {
    let place = Place::new();
    signed_log(&place);
    let output = verify(&place, &["signed.jsonl", "--keys", "keys.json", "--all"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for part in [
        "well  cell c, run r1, from signed.jsonl:1",
        "signed by    k1 (4 signatures)",
        "runs         2 well, 0 not well",
        "all is well",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // The head that it prints is one that it takes.
    let head = shown
        .lines()
        .find_map(|line| line.strip_prefix("head "))
        .unwrap()
        .trim();
    let keys = ["signed.jsonl", "--keys", "keys.json", "--head", head];
    assert_eq!(verify(&place, &keys).status.code(), Some(0));
}

#[test]
fn a_signed_log_without_keys_is_not_well_unless_only_the_chain_is_wanted() {
    let place = Place::new();
    signed_log(&place);
    let output = verify(&place, &["signed.jsonl", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(codes(&output), ["signatures_unchecked"]);
    let chain = verify(&place, &["signed.jsonl", "--chain-only"]);
    assert_eq!(chain.status.code(), Some(0), "{chain:?}");
    assert!(text(&chain).contains("not checked  signatures: no keys were given"));
}

#[test]
fn each_attack_is_named_with_its_line() {
    let place = Place::new();
    let path = signed_log(&place);
    let log = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let last = line::LineHash::of_line(lines[3].trim_end().as_bytes());
    let head = format!("3:{last}");
    let changed = lines[1].replace("succeeded", "succeeted");
    let other = {
        let signer = SoftwareSigner::from_seed("k1", [7; 32]);
        let mut tail = Tail::of_new_log("01OTHER");
        let line = line::encode(&mut tail, &[event("r3", "started", 2)], Some(&signer)).unwrap();
        String::from_utf8(line).unwrap()
    };
    let cases: [(&str, Vec<&str>, &str, u64); 7] = [
        (
            "changed",
            vec![lines[0], &changed, lines[2], lines[3]],
            "signature_invalid",
            2,
        ),
        ("deleted", vec![lines[0], lines[2], lines[3]], "gap", 2),
        (
            "repeated",
            vec![lines[0], lines[0], lines[1], lines[2], lines[3]],
            "repeated",
            2,
        ),
        (
            "reordered",
            vec![lines[1], lines[0], lines[2], lines[3]],
            "gap",
            1,
        ),
        ("cut off", vec![lines[0], lines[1], lines[2]], "cut_off", 0),
        (
            "torn",
            vec![lines[0], lines[1], lines[2], &lines[3][..50]],
            "torn_end",
            4,
        ),
        (
            "spliced",
            vec![lines[0], lines[1], lines[2], lines[3], &other],
            "other_log",
            5,
        ),
    ];
    for (name, lines, code, line) in cases {
        place.file("attacked.jsonl", lines.concat());
        let arguments = ["attacked.jsonl", "--keys", "keys.json", "--head", &head];
        let output = verify(&place, &[&arguments[..], &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{name}");
        let objects = objects(&output);
        let named = objects
            .iter()
            .any(|it| it["code"] == code && it["line"] == line);
        assert!(named, "{name}: {objects:#?}");
        assert_eq!(objects.last().unwrap()["verdict"], "notWell");
        let shown = text(&verify(&place, &arguments));
        let place = match line {
            0 => format!("attacked.jsonl: {code}: "),
            line => format!("attacked.jsonl:{line}: {code}: "),
        };
        assert!(shown.contains(&place), "{name}: {shown}");
        assert!(shown.ends_with("NOT all is well\n"), "{name}: {shown}");
    }
}

#[test]
fn what_a_log_says_cannot_steer_the_terminal() {
    let place = Place::new();
    let signer = SoftwareSigner::from_seed("\u{1b}[2Jk", [8; 32]);
    let signer: &dyn Signer = &signer;
    let mut tail = Tail::of_new_log("01\u{1b}]0;x\u{7}");
    let events = [event("\u{1b}[31mr", "started", 0)];
    let line = line::encode(&mut tail, &events, Some(signer)).unwrap();
    place.file("hostile.jsonl", line);
    place.file("keys.json", "{}");
    for keys in [&["--keys", "keys.json"][..], &[]] {
        let output = verify(&place, &[&["hostile.jsonl", "--all"], keys].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(!text(&output).contains('\u{1b}'), "{}", text(&output));
    }
}

#[test]
fn a_policy_demands_more_than_the_truth() {
    let place = Place::new();
    signed_log(&place);
    for (spec, code, part) in [
        (
            "{requireSignatures: true, signers: [k1], maxTtlSeconds: 3600}",
            0,
            "all is well",
        ),
        (
            "{signers: [k2]}",
            1,
            "policy: key \"k1\" may not sign this log",
        ),
        (
            "{maxTtlSeconds: 60}",
            1,
            "policy: maxTtlSeconds: 3600 is more than 60",
        ),
        (
            "{requireResidueMeasured: true}",
            1,
            "policy: requireResidueMeasured",
        ),
        (
            "{outcomes: [failed]}",
            1,
            "policy: outcomes: \"succeeded\" is not among them",
        ),
        (
            "{tenants: [acme]}",
            1,
            "policy: tenants: the log does not say",
        ),
        ("{requireSignatures: 3}", 125, "requireSignatures"),
        ("{signer: [k1]}", 125, "signer"),
    ] {
        place.file(
            "policy.yaml",
            format!("apiVersion: cellos.io/v1\nkind: VerificationPolicy\nspec: {spec}\n"),
        );
        let arguments = [
            "signed.jsonl",
            "--keys",
            "keys.json",
            "--policy",
            "policy.yaml",
        ];
        let output = verify(&place, &arguments);
        assert_eq!(output.status.code(), Some(code), "{spec}: {output:?}");
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(part), "{spec}: {said}");
    }
}

#[test]
fn a_log_without_its_head_or_its_beginning_is_well_only_where_that_is_said() {
    let place = Place::new();
    let path = signed_log(&place);
    let signer = std::sync::Arc::new(SoftwareSigner::from_seed("k1", [7; 32]));
    let log = EventLog::open(LogConfig {
        signer: Some(signer),
        ..LogConfig::new(&path)
    })
    .unwrap();
    log.rotate().unwrap();
    log.rotate().unwrap();
    log.sync().unwrap();
    drop(log);
    let check = |flags: &[&str]| {
        let arguments = ["signed.jsonl", "--keys", "keys.json", "--json"];
        let output = verify(&place, &[&arguments[..], flags].concat());
        (output.status.code(), codes(&output))
    };
    assert_eq!(check(&[]), (Some(0), vec![]));
    let head = place.path().join("signed.jsonl.head");
    let kept = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    assert_eq!(check(&[]), (Some(1), vec!["head_missing".to_owned()]));
    assert_eq!(check(&["--open-end"]), (Some(0), vec![]));
    fs::write(&head, kept).unwrap();
    for end in ["jsonl", "seal.json"] {
        let name = format!("signed.000000000000-000000000003.{end}");
        fs::remove_file(place.path().join(name)).unwrap();
    }
    assert_eq!(check(&[]), (Some(1), vec!["pruned".to_owned()]));
    assert_eq!(check(&["--pruned"]), (Some(0), vec![]));
}

#[test]
fn rows_that_anybody_could_have_chained_are_not_well_where_there_are_keys() {
    let place = Place::new();
    signed_log(&place);
    let samples = source_file("../cellos-evidence/tests/samples");
    fs::copy(
        samples.join("chain/audit-trail.jsonl"),
        place.path().join("signed.jsonl"),
    )
    .unwrap();
    let output = verify(&place, &["signed.jsonl", "--keys", "keys.json", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(codes(&output), ["unsigned"]);
}

#[test]
fn what_cannot_be_checked_is_no_verdict() {
    let place = Place::new();
    signed_log(&place);
    place.file("empty.jsonl", "");
    fs::create_dir(place.path().join("folder")).unwrap();
    for (arguments, part) in [
        (&["missing.jsonl"][..], "cannot open it"),
        (&["empty.jsonl"], "there is no line in it"),
        (&["folder"], "there is no line in it"),
        (
            &["signed.jsonl", "--keys", "none.json"],
            "the keys cannot be used",
        ),
        (&["signed.jsonl", "--head", "3"], "SEQ:HASH"),
        (&["/dev/null"], "not a regular file"),
    ] {
        let output = verify(&place, arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn logs_of_the_published_implementation_are_checked() {
    let place = Place::new();
    let samples = source_file("../cellos-evidence/tests/samples");
    let sample = |name: &str| samples.join(name).to_str().unwrap().to_owned();
    place.file(
        "keys.json",
        r#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#,
    );
    for (name, keys, code) in [
        ("plain-ok.jsonl", &[][..], 0),
        ("chain", &[], 0),
        ("signed-ed25519-seed7x32.jsonl", &["--keys", "keys.json"], 0),
        ("signed-ed25519-seed7x32.jsonl", &[], 1),
        (
            "signed-and-redacted-BROKEN.jsonl",
            &["--keys", "keys.json"],
            1,
        ),
    ] {
        let output = verify(&place, &[&[sample(name).as_str()], keys].concat());
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
    }
}

#[test]
fn the_log_of_real_cells_is_well() {
    require!("userns");
    let place = Place::new();
    for code in ["exit 0", "exit 3"] {
        let output = place
            .cellos(&["run", "--", "sh", "-c", code])
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    }
    let output = verify(&place, &["state/log", "--all"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("2 well, 0 not well"), "{shown}");
    assert!(shown.contains("not checked  authorship"), "{shown}");
}
