use base64::engine::general_purpose::{STANDARD as PADDED, URL_SAFE_NO_PAD};
use cellos_core::signing::{Signer, SoftwareSigner};
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::{
    attest::{
        dsse::Signature,
        statement::{ResourceDescriptor, Statement},
    },
    keyset::Revocation,
};

fn signer(kid: &str, seed: u8) -> SoftwareSigner {
    SoftwareSigner::from_seed(kid, [seed; 32])
}

fn key(signer: &SoftwareSigner) -> KeysetKey {
    KeysetKey::new(signer.verifying_key())
}

fn keyset(keys: impl IntoIterator<Item = (&'static str, KeysetKey)>) -> Keyset {
    keys.into_iter()
        .map(|(kid, key)| (kid.to_owned(), key))
        .collect()
}

fn statement() -> Statement {
    let mut predicate = Map::new();
    predicate.insert(
        "metadata".into(),
        json!({ATTESTED_ON: "2026-06-01T00:00:00Z"}),
    );
    Statement {
        ty: STATEMENT_TYPE.into(),
        subject: vec![ResourceDescriptor::named("a", "00")],
        predicate_type: "https://example.com/p".into(),
        predicate,
    }
}

fn signed(statement: &Statement, signer: &SoftwareSigner) -> Envelope {
    Envelope::sign(statement, signer).unwrap()
}

fn bytes(envelope: &Envelope) -> Vec<u8> {
    envelope.to_line().unwrap().into_bytes()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn what_was_signed_is_what_is_believed() {
    let signer = signer("k", 7);
    let verified = verify(
        &bytes(&signed(&statement(), &signer)),
        &keyset([("k", key(&signer))]),
    )
    .unwrap();
    assert_eq!(verified.statement, statement());
    assert_eq!(verified.kids, ["k"]);
    assert_eq!(verified.attested_on, Some(time("2026-06-01T00:00:00Z")));
}

#[test]
fn both_alphabets_and_an_absent_key_id_are_read() {
    let signer = signer("k", 7);
    let mut envelope = signed(&statement(), &signer);
    let sig = PADDED.decode(&envelope.signatures[0].sig).unwrap();
    envelope.signatures[0] = Signature {
        keyid: String::new(),
        sig: URL_SAFE_NO_PAD.encode(sig),
    };
    let keys = keyset([("other", key(&self::signer("o", 8))), ("k", key(&signer))]);
    assert_eq!(verify(&bytes(&envelope), &keys).unwrap().kids, ["k"]);
}

#[test]
fn a_key_counts_only_while_it_is_valid_and_not_revoked() {
    let signer = signer("k", 7);
    let envelope = bytes(&signed(&statement(), &signer));
    let judged = |change: fn(&mut KeysetKey)| {
        let mut key = key(&signer);
        change(&mut key);
        verify(&envelope, &keyset([("k", key)]))
    };
    assert!(judged(|key| key.not_after = Some(time("2026-06-01T00:00:00Z"))).is_ok());
    for change in [
        (|key| key.not_after = Some(time("2026-05-31T00:00:00Z"))) as fn(&mut KeysetKey),
        |key| key.not_before = Some(time("2026-06-02T00:00:00Z")),
        |key| {
            key.revoked = Some(Revocation {
                at: time("2030-01-01T00:00:00Z"),
                reason: "lost".into(),
            });
        },
    ] {
        assert!(matches!(judged(change), Err(VerifyError::Key { .. })));
    }
    let mut timeless = statement();
    timeless.predicate.clear();
    let envelope = bytes(&signed(&timeless, &signer));
    let mut windowed = key(&signer);
    windowed.not_after = Some(time("2026-06-01T00:00:00Z"));
    assert!(matches!(
        verify(&envelope, &keyset([("k", windowed)])),
        Err(VerifyError::NoTime { .. })
    ));
    assert!(verify(&envelope, &keyset([("k", key(&signer))])).is_ok());
}

#[test]
fn another_key_another_type_and_odd_signatures_are_refused() {
    let (good, other) = (signer("k", 7), signer("k", 8));
    let keys = keyset([("k", key(&good))]);
    let refused = |change: fn(&mut Envelope), envelope: &Envelope| {
        let mut envelope = envelope.clone();
        change(&mut envelope);
        verify(&bytes(&envelope), &keys).unwrap_err()
    };
    let envelope = signed(&statement(), &good);
    assert!(matches!(
        refused(|_| {}, &signed(&statement(), &other)),
        VerifyError::SignatureInvalid { .. }
    ));
    assert!(matches!(
        refused(|it| it.signatures[0].keyid = "x".into(), &envelope),
        VerifyError::UnknownKey { .. }
    ));
    assert!(matches!(
        refused(|it| it.payload_type = "application/json".into(), &envelope),
        VerifyError::PayloadType { .. }
    ));
    assert!(matches!(
        refused(|it| it.signatures.clear(), &envelope),
        VerifyError::Signatures { found: 0 }
    ));
    assert!(matches!(
        refused(
            |it| it.signatures = vec![it.signatures[0].clone(); MAX_SIGNATURES + 1],
            &envelope
        ),
        VerifyError::Signatures { .. }
    ));
    assert!(matches!(
        refused(|it| it.signatures.push(it.signatures[0].clone()), &envelope),
        VerifyError::KeyTwice { .. }
    ));
    assert!(matches!(
        refused(|it| it.signatures[0].sig = "*".into(), &envelope),
        VerifyError::Base64 { .. }
    ));
}

#[test]
fn statements_that_break_the_format_are_refused_although_signed() {
    let signer = signer("k", 7);
    let keys = keyset([("k", key(&signer))]);
    for change in [
        (|it| it.ty = "https://in-toto.io/Statement/v0.1".into()) as fn(&mut Statement),
        |it| it.subject.clear(),
        |it| it.subject[0].digest.clear(),
        |it| it.predicate_type.clear(),
        |it| {
            it.predicate
                .insert("metadata".into(), json!({ATTESTED_ON: "yesterday"}));
        },
    ] {
        let mut statement = statement();
        change(&mut statement);
        let error = verify(&bytes(&signed(&statement, &signer)), &keys).unwrap_err();
        assert!(matches!(error, VerifyError::Invalid(_)), "{error}");
    }
}

#[test]
fn what_says_two_things_to_two_readers_is_refused() {
    let signer = signer("k", 7);
    let keys = keyset([("k", key(&signer))]);
    let line = signed(&statement(), &signer).to_line().unwrap();
    let twice = line.replacen('{', r#"{"payload":"","#, 1);
    assert!(matches!(
        verify(twice.as_bytes(), &keys),
        Err(VerifyError::Envelope(_))
    ));
    let payload =
        serde_json::to_string(&statement())
            .unwrap()
            .replacen('{', r#"{"predicate":{},"#, 1);
    let message = pre_authentication_encoding(PAYLOAD_TYPE, payload.as_bytes());
    let envelope = Envelope {
        payload: PADDED.encode(&payload),
        payload_type: PAYLOAD_TYPE.into(),
        signatures: vec![Signature {
            keyid: "k".into(),
            sig: PADDED.encode(signer.sign(&message).unwrap()),
        }],
    };
    assert!(matches!(
        verify(&bytes(&envelope), &keys),
        Err(VerifyError::Statement(_))
    ));
}

#[test]
fn an_envelope_that_is_too_large_is_not_read() {
    let bytes = vec![b' '; MAX_ENVELOPE_BYTES + 1];
    assert!(matches!(
        verify(&bytes, &Keyset::default()),
        Err(VerifyError::TooLarge { .. })
    ));
    let deep = "[".repeat(100_000);
    assert!(matches!(
        verify(deep.as_bytes(), &Keyset::default()),
        Err(VerifyError::Envelope(_))
    ));
}

proptest! {
    #[test]
    fn a_changed_byte_of_payload_or_signature_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
        let signer = signer("k", 7);
        let keys = keyset([("k", key(&signer))]);
        let envelope = signed(&statement(), &signer);
        let mut payload = PADDED.decode(&envelope.payload).unwrap();
        let mut sig = PADDED.decode(&envelope.signatures[0].sig).unwrap();
        let at = at % (payload.len() + sig.len());
        match at.checked_sub(payload.len()) {
            None => payload[at] ^= 1 << bit,
            Some(at) => sig[at] ^= 1 << bit,
        }
        let changed = Envelope {
            payload: PADDED.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![Signature { keyid: "k".into(), sig: PADDED.encode(sig) }],
        };
        let refused = matches!(
            verify(&bytes(&changed), &keys),
            Err(VerifyError::SignatureInvalid { .. })
        );
        prop_assert!(refused);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify(&bytes, &Keyset::default()).is_err());
    }
}
