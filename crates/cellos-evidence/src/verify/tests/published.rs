//! Logs of the published implementation.

use cellos_core::signing::{
    HmacKey, HmacVerifyKeys, SignatureAlgorithm, SignedEventEnvelopeV1, TrustVerifyKeys,
    sign_event_ed25519, sign_event_hmac, wrap_signed_event,
};

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

fn line_of(envelope: &SignedEventEnvelopeV1) -> String {
    let event = wrap_signed_event(envelope).unwrap();
    format!("{}\n", serde_json::to_string(&event).unwrap())
}

#[test]
fn envelopes_with_shared_keys_are_checked_with_them() {
    let key = HmacKey::new(b"shared".to_vec()).unwrap();
    let text: String = [
        event("e1", "started", "r", 0),
        event("e2", "destroyed", "r", 1),
    ]
    .into_iter()
    .map(|event| line_of(&sign_event_hmac(event, "h1", &key).unwrap()))
    .collect();
    let keyring = |kid: &str, key: &[u8]| -> HmacVerifyKeys {
        let key = HmacKey::new(key.to_vec()).unwrap();
        [(kid.to_owned(), key)].into_iter().collect()
    };
    let check = |hmac: &HmacVerifyKeys| {
        let checks = Checks {
            hmac: Some(hmac),
            ..Checks::default()
        };
        check_with(text.as_bytes(), &checks)
    };
    let good = check(&keyring("h1", b"shared"));
    assert_eq!(good.kinds(), []);
    assert!(good.summary.is_well());
    assert_eq!(good.summary.keys["h1"], 2);
    for (hmac, kind) in [
        (keyring("h1", b"other"), FindingKind::SignatureInvalid),
        (keyring("h2", b"shared"), FindingKind::UnknownKey),
    ] {
        let bad = check(&hmac);
        assert_eq!(bad.kinds(), [(kind, 1), (kind, 2)]);
        assert_eq!(bad.recorder.verdicts[0].lines, Lines::Broken);
    }
    // A key pair of the same name is another key.
    let keys: Keyset = [("h1".to_owned(), key_of(1))].into_iter().collect();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    assert!(!check_with(text.as_bytes(), &checks).summary.is_well());
}

fn key_of(number: u8) -> KeysetKey {
    super::key(number).1
}

#[test]
fn events_signed_in_the_order_of_their_fields_are_accepted_as_versions_up_to_0_7_3_made_them() {
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    let envelope = |event: CloudEventV1| SignedEventEnvelopeV1 {
        signature: {
            use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
            let message = serde_json::to_vec(&event).unwrap();
            URL_SAFE_NO_PAD.encode(signer(1).sign(&message).unwrap())
        },
        event,
        signer_kid: "k1".to_owned(),
        algorithm: SignatureAlgorithm::Ed25519,
        not_before: None,
        not_after: None,
    };
    let events = [
        event("e1", "started", "r", 0),
        event("e2", "destroyed", "r", 1),
    ];
    let good: String = events
        .iter()
        .map(|event| line_of(&envelope(event.clone())))
        .collect();
    let checked = check_with(good.as_bytes(), &checks);
    assert_eq!(checked.kinds(), []);
    assert_eq!(checked.summary.keys["k1"], 2);
    let changed = good.replacen("\"ttlSeconds\":3600", "\"ttlSeconds\":3601", 1);
    assert_ne!(changed, good);
    let checked = check_with(changed.as_bytes(), &checks);
    assert_eq!(checked.kinds(), [(FindingKind::SignatureInvalid, 1)]);
}

/// The published chain with a seal over its first rows.
fn sealed_chain(rows: u64, head: &str, number: u8) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["audit-trail.jsonl", "audit-trail.head"] {
        fs::copy(sample("chain").join(name), folder.path().join(name)).unwrap();
    }
    let event: CloudEventV1 = serde_json::from_value(serde_json::json!({
        "specversion": "1.0", "id": "seal", "source": "s", "time": "2026-01-02T03:04:05Z",
        "type": "dev.cellos.events.cell.audit.v1.segment-sealed",
        "data": {"chainId": "c", "lastSeq": rows, "headRowHash": head,
            "integrity": "blake3-chain+ed25519-head"},
    }))
    .unwrap();
    let envelope = sign_event_ed25519(event, &signer(number)).unwrap();
    let text = serde_json::to_string(&envelope).unwrap();
    fs::write(folder.path().join("audit-trail.sig"), text).unwrap();
    folder
}

#[test]
fn the_signed_seal_of_a_published_chain_is_checked_against_its_rows() {
    let text = fs::read_to_string(sample("chain/audit-trail.jsonl")).unwrap();
    let hash = |row: usize| -> String {
        let row: serde_json::Value = serde_json::from_str(text.lines().nth(row).unwrap()).unwrap();
        row["row_hash"].as_str().unwrap().to_owned()
    };
    let keys = keyset();
    let check = |folder: &tempfile::TempDir| {
        let checks = Checks {
            keys: Some(&keys),
            ..Checks::default()
        };
        let found = check_file(folder.path(), &checks).kinds();
        // The rows themselves are not signed.
        let found = found.into_iter().map(|(kind, _)| kind);
        found
            .filter(|kind| *kind != FindingKind::Unsigned)
            .collect::<Vec<_>>()
    };
    // Rows may follow a seal.
    assert_eq!(check(&sealed_chain(10, &hash(9), 1)), []);
    assert_eq!(check(&sealed_chain(4, &hash(3), 1)), []);
    assert_eq!(
        check(&sealed_chain(4, &hash(4), 1)),
        [FindingKind::SealBroken]
    );
    assert_eq!(check(&sealed_chain(11, &hash(9), 1)), [FindingKind::CutOff]);
    assert_eq!(
        check(&sealed_chain(10, &hash(9), 9)),
        [FindingKind::UnknownKey]
    );
    let changed = sealed_chain(10, &hash(9), 1);
    let path = changed.path().join("audit-trail.sig");
    let seal = fs::read_to_string(&path).unwrap();
    fs::write(&path, seal.replace("\"lastSeq\":10", "\"lastSeq\":9")).unwrap();
    assert!(check(&changed).contains(&FindingKind::SignatureInvalid));
    fs::write(&path, "{}").unwrap();
    assert_eq!(check(&changed), [FindingKind::Unreadable]);
    // Who has no keys is told that there is a signature.
    let unchecked = check_file(sealed_chain(10, &hash(9), 1).path(), &Checks::default());
    assert_eq!(unchecked.kinds(), [(FindingKind::SignaturesUnchecked, 1)]);
}
