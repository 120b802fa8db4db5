//! Logs of the published implementation.

use cellos_core::signing::TrustVerifyKeys;

use super::*;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name)
}

fn published_keys() -> Keyset {
    let keyring =
        TrustVerifyKeys::parse(br#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#).unwrap();
    let key = KeysetKey {
        public: *keyring.get("k1").unwrap(),
        not_before: None,
        not_after: None,
        revoked: None,
    };
    [("k1".to_owned(), key)].into_iter().collect()
}

#[test]
fn published_logs_are_read_in_every_form() {
    for (name, format, events) in [
        ("plain-ok.jsonl", LogFormat::Events, 10),
        ("plain-exit3.jsonl", LogFormat::Events, 9),
        ("plain-export.jsonl", LogFormat::Events, 11),
        ("plain-identity.jsonl", LogFormat::Events, 11),
        ("plain-ttl.jsonl", LogFormat::Events, 9),
        ("plain-secret-missing.jsonl", LogFormat::Events, 5),
        ("plain-policy-rejected.jsonl", LogFormat::Events, 1),
        ("chain", LogFormat::AuditChain, 10),
        ("chain/audit-trail.jsonl", LogFormat::AuditChain, 10),
    ] {
        let checked = check_file(&sample(name), &Checks::default());
        assert_eq!(checked.kinds(), [], "{name}");
        assert!(
            checked.summary.is_well(),
            "{name}: {:?}",
            checked.recorder.findings
        );
        assert_eq!(checked.summary.files[0].1, format, "{name}");
        assert_eq!(checked.summary.events, events, "{name}");
        assert!(checked.summary.unchecked.contains(&Unchecked::NotSigned));
    }
    let checked = check_file(&sample("bundle.json"), &Checks::default());
    assert_eq!(checked.kinds(), [(FindingKind::DuplicateId, 2)]);
    assert_eq!(checked.summary.last_seq, Some(1));
}

#[test]
fn published_envelopes_are_checked_with_their_keys() {
    let keys = published_keys();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    let good = check_file(&sample("signed-ed25519-seed7x32.jsonl"), &checks);
    assert_eq!(good.kinds(), []);
    assert_eq!(good.summary.keys["k1"], 10);
    let broken = check_file(&sample("signed-and-redacted-BROKEN.jsonl"), &checks);
    assert_eq!(broken.summary.counts[&FindingKind::SignatureInvalid], 2);
    assert_eq!(broken.summary.keys["k1"], 8);
    assert_eq!(broken.recorder.verdicts[0].lines, Lines::Broken);
    // Without keys, and plain lines with keys.
    let unchecked = check_file(&sample("signed-ed25519-seed7x32.jsonl"), &Checks::default());
    assert_eq!(unchecked.kinds(), [(FindingKind::SignaturesUnchecked, 1)]);
    let unsigned = check_file(&sample("plain-ok.jsonl"), &checks);
    assert_eq!(unsigned.kinds(), [(FindingKind::Unsigned, 1)]);
}

#[test]
fn a_published_chain_is_checked_row_by_row_and_against_its_head() {
    let rows = fs::read_to_string(sample("chain/audit-trail.jsonl")).unwrap();
    let rows: Vec<_> = rows.split_inclusive('\n').collect();
    let head = fs::read_to_string(sample("chain/audit-trail.head")).unwrap();
    let check = |rows: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("audit-trail.jsonl"), rows.concat()).unwrap();
        fs::write(folder.path().join("audit-trail.head"), &head).unwrap();
        check_file(folder.path(), &Checks::default()).kinds()
    };
    assert_eq!(check(&rows), []);
    // What the published verifier lets pass: the last rows cut off.
    assert_eq!(check(&rows[..7]), [(FindingKind::CutOff, 0)]);
    let changed = rows[3].replacen("ev-demo", "ev-damo", 1);
    let mut other = rows.clone();
    other[3] = &changed;
    assert_eq!(check(&other), [(FindingKind::ChainBroken, 4)]);
    other.remove(3);
    assert_eq!(check(&other), [(FindingKind::Gap, 4)]);
    let head_behind = [rows.as_slice(), &[]].concat();
    assert_eq!(check(&head_behind), []);
}

#[test]
fn an_honest_row_with_a_float_is_not_called_changed() {
    // 1/11, which the published verifier reads one unit off.
    let body = serde_json::json!({
        "specversion": "1.0", "id": "e", "source": "s", "type": "t", "datacontenttype": null,
        "data": {"authorityEfficiency": 1.0 / 11.0}, "time": null, "traceparent": null,
    });
    let mut row = serde_json::json!({
        "schema": "axiom.audit.v1", "seq": 0, "at": "2026-01-02T03:04:05+00:00", "event": "t",
        "body": body, "prev_hash": "0".repeat(64),
    });
    let bytes = cellos_core::canonical::canonical_json_bytes(&row).unwrap();
    row["row_hash"] = blake3::hash(&bytes).to_hex().as_str().into();
    let checked = check_with(format!("{row}\n").as_bytes(), &Checks::default());
    assert_eq!(checked.kinds(), []);
}
