use cellos_core::{
    CellosError, CloudEventV1,
    signing::{
        EventSigningError, EventVerifyKeys, HmacKey, HmacVerifyKeys, RevokedKids,
        SIGNED_ENVELOPE_EVENT_TYPE, SIGNED_ENVELOPE_SOURCE, SignedEventEnvelopeV1, Signer as _,
        TrustVerifyKeys, parse_signed_event, parse_signed_event_line, sign_event_ed25519,
        sign_event_hmac, unwrap_signed_event, verify_signed_event, verify_wrapped_event,
        wrap_signed_event,
    },
};
use serde_json::json;

use super::fixtures::{EVENT_TEXT, PUBLIC_KEY, SAMPLE_KID, event, signer};

const SIGNED: &str = include_str!("../vectors-authority/signed.jsonl");
const SIGNED_THEN_REDACTED: &str = include_str!("../vectors-authority/signed-then-redacted.jsonl");

fn keys() -> EventVerifyKeys {
    EventVerifyKeys {
        ed25519: TrustVerifyKeys::parse(format!(r#"{{"{SAMPLE_KID}":"{PUBLIC_KEY}"}}"#).as_bytes())
            .unwrap(),
        hmac: HmacVerifyKeys::parse(br#"{"h1":"c2VjcmV0"}"#).unwrap(),
    }
}

fn hmac_key() -> HmacKey {
    HmacKey::new(b"secret".to_vec()).unwrap()
}

fn verify(envelope: &SignedEventEnvelopeV1) -> Result<CloudEventV1, EventSigningError> {
    verify_signed_event(envelope, &keys(), &RevokedKids::default()).cloned()
}

#[test]
fn the_published_signatures_are_made_and_verified() {
    let ed25519 = sign_event_ed25519(event(), &signer(SAMPLE_KID, 7)).unwrap();
    assert_eq!(
        ed25519.signature,
        "NoPMDur_OE4vLifUC9lt_8l_2K3XR3JrYzGGYdadGJSzgT9Ztq4r8o-iGeLGqWH4BtQCQgDupPpLXiDgBUGODg"
    );
    let hmac = sign_event_hmac(event(), "h1", &hmac_key()).unwrap();
    assert_eq!(
        hmac.signature,
        "1MBLrDAoB9mv7K5R60PmqgR66UeJZEdrkTbbnnwj3Hk"
    );
    for envelope in [ed25519, hmac] {
        assert_eq!(verify(&envelope).unwrap(), event());
    }
}

#[test]
fn the_published_event_with_non_ascii_data_gets_its_signature() {
    let text = r#"{"data":{"a":"é","b":1},"datacontenttype":"application/json","id":"e1","source":"cellos-supervisor","specversion":"1.0","time":"2026-01-01T00:00:00Z","traceparent":null,"type":"dev.cellos.events.cell.lifecycle.v1.started"}"#;
    let event: CloudEventV1 = serde_json::from_str(text).unwrap();
    let envelope = sign_event_ed25519(event, &signer("k", 7)).unwrap();
    assert_eq!(
        envelope.signature,
        "1ZbKNbPaSmSYhbSfTKCEe8QlPsgF_OjzXSjJvMo9Y42umXPlJpYKE_QsPkxvgpvXk1pp7DZcXmUO4Vw3qqZyCg"
    );
}

/// RFC 2104, section 2: a key longer than a block of the hash (64 bytes) is hashed first.
#[test]
fn an_hmac_key_longer_than_a_block_counts_as_its_hash() {
    let long = vec![0xaa; 131];
    let hex = cellos_core::canonical::sha256_hex(&long);
    let hashed: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let by = |key: Vec<u8>| {
        sign_event_hmac(event(), "k", &HmacKey::new(key).unwrap())
            .unwrap()
            .signature
    };
    assert_eq!(by(long.clone()), by(hashed));
    assert_ne!(by(long), by(vec![0xaa; 64]));
    assert!(HmacKey::new(Vec::new()).is_none());
}

#[test]
fn every_line_of_the_published_log_verifies() {
    let mut verified = 0;
    for line in SIGNED.lines() {
        let envelope = parse_signed_event_line(line.as_bytes()).unwrap();
        verify(&envelope).unwrap();
        let wrapper: CloudEventV1 = serde_json::from_str(line).unwrap();
        verify_wrapped_event(&wrapper, &keys(), &RevokedKids::default()).unwrap();
        verified += 1;
    }
    assert_eq!(verified, 10);
}

/// The sample was redacted after it was signed; the two events with a redacted field must fail.
#[test]
fn the_lines_that_were_redacted_after_signing_fail_and_no_others() {
    for line in SIGNED_THEN_REDACTED.lines() {
        let envelope = parse_signed_event_line(line.as_bytes()).unwrap();
        let outcome = verify(&envelope);
        if line.contains("[redacted]") {
            assert!(
                matches!(outcome, Err(EventSigningError::SignatureInvalid { .. })),
                "{}",
                envelope.event.ty
            );
        } else {
            outcome.unwrap();
        }
    }
    assert_eq!(
        SIGNED_THEN_REDACTED
            .lines()
            .filter(|line| line.contains("[redacted]"))
            .count(),
        2
    );
}

#[test]
fn the_wrapper_copies_what_the_contract_says() {
    let mut inner = event();
    inner.traceparent = Some("00-x".to_owned());
    inner.cexsessionid = Some("01J".to_owned());
    let envelope = sign_event_ed25519(inner, &signer(SAMPLE_KID, 7)).unwrap();
    let wrapper = wrap_signed_event(&envelope).unwrap();
    assert_eq!(wrapper.ty, SIGNED_ENVELOPE_EVENT_TYPE);
    assert_eq!(wrapper.source, SIGNED_ENVELOPE_SOURCE);
    assert_eq!(wrapper.id, "ev-001");
    assert_eq!(wrapper.time.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(wrapper.traceparent.as_deref(), Some("00-x"));
    assert_eq!(wrapper.cexsessionid, None);
    let data = wrapper.data.as_ref().unwrap();
    assert_eq!(data["event"]["cexsessionid"], "01J");
    assert!(data.get("notBefore").is_none());
    assert_eq!(unwrap_signed_event(&wrapper).unwrap(), envelope);
}

#[test]
fn a_wrapper_that_says_something_else_than_the_event_inside_is_refused() {
    let envelope = sign_event_ed25519(event(), &signer(SAMPLE_KID, 7)).unwrap();
    type Change = fn(&mut CloudEventV1);
    let changes: [(&str, Change); 4] = [
        ("id", |wrapper| wrapper.id = "other".to_owned()),
        ("time", |wrapper| wrapper.time = None),
        ("source", |wrapper| wrapper.source = "x".to_owned()),
        ("cexrevocation", |wrapper| {
            wrapper.cexrevocation = Some("x".to_owned())
        }),
    ];
    for (name, change) in changes {
        let mut wrapper = wrap_signed_event(&envelope).unwrap();
        change(&mut wrapper);
        assert!(matches!(
            unwrap_signed_event(&wrapper),
            Err(EventSigningError::WrapperMismatch { attribute, .. }) if attribute == name
        ));
    }
    assert!(matches!(
        unwrap_signed_event(&event()),
        Err(EventSigningError::NotAWrapper { .. })
    ));
}

#[test]
fn a_key_is_never_used_with_the_other_algorithm() {
    // Whoever knows a public key could forge an HMAC with it, if one keyring served both.
    let public = HmacKey::new(signer("k", 7).verifying_key().as_bytes().to_vec()).unwrap();
    let forged = sign_event_hmac(event(), SAMPLE_KID, &public).unwrap();
    assert!(matches!(
        verify(&forged),
        Err(EventSigningError::UnknownKid {
            algorithm: "hmac-sha256",
            ..
        })
    ));
    let unknown = sign_event_ed25519(event(), &signer("h1", 7)).unwrap();
    assert!(matches!(
        verify(&unknown),
        Err(EventSigningError::UnknownKid { .. })
    ));
}

#[test]
fn a_revoked_key_is_refused_before_its_signature_is_looked_at() {
    let mut envelope = sign_event_ed25519(event(), &signer(SAMPLE_KID, 7)).unwrap();
    envelope.signature = "!".to_owned();
    let revoked = super::trust_envelopes::revoked(&[SAMPLE_KID]);
    let error = verify_signed_event(&envelope, &keys(), &revoked).unwrap_err();
    assert!(
        error.to_string().starts_with("signer_kid_revoked"),
        "{error}"
    );
    assert!(matches!(
        CellosError::from(error),
        CellosError::InvalidSpec(_)
    ));
}

#[test]
fn signatures_of_the_wrong_form_are_told_apart() {
    let good = sign_event_ed25519(event(), &signer(SAMPLE_KID, 7)).unwrap();
    let with = |signature: String| {
        verify(&SignedEventEnvelopeV1 {
            signature,
            ..good.clone()
        })
    };
    with(format!("{}==", good.signature)).unwrap();
    assert!(matches!(
        with("AAAA".to_owned()),
        Err(EventSigningError::SignatureLength {
            expected: 64,
            found: 3,
            ..
        })
    ));
    assert!(matches!(
        with(good.signature.replace(['-', '_'], "+")),
        Err(EventSigningError::SignatureEncoding { .. })
    ));
    let hmac = sign_event_hmac(event(), "h1", &hmac_key()).unwrap();
    assert!(matches!(
        verify(&SignedEventEnvelopeV1 {
            signature: "AAAA".to_owned(),
            ..hmac
        }),
        Err(EventSigningError::SignatureLength {
            expected: 32,
            found: 3,
            ..
        })
    ));
}

/// What stands in a log beside the signature must not look as if it were signed.
#[test]
fn texts_with_something_the_signature_does_not_cover_are_refused() {
    let envelope = sign_event_ed25519(event(), &signer(SAMPLE_KID, 7)).unwrap();
    let text = serde_json::to_string(&envelope).unwrap();
    verify(&parse_signed_event(text.as_bytes()).unwrap()).unwrap();
    let extra = text.replacen(r#""id":"#, r#""subject":"x","id":"#, 1);
    assert!(matches!(
        parse_signed_event(extra.as_bytes()),
        Err(EventSigningError::UnknownAttribute { name }) if name == "subject"
    ));
    let doubled = text.replacen(r#""ttlSeconds":30"#, r#""ttlSeconds":9,"ttlSeconds":30"#, 1);
    assert_ne!(doubled, text);
    assert!(matches!(
        parse_signed_event(doubled.as_bytes()),
        Err(EventSigningError::Unreadable(_))
    ));
    let unknown_algorithm = text.replace("ed25519", "rsa");
    assert!(parse_signed_event(unknown_algorithm.as_bytes()).is_err());
    for text in ["[]", "{}", "null", r#"{"event":[]}"#, EVENT_TEXT] {
        assert!(parse_signed_event(text.as_bytes()).is_err(), "{text}");
    }
    let wrapper = serde_json::to_value(wrap_signed_event(&envelope).unwrap()).unwrap();
    let mut extended = wrapper.clone();
    extended["subject"] = json!("x");
    parse_signed_event_line(wrapper.to_string().as_bytes()).unwrap();
    assert!(parse_signed_event_line(extended.to_string().as_bytes()).is_err());
}
