//! Whatever stands in a file or comes from a stranger: readers answer, and never panic.
//!
//! `PROPTEST_CASES` says how many cases each test tries.

use std::path::Path;

use cellos_core::{signing::SoftwareSigner, source::Format, strict_json};
use cellos_evidence::{
    attest::verify::verify as verify_attestation,
    facts::Facts,
    head,
    keyset::{Keyset, KeysetKey, Trust},
    line::{self, Tail},
    log::EventLog,
    projection::event_in,
    prove::{self, Wanted},
    seal::Seal,
    verify::{VerificationPolicy, canonical},
};
use proptest::prelude::*;
use serde_json::Value;

use super::{config, event, signer};

/// What JSON is made of, and a few bytes that have no place in it.
const PIECES: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "0",
    "1",
    "9",
    "-",
    "+",
    ".",
    "e",
    "E",
    "null",
    "true",
    "false",
    " ",
    "\t",
    "\n",
    "\u{0}",
    "\u{1f}",
    "\\u0000",
    "\\ud800",
    "\\/",
    "é",
    "\u{10ffff}",
    "\"a\":",
    "1e400",
    "9007199254740993",
];

/// A change of a text: at a place, some bytes give way to others.
#[derive(Debug, Clone)]
struct Change {
    at: prop::sample::Index,
    removed: usize,
    put: Vec<u8>,
}

fn change() -> impl Strategy<Value = Change> {
    let put = prop_oneof![
        4 => prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => Just(Vec::new()),
    ];
    (any::<prop::sample::Index>(), 0_usize..12, put).prop_map(|(at, removed, put)| Change {
        at,
        removed,
        put,
    })
}

fn changed(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for change in changes {
        let at = change.at.index(text.len() + 1);
        let end = (at + change.removed).min(text.len());
        text.splice(at..end, change.put.iter().copied());
    }
    text
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 0..4)
}

/// JSON values with numbers of every size.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000_i64..1_000_000).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Whether bytes are canonical, by taking them apart and putting them together again.
fn is_canonical(bytes: &[u8]) -> bool {
    let Ok(value) = strict_json::value_from_slice(bytes) else {
        return false;
    };
    serde_json_canonicalizer::to_vec(&value).is_ok_and(|again| again == bytes)
}

/// A log of three lines, the lines of its seal and head, and a proof out of it.
struct Written {
    line: Vec<u8>,
    head: Vec<u8>,
    seal: Vec<u8>,
    proof: Vec<u8>,
    keys: Keyset,
}

fn written() -> &'static Written {
    static WRITTEN: std::sync::OnceLock<Written> = std::sync::OnceLock::new();
    WRITTEN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let log = EventLog::open(config(&path)).unwrap();
        for id in ["a", "b", "c"] {
            log.append(&[event(id, "x")]).unwrap();
        }
        log.sync().unwrap();
        let head = std::fs::read(head::path_of(&path)).unwrap();
        log.rotate().unwrap();
        let segment = cellos_evidence::log::Segments::of(&path)
            .unwrap()
            .sealed
            .remove(0);
        let text = std::fs::read(&segment.path).unwrap();
        let proof = prove::prove(&path, &Wanted::parse("1")).unwrap();
        Written {
            line: text.split(|byte| *byte == b'\n').next().unwrap().to_vec(),
            head,
            seal: std::fs::read(segment.seal.unwrap()).unwrap(),
            proof: serde_json::to_vec(&proof).unwrap(),
            keys: keys(&signer()),
        }
    })
}

fn keys(signer: &SoftwareSigner) -> Keyset {
    use cellos_core::signing::Signer as _;
    let key = KeysetKey::new(signer.verifying_key());
    [(signer.kid().to_owned(), key)].into_iter().collect()
}

proptest! {
    #[test]
    fn what_is_canonical_is_what_canonicalises_to_itself(
        value in value(),
        changes in changes(),
    ) {
        let text = serde_json_canonicalizer::to_vec(&value).unwrap();
        prop_assert_eq!(canonical::check(&text), Ok(()));
        let text = changed(&text, &changes);
        let found = canonical::check(&text);
        prop_assert_eq!(
            found.is_ok(),
            is_canonical(&text),
            "{:?}: {:?}",
            String::from_utf8_lossy(&text),
            found
        );
    }

    #[test]
    fn pieces_of_json_are_judged_as_by_the_canonicalizer(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12),
    ) {
        let text = pieces.concat();
        let found = canonical::check(text.as_bytes());
        prop_assert_eq!(found.is_ok(), is_canonical(text.as_bytes()), "{:?}: {:?}", text, found);
    }

    #[test]
    fn a_changed_line_is_another_line_or_none(changes in changes()) {
        let bytes = changed(&written().line, &changes);
        if let Ok(parsed) = line::parse(&bytes) {
            prop_assert!(bytes.len() >= parsed.entry.len());
            let _ = Facts::of(parsed.event.get().as_bytes());
        }
        let _ = event_in(&bytes);
        let _ = Facts::of(&bytes);
    }

    #[test]
    fn a_changed_head_is_not_what_was_signed(changes in changes()) {
        let bytes = changed(&written().head, &changes);
        if let Ok(read) = head::parse(Path::new("head"), &bytes) {
            let key = written().keys.get("k1").unwrap();
            let original = head::parse(Path::new("head"), &written().head).unwrap();
            prop_assert!(!read.verify(&key.public) || read == original);
        }
    }

    #[test]
    fn a_changed_seal_is_not_what_was_signed(changes in changes()) {
        let bytes = changed(&written().seal, &changes);
        if let Ok(read) = Seal::parse(&bytes) {
            let key = written().keys.get("k1").unwrap();
            let original = Seal::parse(&written().seal).unwrap();
            prop_assert!(!read.verify(&key.public) || read == original);
        }
    }

    #[test]
    fn a_changed_proof_proves_the_same_or_nothing(changes in changes()) {
        let original = prove::check(&written().proof, &written().keys).unwrap();
        let bytes = changed(&written().proof, &changes);
        if let Ok(proven) = prove::check(&bytes, &written().keys) {
            prop_assert_eq!(format!("{proven:?}"), format!("{original:?}"));
        }
    }

    #[test]
    fn any_bytes_are_read_by_every_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(prove::check(&bytes, &written().keys).is_err());
        prop_assert!(verify_attestation(&bytes, &written().keys).is_err());
        let _ = Keyset::parse(&bytes, &Trust::SelfContained, jiff::Timestamp::UNIX_EPOCH);
        let _ = line::parse(&bytes);
        let _ = event_in(&bytes);
        let _ = Facts::of(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        for format in [Format::Json, Format::Yaml] {
            let _ = VerificationPolicy::parse(&text, format);
        }
    }

    #[test]
    fn a_changed_keyring_or_policy_is_read(changes in changes()) {
        let keyring = br#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#;
        let bytes = changed(keyring, &changes);
        let _ = Keyset::parse(&bytes, &Trust::SelfContained, jiff::Timestamp::UNIX_EPOCH);
        let policy = b"apiVersion: cellos.io/v1\nkind: VerificationPolicy\nspec: {signers: [a], maxTtlSeconds: 5}\n";
        let bytes = changed(policy, &changes);
        let _ = VerificationPolicy::parse(&String::from_utf8_lossy(&bytes), Format::Yaml);
    }

    #[test]
    fn events_of_any_content_become_lines_that_are_read_back(text in any::<String>()) {
        let mut tail = Tail::of_new_log("01J");
        let lines = line::encode(&mut tail, &[event("e", &text)], Some(&signer())).unwrap();
        let bytes = lines.strip_suffix(b"\n").unwrap();
        prop_assert_eq!(canonical::check(bytes), Ok(()));
        let parsed = line::parse(bytes).unwrap();
        let event: Value = serde_json::from_str(parsed.event.get()).unwrap();
        prop_assert_eq!(event["data"].as_str(), Some(text.as_str()));
    }
}
