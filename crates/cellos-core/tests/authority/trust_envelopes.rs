use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::{
    canonical::sha256_ref,
    signing::{
        EpochAnchor, RevocationError, RevocationListV1, RevokedKids, SignedTrustKeysetEnvelope,
        Signer as _, TrustEnvelopeError, TrustPayloadType, TrustSignature, TrustVerification,
        TrustVerifyKeys, VerifiedTrustPayload, parse_trust_envelope,
        verify_signed_trust_keyset_chain, verify_signed_trust_keyset_envelope,
    },
};
use serde_json::json;

use super::fixtures::{EX7, signer, trust_keys};

const NOW: &str = "2026-11-24T00:00:00Z";

/// Three keys, `a`, `b` and `c`, with the seeds 1, 2 and 3.
fn keys() -> TrustVerifyKeys {
    [("a", 1), ("b", 2), ("c", 3)]
        .into_iter()
        .map(|(kid, seed)| (kid.to_owned(), signer(kid, seed).verifying_key()))
        .collect()
}

fn signature(kid: &str, seed: u8, payload: &[u8]) -> TrustSignature {
    TrustSignature {
        signer_kid: kid.to_owned(),
        algorithm: "ed25519".to_owned(),
        signature: URL_SAFE_NO_PAD.encode(signer(kid, seed).sign(payload).unwrap()),
        not_before: None,
        not_after: None,
    }
}

/// An envelope around the payload, signed by the named keys.
pub(crate) fn envelope(
    payload_type: TrustPayloadType,
    payload: &[u8],
    signers: &[(&str, u8)],
) -> SignedTrustKeysetEnvelope {
    SignedTrustKeysetEnvelope {
        schema_version: "1.0.0".to_owned(),
        payload_type,
        payload: URL_SAFE_NO_PAD.encode(payload),
        signatures: signers
            .iter()
            .map(|(kid, seed)| signature(kid, *seed, payload))
            .collect(),
        payload_digest: sha256_ref(payload),
        produced_at: NOW.to_owned(),
        replaces_envelope_digest: None,
        required_signer_count: None,
    }
}

fn verify_with(
    envelope: &SignedTrustKeysetEnvelope,
    keys: &TrustVerifyKeys,
    revoked: &RevokedKids,
    now: &str,
    minimum_signers: u32,
) -> Result<VerifiedTrustPayload, TrustEnvelopeError> {
    verify_signed_trust_keyset_envelope(
        envelope,
        &TrustVerification {
            keys,
            revoked,
            now: now.parse().unwrap(),
            minimum_signers: NonZeroU32::new(minimum_signers).unwrap(),
        },
    )
}

fn verify(
    envelope: &SignedTrustKeysetEnvelope,
    minimum_signers: u32,
) -> Result<VerifiedTrustPayload, TrustEnvelopeError> {
    verify_with(
        envelope,
        &keys(),
        &RevokedKids::default(),
        NOW,
        minimum_signers,
    )
}

/// The set of these keys, through a revocation list.
pub(crate) fn revoked(kids: &[&str]) -> RevokedKids {
    let revocations: Vec<_> = kids
        .iter()
        .map(|kid| json!({"kid": kid, "revokedAt": NOW, "reason": "lost"}))
        .collect();
    revocation_list(&json!({
        "schemaVersion": "1.0.0", "revocationEpoch": 4, "revocations": revocations,
    }))
    .unwrap()
    .0
    .kids()
}

fn revocation_list(
    payload: &serde_json::Value,
) -> Result<(RevocationListV1, EpochAnchor), RevocationError> {
    let payload = payload.to_string();
    let envelope = envelope(
        TrustPayloadType::Revocation,
        payload.as_bytes(),
        &[("a", 1)],
    );
    let verified = verify(&envelope, 1).unwrap();
    RevocationListV1::from_payload(&verified, EpochAnchor::parse("4").unwrap())
}

fn keyset(payload: &str, signers: &[(&str, u8)]) -> SignedTrustKeysetEnvelope {
    envelope(TrustPayloadType::Keyset, payload.as_bytes(), signers)
}

#[test]
fn the_published_envelope_verifies_inside_its_window_only() {
    let envelope = parse_trust_envelope(EX7.as_bytes()).unwrap();
    let at = |now| verify_with(&envelope, &trust_keys(), &RevokedKids::default(), now, 1);
    let verified = at(NOW).unwrap();
    assert_eq!(verified.payload_type, TrustPayloadType::AuthorityCeiling);
    assert!(verified.signer_kids.contains("org-root-1"));
    for inside in ["2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"] {
        at(inside).unwrap();
    }
    for outside in ["2025-12-31T23:59:59Z", "2036-01-01T00:00:01Z"] {
        let message = at(outside).unwrap_err().to_string();
        assert!(message.contains("no signature verified"), "{message}");
    }
}

#[test]
fn a_changed_payload_or_digest_does_not_verify() {
    let mut changed = keyset("one", &[("a", 1)]);
    changed.payload = URL_SAFE_NO_PAD.encode("two");
    let message = verify(&changed, 1).unwrap_err().to_string();
    assert!(message.contains("payload digest mismatch"), "{message}");
    changed.payload_digest = sha256_ref(b"two");
    assert!(matches!(
        verify(&changed, 1),
        Err(TrustEnvelopeError::NoneVerified)
    ));
}

#[test]
fn the_verifier_decides_how_many_signers_and_the_envelope_can_only_ask_for_more() {
    let mut one = keyset("p", &[("a", 1)]);
    verify(&one, 1).unwrap();
    let message = verify(&one, 2).unwrap_err().to_string();
    assert!(
        message.contains("only 1 distinct signers verified, need 2"),
        "{message}"
    );
    one.required_signer_count = Some(0);
    verify(&one, 1).unwrap();
    one.required_signer_count = Some(3);
    assert!(matches!(
        verify(&one, 1),
        Err(TrustEnvelopeError::TooFewSigners {
            verified: 1,
            required: 3
        })
    ));
    let three = keyset("p", &[("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(verify(&three, 3).unwrap().signer_kids.len(), 3);
}

#[test]
fn one_key_counts_once() {
    let twice = keyset("p", &[("a", 1), ("a", 1)]);
    assert!(matches!(
        verify(&twice, 2),
        Err(TrustEnvelopeError::TooFewSigners {
            verified: 1,
            required: 2
        })
    ));
    let second_try = keyset("p", &[("a", 9), ("a", 1)]);
    verify(&second_try, 1).unwrap();
}

#[test]
fn signatures_that_do_not_count_are_skipped() {
    let changes: [fn(&mut TrustSignature); 6] = [
        |signature| signature.algorithm = "rsa".to_owned(),
        |signature| signature.signer_kid = "stranger".to_owned(),
        |signature| signature.signature = "AAAA".to_owned(),
        |signature| signature.signature = "!".to_owned(),
        |signature| signature.not_after = Some("2026-11-23T23:59:59Z".to_owned()),
        |signature| signature.not_before = Some("2026-11-24T02:00:00+01:00".to_owned()),
    ];
    for change in changes {
        let mut envelope = keyset("p", &[("a", 1), ("b", 2)]);
        change(&mut envelope.signatures[0]);
        let verified = verify(&envelope, 1).unwrap();
        assert_eq!(verified.signer_kids.into_iter().collect::<Vec<_>>(), ["b"]);
    }
}

#[test]
fn revoked_keys_do_not_count() {
    let envelope = keyset("p", &[("a", 1), ("b", 2)]);
    let check = |kids: &[&str]| verify_with(&envelope, &keys(), &revoked(kids), NOW, 1);
    assert_eq!(check(&["a"]).unwrap().signer_kids.len(), 1);
    assert!(matches!(
        check(&["a", "b"]),
        Err(TrustEnvelopeError::NoneVerified)
    ));
}

#[test]
fn a_window_that_cannot_be_read_is_an_error() {
    let mut envelope = keyset("p", &[("a", 1), ("b", 2)]);
    envelope.signatures[1].not_after = Some("tomorrow".to_owned());
    assert!(matches!(
        verify(&envelope, 1),
        Err(TrustEnvelopeError::Window {
            field: "notAfter",
            ..
        })
    ));
}

#[test]
fn envelopes_of_another_version_type_or_shape_are_refused() {
    let mut other = keyset("p", &[("a", 1)]);
    other.schema_version = "2.0.0".to_owned();
    assert!(matches!(
        verify(&other, 1),
        Err(TrustEnvelopeError::SchemaVersion { .. })
    ));
    assert!(matches!(
        verify(&keyset("p", &[]), 1),
        Err(TrustEnvelopeError::Unsigned)
    ));
    let text = EX7.replace("authority-ceiling-v1", "something-v1");
    assert!(parse_trust_envelope(text.as_bytes()).is_err());
    let text = EX7.replacen(r#""payload""#, r#""extra":1,"payload""#, 1);
    assert!(parse_trust_envelope(text.as_bytes()).is_err());
}

#[test]
fn a_chain_links_each_envelope_to_the_one_before() {
    let chain = |envelopes: &[SignedTrustKeysetEnvelope]| {
        verify_signed_trust_keyset_chain(
            envelopes,
            &TrustVerification {
                keys: &keys(),
                revoked: &RevokedKids::default(),
                now: NOW.parse().unwrap(),
                minimum_signers: NonZeroU32::MIN,
            },
        )
    };
    let mut first = keyset("1", &[("a", 1)]);
    first.replaces_envelope_digest = Some("sha256:whatever".to_owned());
    let mut second = keyset("2", &[("b", 2)]);
    second.replaces_envelope_digest = Some(sha256_ref(b"1"));
    let mut third = keyset("3", &[("c", 3)]);
    third.replaces_envelope_digest = Some(sha256_ref(b"2"));
    assert_eq!(
        chain(&[first.clone(), second.clone(), third.clone()])
            .unwrap()
            .payload,
        b"3"
    );

    let message = |result: Result<_, TrustEnvelopeError>| result.unwrap_err().to_string();
    assert!(message(chain(&[])).contains("empty chain"));
    let gap = message(chain(&[first.clone(), third]));
    assert!(gap.contains("envelope at index 1"), "{gap}");
    assert!(gap.contains("replacesEnvelopeDigest mismatch"), "{gap}");
    second.signatures.clear();
    let unsigned = message(chain(&[first.clone(), second]));
    assert!(unsigned.contains("envelope at index 1"), "{unsigned}");
    let mut other_type = envelope(TrustPayloadType::Revocation, b"2", &[("a", 1)]);
    other_type.replaces_envelope_digest = Some(sha256_ref(b"1"));
    assert!(matches!(
        chain(&[first, other_type]),
        Err(TrustEnvelopeError::ChainMember { index: 1, .. })
    ));
}

#[test]
fn a_revocation_list_has_a_type_a_version_and_an_epoch() {
    let list = |version: &str, epoch: u64| {
        revocation_list(&json!({
            "schemaVersion": version, "revocationEpoch": epoch, "revocations": [],
        }))
    };
    assert_eq!(list("1.0.0", 5).unwrap().1.highest(), Some(5));
    assert!(matches!(list("1.0.0", 3), Err(RevocationError::Epoch(_))));
    assert!(matches!(
        list("1.1.0", 5),
        Err(RevocationError::SchemaVersion { .. })
    ));
    assert!(matches!(
        revocation_list(&json!({})),
        Err(RevocationError::Unreadable(_))
    ));
    let keyset = verify(&keyset("{}", &[("a", 1)]), 1).unwrap();
    assert!(matches!(
        RevocationListV1::from_payload(&keyset, EpochAnchor::first_use()),
        Err(RevocationError::Envelope(
            TrustEnvelopeError::WrongPayloadType { .. }
        ))
    ));
}
