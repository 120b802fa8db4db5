//! `cellos prove`.

use std::{fs, process::Output, sync::Arc};

use cellos_core::signing::{Signer, SoftwareSigner};
use cellos_evidence::log::{EventLog, LogConfig};

use crate::program::Place;

/// The seed of the key `k1`, and its public half.
const SEED: [u8; 32] = [7; 32];
const KEYRING: &str = r#"{"k1": "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#;
const OTHER_KEYRING: &str = r#"{"k1": "E5ikNuWNgTzFPFN8abYGX0XGTicfs1jjCjeOJ_0JRWs"}"#;

fn text(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        text(&output.stdout),
        text(&output.stderr),
        output.status.code(),
    )
}

fn log(place: &Place, signer: Option<Arc<dyn Signer>>) -> EventLog {
    let log = EventLog::open(LogConfig {
        signer,
        ..LogConfig::new(place.events())
    })
    .unwrap();
    for number in 0..5 {
        let event = serde_json::from_value(serde_json::json!({
            "specversion": "1.0", "id": format!("id-{number}"), "source": "s", "type": "t\u{1b}[1m",
        }))
        .unwrap();
        log.append(&[event]).unwrap();
    }
    log
}

#[test]
fn an_event_is_proved_to_whoever_has_the_key_alone() {
    let place = Place::new();
    let signer = SoftwareSigner::from_seed("k1", SEED);
    let log = log(&place, Some(Arc::new(signer)));
    let run = |arguments: &[&str]| text(&place.cellos(arguments).output().unwrap());
    let prove = ["prove", "id-3", "--log", "events.jsonl", "-o", "proof.json"];
    let (_, said, code) = run(&prove);
    assert!(
        said.contains("line number 3, which is not sealed yet"),
        "{said}"
    );
    assert!(said.contains("--seal"), "{said}");
    assert_eq!(code, Some(125));
    log.rotate().unwrap();
    assert_eq!(run(&prove), (String::new(), String::new(), Some(0)));

    // Elsewhere, with nothing but the proof and the key.
    let stranger = Place::new();
    let proof = fs::read_to_string(place.path().join("proof.json")).unwrap();
    stranger.file("proof.json", &proof);
    stranger.file("keys.json", KEYRING);
    stranger.file("other.json", OTHER_KEYRING);
    let check = |file: &str, keys: &str| {
        let arguments = ["prove", "--check", file, "--keys", keys];
        text(&stranger.cellos(&arguments).output().unwrap())
    };
    let (shown, said, code) = check("proof.json", "keys.json");
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.starts_with("proved: event id-3 of type t"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert!(shown.contains("\n  line 3 of log 01"), "{shown}");
    assert!(shown.trim_end().ends_with("by key k1"), "{shown}");
    let (_, said, code) = check("proof.json", "other.json");
    assert!(
        said.contains("the seal's signature is not by key k1"),
        "{said}"
    );
    assert_eq!(code, Some(125));
    stranger.file("forged.json", proof.replace("id-3", "id-4"));
    let (_, said, code) = check("forged.json", "keys.json");
    assert!(said.contains("does not lead to the seal's root"), "{said}");
    assert_eq!(code, Some(125));
    let arguments = [
        "prove",
        "--check",
        "proof.json",
        "--keys",
        "keys.json",
        "--json",
    ];
    let (shown, ..) = text(&stranger.cellos(&arguments).output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["format"], "cellos.proved/1");
    assert_eq!(
        (&report["event"]["id"], &report["seq"]),
        (&"id-3".into(), &3.into())
    );
}

#[test]
fn a_file_is_sealed_when_asked_and_only_by_whoever_may_go_on_with_it() {
    let place = Place::new();
    drop(log(
        &place,
        Some(Arc::new(SoftwareSigner::from_seed("k1", SEED))),
    ));
    let run = |arguments: &[&str]| text(&place.cellos(arguments).output().unwrap());
    let (_, said, code) = run(&["prove", "2", "--log", "events.jsonl", "--seal"]);
    assert!(
        said.contains("is signed, and there is no key to go on with"),
        "{said}"
    );
    assert_eq!(code, Some(125));
    let key = place.file("k1.seed", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(key, mode).unwrap();
    let seal = [
        "prove",
        "2",
        "--log",
        "events.jsonl",
        "--seal",
        "--signing-key",
        "./k1.seed",
    ];
    let (shown, said, code) = run(&seal);
    assert_eq!(code, Some(0), "{said}");
    let proof: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(proof["format"], "cellos.proof/1");
    assert_eq!(
        (&proof["index"], &proof["treeSize"]),
        (&2.into(), &5.into())
    );
    // What is sealed is not sealed again.
    assert_eq!(run(&seal), (shown, String::new(), Some(0)));
    let (_, said, code) = run(&["prove", "nobody", "--log", "events.jsonl"]);
    assert!(
        said.contains("has no event with the id \"nobody\""),
        "{said}"
    );
    assert_eq!(code, Some(125));
}
