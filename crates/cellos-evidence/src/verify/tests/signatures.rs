//! Lines that nobody signed, or no key that counts.

use super::*;

#[test]
fn lines_without_a_signature_are_named_and_nothing_else() {
    let mut lines = signed();
    let (_, mut tail) = lines_of("01LOG", Some(&signer(1)));
    for number in 0..3 {
        let event = event(&format!("u{number}"), "started", "r9", 9);
        lines.push(line::encode(&mut tail, &[event], None).unwrap());
    }
    let checked = check(&lines);
    assert_eq!(checked.kinds(), [(FindingKind::Unsigned, 7)]);
    assert_eq!(checked.summary.unsigned_lines, 3);
    // A signature of its own speaks for no more than it says.
    let event = event("v", "destroyed", "r9", 9);
    lines.push(line::encode(&mut tail, &[event], Some(&signer(2))).unwrap());
    let checked = check(&lines);
    assert_eq!(checked.kinds(), [(FindingKind::Unsigned, 7)]);
    assert_eq!(
        checked.recorder.verdicts.last().unwrap().lines,
        Lines::Broken
    );
}

#[test]
fn a_signature_made_by_another_key_is_told_from_one_that_is_not_in_the_keyset() {
    // k3 is unknown; one who calls himself k1 has another key.
    for (signer, expected) in [
        (signer(3), FindingKind::UnknownKey),
        (
            SoftwareSigner::from_seed("k1", [9; 32]),
            FindingKind::SignatureInvalid,
        ),
    ] {
        let checked = check(&lines_of("01LOG", Some(&signer)).0);
        assert_eq!(checked.summary.counts[&expected], 5);
        assert!(
            checked
                .recorder
                .verdicts
                .iter()
                .all(|verdict| verdict.lines == Lines::Broken)
        );
    }
}

#[test]
fn one_bad_signature_in_a_batch_breaks_its_run_alone() {
    let mut lines = signed();
    let (kid, mut wrong) = (b"\"sig\":\"", lines[1].clone());
    let at = wrong.windows(7).position(|window| window == kid).unwrap() + 7;
    wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
    lines.truncate(1);
    lines.push(wrong);
    let checked = check(&lines);
    assert_eq!(checked.kinds(), [(FindingKind::SignatureInvalid, 2)]);
    assert_eq!(checked.recorder.verdicts[0].lines, Lines::Broken);
}

#[test]
fn revoked_keys_and_keys_outside_their_validity_do_not_count() {
    let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    type Change<'c> = &'c dyn Fn(&mut KeysetKey);
    let cases: [(Change<'_>, FindingKind, u64); 3] = [
        (
            &|key| {
                key.revoked = Some(Revocation {
                    at: time("2030-01-01T00:00:00Z"),
                    reason: "stolen".to_owned(),
                });
            },
            FindingKind::RevokedKey,
            5,
        ),
        // The last signature that counts is that of the first run's end.
        (
            &|key| key.not_after = Some(time("2026-01-02T03:04:01Z")),
            FindingKind::KeyOutsideValidity,
            3,
        ),
        (
            &|key| key.not_before = Some(time("2026-01-02T03:04:03Z")),
            FindingKind::KeyOutsideValidity,
            3,
        ),
    ];
    for (change, expected, count) in cases {
        let (kid, mut changed) = key(1);
        change(&mut changed);
        let keys: Keyset = [(kid, changed)].into_iter().collect();
        let checks = Checks {
            keys: Some(&keys),
            ..Checks::default()
        };
        let checked = check_with(&signed().concat(), &checks);
        assert_eq!(checked.summary.counts[&expected], count, "{expected}");
        assert!(!checked.summary.is_well());
    }
}
