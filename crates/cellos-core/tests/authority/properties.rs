use cellos_core::{
    CloudEventV1,
    authority::exceeding,
    canonical::canonical_json_bytes,
    document::{AuthorityCapability, EgressRule},
    signing::{
        EventVerifyKeys, HmacKey, HmacVerifyKeys, RevokedKids, Signer as _, TrustVerifyKeys,
        parse_signed_event, sign_event_ed25519, sign_event_hmac, verify_signed_event,
    },
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value};

use super::fixtures::{event, signer};

/// Few different rules, so that generated capabilities contain one another often.
fn rule() -> impl Strategy<Value = EgressRule> {
    let host = prop::sample::select(vec!["a.example", "A.Example", "b.example", "10.0.0.1"]);
    let protocol = prop::option::of(prop::sample::select(vec!["tcp", "HTTPS", "udp", "x", "X"]));
    (host, 1..3u16, protocol).prop_map(|(host, port, protocol)| EgressRule {
        host: host.to_owned(),
        port,
        protocol: protocol.map(str::to_owned),
        dns_egress_justification: None,
    })
}

fn capability() -> impl Strategy<Value = AuthorityCapability> {
    let secret = prop::sample::select(vec!["A", "B"]).prop_map(str::to_owned);
    (vec(rule(), 0..4), vec(secret, 0..3)).prop_map(|(egress_rules, secret_refs)| {
        AuthorityCapability {
            egress_rules,
            secret_refs,
        }
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| {
            serde_json::Number::from_f64(number).map(Value::Number)
        }),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Writes a value with its keys in an order that depends on `seed`.
fn shuffled(value: &Value, seed: u64) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shuffled(item, seed)).collect();
            format!("[ {}]", items.join(" ,"))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map
                .iter()
                .enumerate()
                .map(|(index, (key, value))| {
                    let rank = (index as u64)
                        .wrapping_add(1)
                        .wrapping_mul(seed | 1)
                        .rotate_left(17);
                    (
                        rank,
                        format!("{}: {}", Value::from(key.as_str()), shuffled(value, seed)),
                    )
                })
                .collect();
            entries.sort();
            let entries: Vec<_> = entries.into_iter().map(|(_, text)| text).collect();
            format!("{{{}\n}}", entries.join(","))
        }
        scalar => scalar.to_string(),
    }
}

fn keys() -> EventVerifyKeys {
    let ed25519: TrustVerifyKeys = [("k1".to_owned(), signer("k1", 7).verifying_key())]
        .into_iter()
        .collect();
    EventVerifyKeys {
        ed25519,
        ..EventVerifyKeys::default()
    }
}

/// The event that a text proves, if it proves one.
fn proven(text: &[u8], keys: &EventVerifyKeys) -> Option<CloudEventV1> {
    let envelope = parse_signed_event(text).ok()?;
    verify_signed_event(&envelope, keys, &RevokedKids::default())
        .ok()
        .cloned()
}

proptest! {
    #[test]
    fn every_capability_contains_itself_and_nothing(capability in capability()) {
        prop_assert!(capability.is_superset_of(&capability));
        prop_assert!(capability.is_superset_of(&AuthorityCapability::default()));
    }

    #[test]
    fn containment_is_transitive(a in capability(), b in capability(), c in capability()) {
        if a.is_superset_of(&b) && b.is_superset_of(&c) {
            prop_assert!(a.is_superset_of(&c));
        }
        // The generated triple is seldom a chain; its unions always are.
        let union = |x: &AuthorityCapability, y: &AuthorityCapability| AuthorityCapability {
            egress_rules: [x.egress_rules.clone(), y.egress_rules.clone()].concat(),
            secret_refs: [x.secret_refs.clone(), y.secret_refs.clone()].concat(),
        };
        let (ab, abc) = (union(&a, &b), union(&union(&a, &b), &c));
        prop_assert!(abc.is_superset_of(&ab) && ab.is_superset_of(&a) && abc.is_superset_of(&a));
    }

    #[test]
    fn what_exceeds_is_exactly_what_is_missing(a in capability(), b in capability()) {
        let missing = exceeding(&a, &b);
        prop_assert_eq!(missing == AuthorityCapability::default(), a.is_superset_of(&b));
        let mended = AuthorityCapability {
            egress_rules: [a.egress_rules, missing.egress_rules].concat(),
            secret_refs: [a.secret_refs, missing.secret_refs].concat(),
        };
        prop_assert!(mended.is_superset_of(&b));
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_key_order_or_space(value in json(), seed: u64) {
        let reread: Value = serde_json::from_str(&shuffled(&value, seed)).unwrap();
        let bytes = canonical_json_bytes(&value).unwrap();
        prop_assert_eq!(&canonical_json_bytes(&reread).unwrap(), &bytes);
        prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
    }

    #[test]
    fn any_data_that_was_signed_verifies_after_reading(data in json()) {
        let signed = CloudEventV1 { data: Some(data), ..event() };
        let envelope = sign_event_ed25519(signed.clone(), &signer("k1", 7)).unwrap();
        let text = serde_json::to_vec(&envelope).unwrap();
        let read = proven(&text, &keys());
        // `data: null` reads as no data, which has the same canonical bytes.
        let expected = if signed.data == Some(Value::Null) {
            CloudEventV1 { data: None, ..signed }
        } else {
            signed
        };
        prop_assert_eq!(read, Some(expected));
    }
}

/// An event whose data holds every kind of scalar.
fn varied_event() -> CloudEventV1 {
    let mut data = Map::new();
    data.insert("exitCode".to_owned(), Value::from(0));
    data.insert("efficiency".to_owned(), Value::from(0.5));
    data.insert("text".to_owned(), Value::from("a\"\u{1}é"));
    CloudEventV1 {
        data: Some(Value::Object(data)),
        ..event()
    }
}

/// Every byte of a signed event, changed in every bit. With HMAC, because it is quick; what is
/// signed and how the text is read is the same for both algorithms.
#[test]
fn no_changed_bit_lets_a_signed_event_verify() {
    let key = HmacKey::new(b"secret".to_vec()).unwrap();
    let envelope = sign_event_hmac(varied_event(), "h1", &key).unwrap();
    let text = serde_json::to_vec(&envelope).unwrap();
    let hmac: HmacVerifyKeys = [("h1".to_owned(), key)].into_iter().collect();
    let keys = EventVerifyKeys { hmac, ..keys() };
    assert_eq!(proven(&text, &keys), Some(varied_event()));
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[at] ^= 1 << bit;
            assert_eq!(proven(&changed, &keys), None, "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn a_changed_byte_never_passes_as_ed25519_signed(at: prop::sample::Index, mask in 1..=255u8) {
        let envelope = sign_event_ed25519(varied_event(), &signer("k1", 7)).unwrap();
        let mut text = serde_json::to_vec(&envelope).unwrap();
        let at = at.index(text.len());
        text[at] ^= mask;
        // Another spelling of the same event is no forgery.
        let proven = proven(&text, &keys());
        prop_assert!(proven.is_none_or(|event| event == varied_event()));
    }
}
