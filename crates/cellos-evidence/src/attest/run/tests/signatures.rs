//! Only what keys that count signed is attested.

use cellos_core::signing::{Signer as _, SoftwareSigner};

use super::*;
use crate::keyset::{Keyset, KeysetKey, Revocation};

fn signer(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_seed(format!("k{number}"), [number; 32])
}

fn key(number: u8) -> KeysetKey {
    KeysetKey::new(signer(number).verifying_key())
}

fn keys(of: &[(u8, KeysetKey)]) -> Keyset {
    let named = |(number, key): &(u8, KeysetKey)| (format!("k{number}"), key.clone());
    of.iter().map(named).collect()
}

/// A log in which `r1` stands between runs of another signer: the first group is of one line, the
/// second one speaks for the end of `r1` and a line of `r2` after it.
struct SignedLog {
    folder: TempDir,
    lines: Vec<Vec<u8>>,
}

fn ended() -> Value {
    json!({"outcome": "succeeded", "endedBy": "exited", "exitCode": 0,
           "residue": {"lookedFor": ["processes"], "found": []}})
}

impl SignedLog {
    fn new(of_r1: Option<u8>) -> Self {
        let mut tail = Tail::of_new_log("01J");
        let mut text = Vec::new();
        let started = |run| event(run, "lifecycle.v1.started", json!({}));
        let destroyed = |run| event(run, "lifecycle.v1.destroyed", ended());
        let other = signer(2);
        let own = of_r1.map(signer);
        let own = own
            .as_ref()
            .map(|signer| signer as &dyn cellos_core::signing::Signer);
        for (events, signer) in [
            (vec![started("r2")], Some(&other as _)),
            (vec![started("r1")], own),
            (vec![started("r3")], Some(&other as _)),
            (vec![destroyed("r1"), destroyed("r2")], own),
            (vec![destroyed("r3")], Some(&other as _)),
        ] {
            text.extend(line::encode(&mut tail, &events, signer).unwrap());
        }
        Self {
            folder: tempfile::tempdir().unwrap(),
            lines: text
                .split_inclusive(|byte| *byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect(),
        }
    }

    fn findings(&self, keys: Option<&Keyset>) -> Vec<(FindingKind, u64)> {
        let path = self.folder.path().join("events.jsonl");
        fs::write(&path, self.lines.concat()).unwrap();
        let run = RunEvidence::read(&path, "r1", 0, keys).unwrap();
        run.findings
            .iter()
            .map(|finding| (finding.kind, finding.place.line))
            .collect()
    }
}

#[test]
fn the_keys_of_the_runs_own_lines_are_needed_and_no_others() {
    let log = SignedLog::new(Some(1));
    assert_eq!(log.findings(Some(&keys(&[(1, key(1)), (2, key(2))]))), []);
    assert_eq!(log.findings(Some(&keys(&[(1, key(1))]))), []);
    assert_eq!(
        log.findings(Some(&keys(&[(2, key(2))]))),
        [(FindingKind::UnknownKey, 2), (FindingKind::UnknownKey, 5)]
    );
    // Another key of the same name.
    assert_eq!(
        log.findings(Some(&keys(&[(1, key(3))]))),
        [
            (FindingKind::SignatureInvalid, 2),
            (FindingKind::SignatureInvalid, 5)
        ]
    );
}

#[test]
fn signatures_that_nobody_can_check_and_lines_without_one_are_found() {
    let log = SignedLog::new(Some(1));
    assert_eq!(log.findings(None), [(FindingKind::SignaturesUnchecked, 2)]);
    let log = SignedLog::new(None);
    assert_eq!(
        log.findings(Some(&keys(&[(2, key(2))]))),
        [(FindingKind::Unsigned, 2), (FindingKind::Unsigned, 4)]
    );
    // Other lines of the log are signed.
    assert_eq!(log.findings(None), [(FindingKind::SignaturesUnchecked, 3)]);
}

#[test]
fn the_signature_that_speaks_for_the_end_may_stand_after_it_and_must_be_there() {
    let keys = keys(&[(1, key(1)), (2, key(2))]);
    let mut log = SignedLog::new(Some(1));
    log.lines.truncate(4);
    assert_eq!(log.findings(Some(&keys)), [(FindingKind::Unsigned, 4)]);
    // Its line was replaced by one that another signer wrote.
    let mut log = SignedLog::new(Some(1));
    let before = log.lines[3].strip_suffix(b"\n").unwrap();
    let mut tail = Tail {
        log_id: "01J".to_owned(),
        next_seq: 4,
        prev: LineHash::of_line(before),
    };
    let forged = [event("r2", "lifecycle.v1.destroyed", ended())];
    log.lines.truncate(4);
    log.lines
        .push(line::encode(&mut tail, &forged, Some(&signer(2))).unwrap());
    assert_eq!(log.findings(Some(&keys)), [(FindingKind::Unsigned, 4)]);
}

#[test]
fn a_line_that_was_changed_with_the_chain_after_it_is_found_by_its_signature() {
    let mut log = SignedLog::new(Some(1));
    let changed = String::from_utf8(log.lines[1].clone())
        .unwrap()
        .replace("cell-of-r1", "cell-of-rX");
    log.lines[1] = changed.into_bytes();
    for at in 2..log.lines.len() {
        let before = LineHash::of_line(log.lines[at - 1].strip_suffix(b"\n").unwrap());
        let line = String::from_utf8(log.lines[at].clone()).unwrap();
        let prev = line.find("\"prev\":\"").unwrap() + 8;
        let line = [&line[..prev], &before.to_hex(), &line[prev + 64..]].concat();
        log.lines[at] = line.into_bytes();
    }
    let keys = keys(&[(1, key(1)), (2, key(2))]);
    let found = log.findings(Some(&keys));
    assert!(
        found.contains(&(FindingKind::SignatureInvalid, 2)),
        "{found:?}"
    );
    assert!(
        found.contains(&(FindingKind::SignatureInvalid, 5)),
        "{found:?}"
    );
}

#[test]
fn keys_count_as_they_do_for_whoever_verifies_the_log() {
    let log = SignedLog::new(Some(1));
    let revoked = KeysetKey {
        revoked: Some(Revocation {
            at: "2030-01-01T00:00:00Z".parse().unwrap(),
            reason: "stolen".to_owned(),
        }),
        ..key(1)
    };
    let expired = KeysetKey {
        not_after: Some("2026-01-02T03:04:04Z".parse().unwrap()),
        ..key(1)
    };
    for (key, kind) in [
        (revoked, FindingKind::RevokedKey),
        (expired, FindingKind::KeyOutsideValidity),
    ] {
        // The second signature stands in line 5 and the line of the run that it speaks for in 4.
        assert_eq!(
            log.findings(Some(&keys(&[(1, key)]))),
            [(kind, 2), (kind, 4)]
        );
    }
}

#[test]
fn a_run_that_was_refused_before_it_had_a_cell_has_nothing_to_attest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut refused = event("r1", "admission.v1.rejected", json!({}));
    let data = refused.data.as_mut().unwrap().as_object_mut().unwrap();
    data.remove("cellId");
    let lines = line::encode(&mut Tail::of_new_log("01J"), &[refused], None).unwrap();
    fs::write(&path, lines).unwrap();
    assert!(matches!(
        RunEvidence::read(&path, "r1", 0, None),
        Err(EvidenceError::NoCell { .. })
    ));
}
