//! Attacks on small logs.

mod anything;
mod beside;
mod folders;
mod forged;
mod published;
mod seals;
mod signatures;

use std::{fs, path::Path};

use cellos_core::{
    CloudEventV1,
    signing::{Signer as _, SoftwareSigner},
};

use super::*;
use crate::{
    finding::{Finding, FindingKind},
    keyset::{KeysetKey, Revocation},
    line::{self, LineHash, Tail},
};

const LIFECYCLE: &str = "dev.cellos.events.cell.lifecycle.v1";

fn event(id: &str, ty: &str, run: &str, second: u32) -> CloudEventV1 {
    let data = match ty {
        "started" => serde_json::json!({
            "cellId": "c", "specId": "c", "runId": run, "ttlSeconds": 3600,
        }),
        _ => serde_json::json!({
            "cellId": "c", "specId": "c", "runId": run, "ttlSeconds": 3600,
            "outcome": "succeeded", "terminalState": "clean",
            "residue": {"lookedFor": ["processes"], "found": []},
        }),
    };
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0",
        "id": id,
        "source": "cellos-supervisor",
        "type": format!("{LIFECYCLE}.{ty}"),
        "datacontenttype": "application/json",
        "data": data,
        "time": format!("2026-01-02T03:04:{second:02}Z"),
    }))
    .unwrap()
}

fn signer(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_seed(format!("k{number}"), [number; 32])
}

fn key(number: u8) -> (String, KeysetKey) {
    let key = KeysetKey {
        public: signer(number).verifying_key(),
        not_before: None,
        not_after: None,
        revoked: None,
    };
    (format!("k{number}"), key)
}

fn keyset() -> Keyset {
    [key(1), key(2)].into_iter().collect()
}

/// The lines of a log of three runs, which are written in groups of 1 and 2 lines.
fn lines_of(log: &str, signer: Option<&SoftwareSigner>) -> (Vec<Vec<u8>>, Tail) {
    let signer = signer.map(|signer| signer as &dyn cellos_core::signing::Signer);
    let mut tail = Tail::of_new_log(log);
    let mut text = Vec::new();
    for (index, run) in ["r1", "r2", "r3"].into_iter().enumerate() {
        let second = u32::try_from(index).unwrap() * 2;
        let id = |part: &str| format!("{log}-{run}-{part}");
        let events = [
            event(&id("a"), "started", run, second),
            event(&id("b"), "destroyed", run, second + 1),
        ];
        if index == 1 {
            text.extend(line::encode(&mut tail, &events, signer).unwrap());
        } else {
            for event in events {
                text.extend(line::encode(&mut tail, &[event], signer).unwrap());
            }
        }
    }
    let lines = text
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    (lines, tail)
}

fn signed() -> Vec<Vec<u8>> {
    lines_of("01LOG", Some(&signer(1))).0
}

/// Keeps all that it is told.
#[derive(Default)]
struct Recorder {
    findings: Vec<Finding>,
    verdicts: Vec<Verdict>,
}

impl Observer for Recorder {
    fn finding(&mut self, finding: &Finding) {
        self.findings.push(finding.clone());
    }
    fn verdict(&mut self, verdict: &Verdict) {
        self.verdicts.push(verdict.clone());
    }
    fn progress(&mut self, _: u64) {}
}

struct Checked {
    summary: Summary,
    recorder: Recorder,
}

impl Checked {
    /// The findings of what only the log itself can be guilty of.
    fn kinds(&self) -> Vec<(FindingKind, u64)> {
        let findings = self.recorder.findings.iter();
        findings
            .filter(|finding| finding.run.is_none())
            .map(|finding| (finding.kind, finding.place.line))
            .collect()
    }
}

fn check_file(path: &Path, checks: &Checks<'_>) -> Checked {
    let mut recorder = Recorder::default();
    let summary = verify(path, checks, &mut recorder).unwrap();
    Checked { summary, recorder }
}

fn check_with(text: &[u8], checks: &Checks<'_>) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    fs::write(&path, text).unwrap();
    check_file(&path, checks)
}

fn check(lines: &[Vec<u8>]) -> Checked {
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        end: End::Open,
        ..Checks::default()
    };
    check_with(&lines.concat(), &checks)
}

/// What stands beside the log: its head when `lines` was all of it.
fn head_of(lines: &[Vec<u8>]) -> PublishedHead {
    let last = lines.last().unwrap();
    PublishedHead {
        seq: lines.len() as u64 - 1,
        hash: LineHash::of_line(last.strip_suffix(b"\n").unwrap()).to_hex(),
    }
}

fn check_with_head(text: &[u8], head: PublishedHead) -> Checked {
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        head: Some(head),
        ..Checks::default()
    };
    check_with(text, &checks)
}

#[test]
fn a_signed_log_of_whole_runs_is_well() {
    let lines = signed();
    let checked = check_with_head(&lines.concat(), head_of(&lines));
    assert_eq!(checked.kinds(), []);
    assert!(checked.summary.is_well(), "{:?}", checked.summary);
    assert_eq!(checked.summary.runs_well, 3);
    assert_eq!(checked.summary.events, 6);
    // Two lines were written together.
    assert_eq!(checked.summary.keys["k1"], 5);
    assert_eq!(checked.summary.head.unwrap(), head_of(&lines).hash);
    assert_eq!(checked.summary.unchecked, []);
}

#[test]
fn any_flipped_byte_is_found() {
    let lines = signed();
    let text = lines.concat();
    for at in 0..text.len() {
        // The case of letters too.
        let bit = if at % 2 == 0 { 5 } else { at % 8 };
        let mut flipped = text.clone();
        flipped[at] ^= 1 << bit;
        let checked = check_with_head(&flipped, head_of(&lines));
        assert!(!checked.summary.is_well(), "byte {at}, bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let lines = signed();
    let text = lines.concat();
    for length in 1..text.len() {
        let checked = check_with_head(&text[..length], head_of(&lines));
        assert!(!checked.summary.is_well(), "{length} bytes");
        let cut = checked.summary.counts.contains_key(&FindingKind::CutOff);
        assert!(cut, "{length} bytes: {:?}", checked.kinds());
    }
}

#[test]
fn deleted_repeated_reordered_and_foreign_lines_are_named_once() {
    let lines = signed();
    let (other, _) = lines_of("01OTHER", Some(&signer(1)));
    let edit = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = lines.clone();
        edit(&mut lines);
        let checked = check(&lines);
        assert!(!checked.summary.is_well());
        checked.kinds()
    };
    use FindingKind::{Gap, OtherLog, Repeated, Unsigned};
    for first in 0..6 {
        let found = edit(&|lines| {
            lines.remove(first);
        });
        match first {
            // The last one: only a head can tell.
            5 => assert_eq!(found, []),
            // The first of two that were written together, and the second with their signature.
            2 => assert_eq!(found, [(Gap, 3)]),
            3 => assert_eq!(found, [(Gap, 4), (Unsigned, 3)]),
            _ => assert_eq!(found, [(Gap, first as u64 + 1)]),
        }
    }
    assert_eq!(edit(&|lines| drop(lines.drain(1..5))), [(Gap, 2)]);
    assert_eq!(
        edit(&|lines| lines.insert(2, lines[1].clone())),
        [(Repeated, 3)]
    );
    assert_eq!(edit(&|lines| lines.swap(0, 1)), [(Gap, 1), (Repeated, 2)]);
    assert_eq!(edit(&|lines| lines.swap(4, 5)), [(Gap, 5), (Repeated, 6)]);
    // A whole part of the log once more: one finding.
    assert_eq!(edit(&|lines| lines.extend(lines.clone())), [(Repeated, 7)]);
    assert_eq!(edit(&|lines| lines.extend(other.clone())), [(OtherLog, 7)]);
    // Spliced in the middle; the own lines after it fit again.
    assert_eq!(
        edit(&|lines| drop(lines.splice(4..4, other.clone()))),
        [(OtherLog, 5)]
    );
    // The end of another log on the beginning of this one.
    assert_eq!(
        edit(&|lines| {
            lines.truncate(4);
            lines.extend(other[4..].to_vec());
        }),
        [(OtherLog, 5)]
    );
    // Between two lines that were written together.
    assert_eq!(
        edit(&|lines| lines.insert(3, other[0].clone())),
        [(OtherLog, 4), (Unsigned, 3),]
    );
}

#[test]
fn a_wrong_number_does_not_make_all_later_lines_wrong() {
    let mut lines = lines_of("01LOG", None).0;
    let text = String::from_utf8(lines[2].clone()).unwrap();
    assert!(text.contains("\"seq\":2,"));
    lines[2] = text.replace("\"seq\":2,", "\"seq\":900,").into_bytes();
    let checked = check_with(&lines.concat(), &Checks::default());
    assert_eq!(checked.kinds(), [(FindingKind::Gap, 3)]);
    // The runs before and after it are not touched by it.
    let broken: Vec<_> = checked
        .recorder
        .verdicts
        .iter()
        .map(|verdict| (verdict.run.key.run_id.as_str(), verdict.is_well()))
        .collect();
    assert_eq!(broken[0], ("r1", true));
    assert_eq!(broken[2], ("r3", true));
}

#[test]
fn a_tail_replaced_after_its_head_was_published_is_found() {
    let lines = signed();
    let head = head_of(&lines);
    // By somebody who has the key: chain and signatures are in order.
    let (mut replaced, mut tail) = (lines[..4].to_vec(), Tail::of_new_log("01LOG"));
    tail.next_seq = 4;
    tail.prev = LineHash::of_line(lines[3].strip_suffix(b"\n").unwrap());
    for (id, ty) in [("x", "started"), ("y", "destroyed")] {
        let event = event(id, ty, "r4", 8);
        replaced.push(line::encode(&mut tail, &[event], Some(&signer(1))).unwrap());
    }
    assert!(check(&replaced).summary.is_well());
    let checked = check_with_head(&replaced.concat(), head);
    assert_eq!(checked.kinds(), [(FindingKind::TailReplaced, 6)]);
}

#[test]
fn replayed_events_are_found_even_where_the_signer_wrote_them_anew() {
    let mut lines = signed();
    let (_, mut tail) = lines_of("01LOG", Some(&signer(1)));
    let replayed = event("01LOG-r1-a", "started", "r1", 9);
    lines.push(line::encode(&mut tail, &[replayed], Some(&signer(1))).unwrap());
    let checked = check(&lines);
    assert_eq!(checked.kinds(), [(FindingKind::DuplicateId, 7)]);
}

#[test]
fn a_clock_that_goes_backwards_is_found_once_a_jump() {
    let mut tail = Tail::of_new_log("01LOG");
    let mut text = Vec::new();
    for (index, second) in [30, 26, 31, 20, 21, 22].into_iter().enumerate() {
        let event = event(
            &format!("e{index}"),
            "started",
            &format!("r{index}"),
            second,
        );
        text.extend(line::encode(&mut tail, &[event], None).unwrap());
    }
    let checked = check_with(&text, &Checks::default());
    assert_eq!(checked.kinds(), [(FindingKind::ClockBackwards, 4)]);
}

#[test]
fn signatures_without_keys_are_an_error_unless_only_the_chain_is_wanted() {
    let text = signed().concat();
    let checked = check_with(&text, &Checks::default());
    assert_eq!(checked.kinds(), [(FindingKind::SignaturesUnchecked, 1)]);
    let checks = Checks {
        signatures: Signatures::ChainOnly,
        ..Checks::default()
    };
    let checked = check_with(&text, &checks);
    assert!(checked.summary.is_well());
    assert_eq!(
        checked.summary.unchecked,
        [Unchecked::Signatures, Unchecked::End]
    );
}

#[test]
fn hostile_lines_are_findings_and_the_rest_is_checked() {
    let lines = lines_of("01LOG", None).0;
    let event = br#""event":{"id":"x","type":"t"},"log":"01LOG""#;
    let line = |entry: &str| format!("{{\"entry\":{{{entry}}}}}\n").into_bytes();
    let prev = "0".repeat(64);
    let own = |event: &str, seq: &str| {
        line(&format!(
            "\"event\":{event},\"log\":\"01LOG\",\"prev\":\"{prev}\",\"seq\":{seq},\"v\":1"
        ))
    };
    for (hostile, expected) in [
        (b"\n".to_vec(), FindingKind::Unreadable),
        (b"\xff\xfe\n".to_vec(), FindingKind::Unreadable),
        (
            [b"{\"entry\":".repeat(100_000), b"\n".to_vec()].concat(),
            FindingKind::Unreadable,
        ),
        (
            own(&format!("{}{}", "[".repeat(500), "]".repeat(500)), "6"),
            FindingKind::Unreadable,
        ),
        (
            own("{\"id\":\"a\",\"id\":\"b\"}", "6"),
            FindingKind::Ambiguous,
        ),
        (own("{\"id\":1e999}", "6"), FindingKind::Ambiguous),
        (own("{}", "18446744073709551616"), FindingKind::Ambiguous),
        (own("{}", "-1"), FindingKind::Unreadable),
        (own("[]", "6"), FindingKind::Unreadable),
        (own("{ }", "6"), FindingKind::Ambiguous),
        (
            line(std::str::from_utf8(event).unwrap()),
            FindingKind::Unreadable,
        ),
        (
            vec![b'x'; 3 * line::MAX_LINE_BYTES],
            FindingKind::LineTooLong,
        ),
    ] {
        let text = [lines[..6].concat(), hostile.clone()].concat();
        let checked = check_with(&text, &Checks::default());
        let found = checked.summary.counts.contains_key(&expected);
        let start = String::from_utf8_lossy(&hostile[..hostile.len().min(80)]).into_owned();
        assert!(found, "{start}: {:?}", checked.kinds());
        assert_eq!(checked.summary.runs_well, 3, "{start}");
        assert!(!checked.summary.is_well());
    }
}

#[test]
fn findings_are_capped_and_counted() {
    let text = b"nothing\n".repeat(1000);
    let checked = check_with(&text, &Checks::default());
    assert_eq!(checked.summary.counts[&FindingKind::Unreadable], 1000);
    assert_eq!(
        checked.recorder.findings.len() as u64,
        MAX_FINDINGS_PER_KIND
    );
}

#[test]
fn nothing_to_check_is_an_error_and_not_well() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.jsonl");
    fs::write(&empty, "\n \n").unwrap();
    for path in [folder.path(), &empty, &folder.path().join("none.jsonl")] {
        assert!(verify(path, &Checks::default(), &mut Silent).is_err());
    }
}

#[test]
fn segments_are_read_in_order_and_a_missing_one_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let lines = signed();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("events.000000000000-000000000001.jsonl"),
        lines[..2].concat(),
    )
    .unwrap();
    fs::write(
        path("events.000000000002-000000000003.jsonl"),
        lines[2..4].concat(),
    )
    .unwrap();
    fs::write(path("events.jsonl"), lines[4..].concat()).unwrap();
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        end: End::Open,
        ..Checks::default()
    };
    for log in [folder.path(), &path("events.jsonl")] {
        let checked = check_file(log, &checks);
        assert_eq!(checked.kinds(), []);
        assert_eq!(checked.summary.files.len(), 3);
    }
    fs::remove_file(path("events.000000000002-000000000003.jsonl")).unwrap();
    let checked = check_file(folder.path(), &checks);
    assert_eq!(checked.kinds(), [(FindingKind::Gap, 1)]);
    fs::remove_file(path("events.000000000000-000000000001.jsonl")).unwrap();
    assert_eq!(
        check_file(folder.path(), &checks).kinds(),
        [(FindingKind::Gap, 1)]
    );
}
