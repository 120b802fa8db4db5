use cellos_core::signing::{
    KeysetEntry, SUPPORTED_SCHEMA_VERSION, Signer, SoftwareSigner, sign_trust_payload,
};

use super::*;
use crate::keyset::{KeyFault, Revocation};

fn signer(kid: &str) -> SoftwareSigner {
    let mut seed = [9; 32];
    for (to, from) in seed.iter_mut().zip(kid.bytes()) {
        *to = from;
    }
    SoftwareSigner::from_seed(kid, seed)
}

fn entry(kid: &str) -> KeysetEntry {
    KeysetEntry::new(kid, &signer(kid).verifying_key())
}

fn revoked(kid: &str) -> KeysetEntry {
    KeysetEntry {
        revoked_at: Some(moment("2026-03-01T00:00:00Z")),
        revocation_reason: Some("lost".to_owned()),
        ..entry(kid)
    }
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    moment("2026-06-01T00:00:00Z")
}

fn envelope(
    keys: Vec<KeysetEntry>,
    signers: &[&str],
    replaces: Option<&SignedTrustKeysetEnvelope>,
) -> SignedTrustKeysetEnvelope {
    let document = KeysetDocumentV1 {
        schema_version: SUPPORTED_SCHEMA_VERSION.to_owned(),
        keyset_id: "host".to_owned(),
        keys,
    };
    let signers: Vec<_> = signers.iter().map(|kid| signer(kid)).collect();
    let signers: Vec<&dyn Signer> = signers.iter().map(|signer| signer as _).collect();
    sign_trust_payload(
        TrustPayloadType::Keyset,
        &document.to_payload().unwrap(),
        &signers,
        replaces.map(|before| before.payload_digest.clone()),
        now(),
    )
    .unwrap()
}

fn anchored(kids: &[&str]) -> Trust {
    Trust::Anchored(
        kids.iter()
            .map(|kid| ((*kid).to_owned(), signer(kid).verifying_key()))
            .collect(),
    )
}

fn parse_chain(chain: &[SignedTrustKeysetEnvelope], trust: &Trust) -> Result<Keyset, KeysetError> {
    Keyset::parse(&serde_json::to_vec(chain).unwrap(), trust, now())
}

/// k1, then k1 and k2, then k2 and k3 with k1 revoked.
fn rotated_twice() -> Vec<SignedTrustKeysetEnvelope> {
    let first = envelope(vec![entry("k1")], &["k1"], None);
    let second = envelope(vec![entry("k1"), entry("k2")], &["k1", "k2"], Some(&first));
    let third = envelope(
        vec![revoked("k1"), entry("k2"), entry("k3")],
        &["k2", "k3"],
        Some(&second),
    );
    vec![first, second, third]
}

#[test]
fn a_keyring_is_believed_for_its_place_alone() {
    let key = cellos_core::signing::KeysetEntry::new("k", &signer("k").verifying_key()).public_key;
    let ring = format!(r#"{{"k":"{key}"}}"#);
    let keyset = Keyset::parse(ring.as_bytes(), &Trust::SelfContained, now()).unwrap();
    assert_eq!(keyset.get("k").unwrap().public, signer("k").verifying_key());
    assert_eq!(keyset.published(), None);
    assert!(matches!(
        Keyset::parse(ring.as_bytes(), &anchored(&["k"]), now()),
        Err(KeysetError::UnsignedKeyring)
    ));
}

#[test]
fn one_envelope_is_read_as_it_is() {
    let one = envelope(vec![entry("k1")], &["k1"], None);
    let bytes = serde_json::to_vec_pretty(&one).unwrap();
    for trust in [Trust::SelfContained, anchored(&["k1"])] {
        let keyset = Keyset::parse(&bytes, &trust, now()).unwrap();
        assert_eq!(keyset.len(), 1);
        assert_eq!(keyset.published().unwrap().digest, one.payload_digest);
    }
}

#[test]
fn a_chain_is_believed_from_any_of_its_keys_on() {
    let chain = rotated_twice();
    for trust in [
        Trust::SelfContained,
        anchored(&["k1"]),
        anchored(&["k2"]),
        anchored(&["k3"]),
    ] {
        let keyset = parse_chain(&chain, &trust).unwrap();
        assert_eq!(keyset.len(), 3);
        assert!(keyset.get("k1").unwrap().revoked.is_some());
        assert!(keyset.unrevoked().get("k1").is_none());
    }
    assert_eq!(
        parse_chain(&chain, &Trust::SelfContained)
            .unwrap()
            .published()
            .unwrap()
            .envelopes,
        3
    );
    assert!(matches!(
        parse_chain(&chain, &anchored(&["stranger"])),
        Err(KeysetError::NotAnchored)
    ));
}

#[test]
fn a_document_that_nobody_of_its_own_signed_is_refused() {
    for (keys, signers) in [
        (vec![entry("k1")], &["k2"][..]),
        (vec![revoked("k1"), entry("k2")], &["k1"][..]),
        (vec![], &["k1"][..]),
    ] {
        assert!(matches!(
            parse_chain(&[envelope(keys, signers, None)], &Trust::SelfContained),
            Err(KeysetError::Envelope {
                source: TrustEnvelopeError::NoneVerified,
                ..
            })
        ));
    }
}

#[test]
fn a_key_does_not_bring_itself_in() {
    let first = envelope(vec![entry("k1")], &["k1"], None);
    let intruder = envelope(vec![entry("k1"), entry("k9")], &["k9"], Some(&first));
    for trust in [Trust::SelfContained, anchored(&["k1"])] {
        assert!(matches!(
            parse_chain(&[first.clone(), intruder.clone()], &trust),
            Err(KeysetError::Envelope {
                index: 1,
                source: TrustEnvelopeError::NoneVerified,
            })
        ));
    }
}

#[test]
fn a_revoked_key_signs_no_later_keyset() {
    let mut chain = rotated_twice();
    let fourth = envelope(
        vec![revoked("k1"), entry("k9")],
        &["k1", "k9"],
        chain.last(),
    );
    chain.push(fourth);
    for trust in [Trust::SelfContained, anchored(&["k1"])] {
        assert!(parse_chain(&chain, &trust).is_err());
    }
}

#[test]
fn a_key_that_was_replaced_brings_no_other_in() {
    let first = envelope(vec![entry("k1")], &["k1"], None);
    let mut old = entry("k1");
    old.not_after = Some(moment("2026-03-01T00:00:00Z"));
    let second = envelope(vec![old.clone(), entry("k2")], &["k1", "k2"], Some(&first));
    // Its holder says today, or then, that there is one more key.
    let forged = envelope(
        vec![old.clone(), entry("k2"), entry("k9")],
        &["k1", "k9"],
        Some(&second),
    );
    let chain = [first.clone(), second.clone(), forged];
    assert!(parse_chain(&chain, &anchored(&["k2"])).is_err());
    // The key that replaced it may, and the chain is believed from the first key on as well.
    let third = envelope(
        vec![old, entry("k2"), entry("k3")],
        &["k2", "k3"],
        Some(&second),
    );
    for anchor in ["k1", "k2"] {
        let keys = parse_chain(
            &[first.clone(), second.clone(), third.clone()],
            &anchored(&[anchor]),
        );
        assert!(keys.unwrap().get("k3").is_some(), "{anchor}");
    }
}

#[test]
fn later_envelopes_take_nothing_back() {
    let first = envelope(vec![entry("k1"), revoked("k2")], &["k1"], None);
    let unrevoked = envelope(vec![entry("k1"), entry("k2")], &["k1"], Some(&first));
    assert!(matches!(
        parse_chain(&[first.clone(), unrevoked], &Trust::SelfContained),
        Err(KeysetError::Unrevoked { index: 1, .. })
    ));
    let mut other = entry("k3");
    other.kid = "k1".to_owned();
    let changed = envelope(vec![other], &["k1"], Some(&first));
    assert!(matches!(
        parse_chain(&[first.clone(), changed], &Trust::SelfContained),
        Err(KeysetError::KeyChanged { index: 1, .. })
    ));
    let unlinked = envelope(vec![entry("k1")], &["k1"], None);
    assert!(matches!(
        parse_chain(&[first, unlinked], &Trust::SelfContained),
        Err(KeysetError::Envelope {
            index: 1,
            source: TrustEnvelopeError::BrokenLink { .. },
        })
    ));
}

#[test]
fn a_changed_payload_is_noticed_at_every_byte() {
    let one = envelope(vec![entry("k1")], &["k1"], None);
    for index in 0..one.payload.len() {
        let mut changed = one.clone();
        let mut payload = changed.payload.into_bytes();
        payload[index] = if payload[index] == b'A' { b'B' } else { b'A' };
        changed.payload = String::from_utf8(payload).unwrap();
        // Whoever changes the payload can state its new digest too.
        changed.payload_digest =
            cellos_core::canonical::sha256_ref(&changed.unverified_payload().unwrap_or_default());
        if changed.unverified_payload().ok() == one.unverified_payload().ok() {
            continue;
        }
        assert!(parse_chain(&[changed], &Trust::SelfContained).is_err());
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let long = vec![b' '; usize::try_from(MAX_KEYSET_BYTES).unwrap() + 1];
    assert!(matches!(
        Keyset::parse(&long, &Trust::SelfContained, now()),
        Err(KeysetError::TooLong)
    ));
    let one = envelope(vec![entry("k1")], &["k1"], None);
    for count in [0, MAX_KEYSET_ENVELOPES + 1] {
        assert!(matches!(
            parse_chain(&vec![one.clone(); count], &Trust::SelfContained),
            Err(KeysetError::ChainLength { found }) if found == count
        ));
    }
    let many = envelope(
        vec![entry("k1")],
        &["k1"; MAX_ENVELOPE_SIGNATURES + 1],
        None,
    );
    assert!(matches!(
        parse_chain(&[many], &Trust::SelfContained),
        Err(KeysetError::TooManySignatures { .. })
    ));
}

#[test]
fn texts_of_other_kinds_are_errors() {
    let nested = "[".repeat(100_000);
    let object = "{\"a\":".repeat(100_000);
    for text in [
        "",
        "null",
        "7",
        "[]",
        "[1]",
        "{\"k\":1}",
        "\u{feff}{}",
        "{}}",
        &nested,
        &object,
    ] {
        assert!(
            Keyset::parse(text.as_bytes(), &Trust::SelfContained, now()).is_err(),
            "{}",
            &text[..text.len().min(9)]
        );
    }
}

#[test]
fn a_key_counts_inside_its_validity() {
    let key = KeysetKey {
        not_before: Some(moment("2026-01-01T00:00:00Z")),
        not_after: Some(moment("2026-02-01T00:00:00Z")),
        ..KeysetKey::new(signer("k").verifying_key())
    };
    for inside in ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"] {
        assert_eq!(key.judge(moment(inside)), Ok(()));
    }
    assert!(matches!(
        key.judge(moment("2025-12-31T23:59:59.999Z")),
        Err(KeyFault::NotYetValid { .. })
    ));
    assert!(matches!(
        key.judge(moment("2026-02-01T00:00:00.001Z")),
        Err(KeyFault::Expired { .. })
    ));
    let lost = KeysetKey {
        revoked: Some(Revocation {
            at: moment("2026-03-01T00:00:00Z"),
            reason: "lost".to_owned(),
        }),
        ..key
    };
    let fault = lost.judge(moment("2026-01-15T00:00:00Z")).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "it was revoked at 2026-03-01T00:00:00Z (lost)"
    );
}
