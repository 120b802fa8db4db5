//! What somebody tries who has a true log, its keyset, and at most a key that does not count any
//! more, and wants a false one to be called well.

use std::{fs, path::PathBuf, sync::Arc};

use cellos_core::source::Format;
use serde_json::json;

use super::*;
use crate::{
    head,
    log::{Clock, EventLog, LogConfig, Rotation, Segments},
    merkle::{TreeBuilder, TreeHash},
    seal::SealBody,
};

/// Not the key of any keyset here, or one that has expired.
const OLD: u8 = 1;
/// The key of today.
const NEW: u8 = 2;

/// A keyset whose first key expired, after 03:04:01.
fn rotated() -> Keyset {
    let mut old = key(OLD);
    old.1.not_after = Some("2026-01-02T03:04:01Z".parse().unwrap());
    [old, key(NEW)].into_iter().collect()
}

fn policy(spec: &str) -> VerificationPolicy {
    let text = format!("apiVersion: cellos.io/v1\nkind: VerificationPolicy\nspec: {spec}\n");
    VerificationPolicy::parse(&text, Format::Yaml).unwrap()
}

fn with_keys(keys: &Keyset) -> Checks<'_> {
    Checks {
        keys: Some(keys),
        ..Checks::default()
    }
}

fn open(path: &Path, number: u8) -> EventLog {
    EventLog::open(LogConfig {
        signer: Some(Arc::new(signer(number))),
        rotation: Rotation {
            max_age: None,
            ..Rotation::default()
        },
        // The events of these tests are old.
        clock: Clock::new(|| "2026-01-02T03:04:02Z".parse().unwrap()),
        ..LogConfig::new(path)
    })
    .unwrap()
}

fn append_run(log: &EventLog, run: &str, second: u32) {
    for (ty, second) in [("started", second), ("destroyed", second + 1)] {
        log.append(&[event(&format!("{run}-{ty}"), ty, run, second)])
            .unwrap();
    }
}

/// The errors among what was found about the log itself.
fn errors(checked: &Checked) -> Vec<FindingKind> {
    let kinds = checked.kinds().into_iter().map(|(kind, _)| kind);
    kinds
        .filter(|kind| kind.severity() == crate::finding::Severity::Error)
        .collect()
}

/// A chain of the published form, which anybody can make.
fn rows(events: &[CloudEventV1]) -> String {
    let mut prev = "0".repeat(64);
    let mut text = String::new();
    for (seq, event) in events.iter().enumerate() {
        let mut row = json!({
            "schema": "axiom.audit.v1", "seq": seq, "at": "2026-01-02T03:04:05+00:00",
            "event": event.ty, "body": event, "prev_hash": prev,
        });
        let bytes = cellos_core::canonical::canonical_json_bytes(&row).unwrap();
        prev = blake3::hash(&bytes).to_hex().to_string();
        row["row_hash"] = prev.as_str().into();
        text.push_str(&format!("{row}\n"));
    }
    text
}

fn invented() -> [CloudEventV1; 2] {
    [
        event("i-a", "started", "i", 0),
        event("i-b", "destroyed", "i", 1),
    ]
}

#[test]
fn a_chain_of_the_published_form_without_signatures_is_not_well_where_there_are_keys() {
    let keys = keyset();
    let text = rows(&invented());
    let checked = check_with(text.as_bytes(), &with_keys(&keys));
    assert_eq!(errors(&checked), [FindingKind::Unsigned]);
    assert_eq!(checked.summary.runs_well, 0);
    let hmac = HmacVerifyKeys::parse(br#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#);
    let checks = Checks {
        hmac: Some(&hmac.unwrap()),
        ..Checks::default()
    };
    assert_eq!(
        errors(&check_with(text.as_bytes(), &checks)),
        [FindingKind::Unsigned]
    );
    // Without keys it is what it always was.
    assert!(
        check_with(text.as_bytes(), &Checks::default())
            .summary
            .is_well()
    );
}

#[test]
fn one_signed_row_does_not_speak_for_the_others() {
    let signed = {
        let text = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/samples/signed-ed25519-seed7x32.jsonl"),
        )
        .unwrap();
        let line = text.lines().next().unwrap();
        serde_json::from_str::<CloudEventV1>(line).unwrap()
    };
    let mut events = invented().to_vec();
    events.push(signed);
    let mut k1 = key(1);
    k1.1.public = signer(7).verifying_key();
    let keys: Keyset = [k1].into_iter().collect();
    let demands = policy("{requireSignatures: true}");
    let checks = Checks {
        policy: Some(&demands),
        ..with_keys(&keys)
    };
    let checked = check_with(rows(&events).as_bytes(), &checks);
    assert_eq!(checked.summary.keys["k1"], 1);
    assert_eq!(errors(&checked), [FindingKind::Unsigned]);
}

#[test]
fn shared_keys_demand_signatures_of_a_chained_log_too() {
    let hmac = HmacVerifyKeys::parse(br#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#);
    let checks = Checks {
        hmac: Some(&hmac.unwrap()),
        ..Checks::default()
    };
    let text = lines_of("01LOG", None).0.concat();
    let checked = check_with(&text, &checks);
    assert_eq!(errors(&checked), [FindingKind::Unsigned]);
    assert_eq!(checked.summary.runs_well, 0);
}

#[test]
fn a_signed_log_without_its_head_may_have_lost_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let log = open(&path, OLD);
    append_run(&log, "r1", 0);
    append_run(&log, "r2", 2);
    log.sync().unwrap();
    let keys = keyset();
    assert_eq!(errors(&check_file(&path, &with_keys(&keys))), []);
    // The last run is hidden, and with it what would tell.
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    fs::write(&path, lines[..2].concat()).unwrap();
    fs::remove_file(head::path_of(&path)).unwrap();
    let checked = check_file(&path, &with_keys(&keys));
    assert!(!checked.summary.is_well());
}

#[test]
fn segments_that_were_removed_from_the_beginning_hide_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let log = open(&path, OLD);
    append_run(&log, "r1", 0);
    log.rotate().unwrap();
    append_run(&log, "r2", 2);
    log.rotate().unwrap();
    append_run(&log, "r3", 4);
    log.sync().unwrap();
    let keys = keyset();
    assert_eq!(errors(&check_file(&path, &with_keys(&keys))), []);
    let first = Segments::of(&path).unwrap().sealed.remove(0);
    fs::remove_file(first.path).unwrap();
    fs::remove_file(first.seal.unwrap()).unwrap();
    let checked = check_file(&path, &with_keys(&keys));
    assert!(!checked.summary.is_well());
}

#[test]
fn a_published_head_is_demanded_of_a_log_of_any_form() {
    let plain: String = invented()
        .iter()
        .map(|event| format!("{}\n", serde_json::to_string(event).unwrap()))
        .collect();
    let rows = rows(&invented());
    for text in [&plain, &rows] {
        let checks = Checks {
            head: Some(head_of(&signed())),
            ..Checks::default()
        };
        let checked = check_with(text.as_bytes(), &checks);
        assert!(!checked.summary.is_well(), "{text}");
    }
    // The head that a check of rows prints is one that it takes.
    let checked = check_with(rows.as_bytes(), &Checks::default());
    let mut head = PublishedHead {
        seq: checked.summary.last_seq.unwrap(),
        hash: checked.summary.head.unwrap(),
    };
    let check = |head: &PublishedHead| {
        let checks = Checks {
            head: Some(head.clone()),
            ..Checks::default()
        };
        errors(&check_with(rows.as_bytes(), &checks))
    };
    assert_eq!(check(&head), []);
    head.hash = "0".repeat(64);
    assert_eq!(check(&head), [FindingKind::TailReplaced]);
    head.seq = 9;
    assert_eq!(check(&head), [FindingKind::CutOff]);
}

#[test]
fn an_expired_key_moves_no_head_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    append_run(&open(&path, OLD), "r1", 0);
    let log = open(&path, NEW);
    append_run(&log, "r2", 2);
    append_run(&log, "r3", 4);
    log.sync().unwrap();
    let keys = rotated();
    assert_eq!(errors(&check_file(&path, &with_keys(&keys))), []);
    // Its holder cuts the last run off, and says in the past that it ended there.
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').take(4).collect();
    fs::write(&path, lines.concat()).unwrap();
    let last = lines[3].trim_end().as_bytes();
    let tail = Tail {
        log_id: line::parse(last).unwrap().log_id.to_owned(),
        next_seq: 4,
        prev: LineHash::of_line(last),
    };
    let past = "2026-01-02T03:04:00Z".parse().unwrap();
    let forged = head::write(&tail, past, Some(&signer(OLD))).unwrap();
    fs::write(head::path_of(&path), forged).unwrap();
    let checked = check_file(&path, &with_keys(&keys));
    assert_eq!(errors(&checked), [FindingKind::KeyOutsideValidity]);
}

/// A seal over these lines, as somebody writes it who has a key.
fn seal_of(lines: &[Vec<u8>], number: u8, time: &str) -> Vec<u8> {
    let bare: Vec<_> = lines
        .iter()
        .map(|line| line.strip_suffix(b"\n").unwrap())
        .collect();
    let mut tree = TreeBuilder::default();
    bare.iter().for_each(|line| tree.push(TreeHash::leaf(line)));
    let (first, last) = (
        line::parse(bare[0]).unwrap(),
        line::parse(bare.last().unwrap()).unwrap(),
    );
    SealBody {
        log_id: first.log_id.to_owned(),
        first: first.seq,
        last: last.seq,
        before: first.prev,
        last_hash: LineHash::of_line(bare.last().unwrap()),
        bytes: lines.concat().len() as u64,
        root: tree.root(),
        time: time.parse().unwrap(),
    }
    .write(Some(&signer(number)))
    .unwrap()
}

#[test]
fn an_expired_key_vouches_for_no_later_lines() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| -> PathBuf { folder.path().join(name) };
    let (lines, tail) = lines_of("01LOG", None);
    fs::write(
        place("events.000000000000-000000000005.jsonl"),
        lines.concat(),
    )
    .unwrap();
    let keys = rotated();
    let seal = place("events.000000000000-000000000005.seal.json");
    let head_file = head::path_of(&place("events.jsonl"));
    let check_by = |number: u8, time: &str| {
        fs::write(&seal, seal_of(&lines, number, time)).unwrap();
        let head = head::write(&tail, time.parse().unwrap(), Some(&signer(number))).unwrap();
        fs::write(&head_file, head).unwrap();
        errors(&check_file(&place("events.jsonl"), &with_keys(&keys)))
    };
    // A true one: the log was unsigned, and sealed when it got its signer.
    assert_eq!(check_by(NEW, "2026-01-02T03:05:00Z"), []);
    // Lines that were changed after they had been sealed: no run of theirs is believed.
    let segment = place("events.000000000000-000000000005.jsonl");
    let text = String::from_utf8(lines.concat()).unwrap();
    fs::write(&segment, text.replacen("3600", "3601", 2)).unwrap();
    let checked = check_file(&place("events.jsonl"), &with_keys(&keys));
    assert!(errors(&checked).contains(&FindingKind::SealBroken));
    assert_eq!(checked.summary.runs_well, 0);
    fs::write(&segment, text).unwrap();
    // An invented one, by the holder of a key that expired before these events.
    let found = check_by(OLD, "2026-01-02T03:04:00Z");
    assert!(
        found.contains(&FindingKind::KeyOutsideValidity),
        "{found:?}"
    );
    assert!(found.contains(&FindingKind::Unsigned), "{found:?}");
}

#[test]
fn a_policy_that_names_signers_takes_nothing_unsigned() {
    let demands = policy("{signers: [k1]}");
    for signatures in [Signatures::Demanded, Signatures::ChainOnly] {
        let checks = Checks {
            signatures,
            policy: Some(&demands),
            ..Checks::default()
        };
        let plain = lines_of("01LOG", None).0.concat();
        assert_eq!(
            errors(&check_with(&plain, &checks)),
            [FindingKind::Unsigned]
        );
        // What names the signer and was not checked is no better.
        let signed = check_with(&signed().concat(), &checks);
        assert_eq!(errors(&signed), [FindingKind::SignaturesUnchecked]);
    }
}

#[test]
fn a_file_that_readers_do_not_take_for_a_segment_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let log = open(&path, OLD);
    append_run(&log, "r1", 0);
    log.rotate().unwrap();
    append_run(&log, "r2", 2);
    log.sync().unwrap();
    let keys = keyset();
    let first = Segments::of(&path).unwrap().sealed.remove(0).path;
    let away = folder.path().join("elsewhere");
    fs::rename(&first, &away).unwrap();
    for name in ["events.0-1.jsonl", "events.+0-1.jsonl"] {
        let renamed = folder.path().join(name);
        fs::copy(&away, &renamed).unwrap();
        let checked = check_file(&path, &with_keys(&keys));
        assert!(errors(&checked).contains(&FindingKind::Gap), "{name}");
        fs::remove_file(renamed).unwrap();
    }
    std::os::unix::fs::symlink(&away, &first).unwrap();
    let checked = check_file(&path, &with_keys(&keys));
    assert!(errors(&checked).contains(&FindingKind::Gap));
}

#[test]
fn a_log_of_any_name_is_read_with_its_segments() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["audit.log", "trail", "x.y.jsonl"] {
        let path = folder.path().join(name);
        let log = open(&path, OLD);
        append_run(&log, "r1", 0);
        log.rotate().unwrap();
        append_run(&log, "r2", 2);
        log.sync().unwrap();
        let keys = keyset();
        let checked = check_file(&path, &with_keys(&keys));
        assert_eq!(errors(&checked), [], "{name}");
        assert_eq!(checked.summary.runs_well, 2, "{name}");
    }
}

#[test]
fn a_name_as_long_as_a_line_does_not_fill_the_report() {
    let stranger = SoftwareSigner::from_seed("k".repeat(500_000), [9; 32]);
    let mut tail = Tail::of_new_log("L".repeat(100_000));
    let text = line::encode(&mut tail, &invented(), Some(&stranger)).unwrap();
    let keys = keyset();
    let checked = check_with(&text, &with_keys(&keys));
    assert!(errors(&checked).contains(&FindingKind::UnknownKey));
    for finding in &checked.recorder.findings {
        assert!(finding.detail.len() <= MAX_DETAIL_BYTES + '…'.len_utf8());
    }
}

/// Counts verdicts, and those that came before anything was found.
#[derive(Default)]
struct Early {
    verdicts: usize,
    early: usize,
    found: bool,
}

impl Observer for Early {
    fn finding(&mut self, _: &Finding) {
        self.found = true;
    }
    fn verdict(&mut self, _: &Verdict) {
        self.verdicts += 1;
        self.early += usize::from(!self.found);
    }
    fn progress(&mut self, _: u64) {}
}

#[test]
fn runs_of_a_log_that_nobody_signed_do_not_pile_up() {
    let mut tail = Tail::of_new_log("01LOG");
    let mut text = Vec::new();
    let runs = 2 * MAX_WAITING_RUNS;
    for run in 0..runs {
        let run = format!("r{run}");
        let events = [
            event(&format!("{run}-a"), "started", &run, 0),
            event(&format!("{run}-b"), "destroyed", &run, 1),
        ];
        text.extend(line::encode(&mut tail, &events, None).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    fs::write(&path, text).unwrap();
    let keys = keyset();
    let mut early = Early::default();
    let summary = verify(&path, &with_keys(&keys), &mut early).unwrap();
    assert_eq!((summary.runs_well, early.verdicts), (0, runs));
    // The one finding about all lines comes at the end.
    assert!(early.early >= MAX_WAITING_RUNS, "{}", early.early);
}
