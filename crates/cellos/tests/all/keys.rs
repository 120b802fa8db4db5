//! `cellos keys`, and runs that sign with them.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use cellos_core::signing::{TrustVerifyKeys, parse_trust_envelope_chain};
use cellos_evidence::{
    keyset::{KeyFault, Keyset, Trust},
    line::{self, MAX_LINES_PER_SIGNATURE},
};
use cellos_testkit::require;
use jiff::Timestamp;

use crate::program::{Place, snapshot};

pub(crate) fn ok(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn keys(place: &Place, arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["keys"].iter().chain(arguments).copied().collect();
    place.cellos(&arguments).output().unwrap()
}

fn run(place: &Place, more: &[&str]) -> Output {
    let log = place.events();
    let mut arguments = vec!["run", "--quiet", "--backend", "stub", "--events"];
    arguments.push(log.to_str().unwrap());
    arguments.extend(more);
    arguments.extend(["--", "true"]);
    place.cellos(&arguments).output().unwrap()
}

fn keyset(place: &Place) -> Keyset {
    let bytes = ok(&keys(place, &["show", "--keyset"]));
    Keyset::parse(bytes.as_bytes(), &Trust::SelfContained, Timestamp::now()).unwrap()
}

/// The ids of the keys that signed lines of the log, oldest first, each once. Every line has to be
/// spoken for.
pub(crate) fn signers(log: &Path, keyset: &Keyset) -> Result<Vec<String>, String> {
    let text = std::fs::read(log).unwrap();
    let mut kids: Vec<String> = Vec::new();
    let mut unspoken = 0;
    for bytes in text
        .split(|byte| *byte == b'\n')
        .filter(|it| !it.is_empty())
    {
        let parsed = line::parse(bytes).unwrap();
        unspoken += 1;
        let Some(signature) = &parsed.signature else {
            continue;
        };
        assert!(signature.signs >= 1 && signature.signs <= MAX_LINES_PER_SIGNATURE);
        assert_eq!(signature.signs, unspoken);
        unspoken = 0;
        let kid = signature.kid.to_owned();
        let key = keyset.get(&kid).ok_or_else(|| format!("unknown {kid}"))?;
        key.judge(Timestamp::now())
            .map_err(|fault| format!("{kid}: {fault}"))?;
        let message = line::signed_bytes(parsed.entry);
        if !key.public.verifies(&message, &signature.bytes) {
            return Err(format!("{kid}: does not verify"));
        }
        if kids.last() != Some(&kid) {
            kids.push(kid);
        }
    }
    assert_eq!(unspoken, 0, "lines that nobody signed");
    Ok(kids)
}

fn mode(path: PathBuf) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn private_keys_are_private_and_appear_nowhere() {
    let place = Place::new();
    let made = keys(
        &place,
        &["generate", "--kid", "first", "--keyset-id", "here"],
    );
    snapshot!("keys-generate", place, &made);
    let folder = place.path().join("keys");
    assert_eq!(mode(folder.clone()), 0o700);
    assert_eq!(mode(folder.join("first.key")), 0o600);
    let secret = std::fs::read_to_string(folder.join("first.key")).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    for form in [
        &["show"][..],
        &["show", "--json"],
        &["show", "--keyring"],
        &["show", "--keyset"],
    ] {
        let shown = ok(&keys(&place, form));
        assert!(!shown.contains(secret) && !shown.contains(&secret[22..]));
    }
    let ran = run(&place, &["-vv"]);
    assert!(!String::from_utf8_lossy(&ran.stderr).contains(&secret[22..]));
    let ring = ok(&keys(&place, &["show", "--keyring"]));
    assert!(
        TrustVerifyKeys::parse(ring.as_bytes())
            .unwrap()
            .get("first")
            .is_some()
    );
    let again = keys(&place, &["generate"]);
    snapshot!("keys-generate-again", place, &again);
}

#[test]
fn a_log_from_before_a_rotation_checks_with_the_keyset_after_it() {
    let place = Place::new();
    ok(&keys(&place, &["generate", "--kid", "one"]));
    ok(&run(&place, &[]));
    ok(&keys(&place, &["rotate", "--kid", "two"]));
    ok(&run(&place, &[]));
    ok(&keys(
        &place,
        &["rotate", "--kid", "three", "--overlap", "2h"],
    ));
    ok(&run(&place, &[]));
    let published = keyset(&place);
    assert_eq!(published.published().unwrap().envelopes, 3);
    assert_eq!(
        signers(&place.events(), &published).unwrap(),
        ["one", "two", "three"]
    );
    // Whoever trusted the first key believes the newest keyset for it.
    let chain = ok(&keys(&place, &["show", "--keyset"]));
    let first = std::iter::once(("one".to_owned(), published.get("one").unwrap().public));
    let anchored = Trust::Anchored(first.collect());
    let followed = Keyset::parse(chain.as_bytes(), &anchored, Timestamp::now()).unwrap();
    assert_eq!(followed.len(), 3);
    // Each envelope but the first is signed by the key before and the new one.
    let chain = parse_trust_envelope_chain(chain.as_bytes()).unwrap();
    for (envelope, expected) in chain
        .iter()
        .zip([&["one"][..], &["one", "two"], &["two", "three"]])
    {
        let kids: Vec<_> = envelope
            .signatures
            .iter()
            .map(|it| &it.signer_kid)
            .collect();
        assert_eq!(kids, expected);
    }
}

#[test]
fn a_revoked_key_counts_for_nothing_and_signs_nothing() {
    let place = Place::new();
    ok(&keys(&place, &["generate", "--kid", "lost"]));
    ok(&run(&place, &[]));
    snapshot!(
        "keys-revoke-current",
        place,
        &keys(&place, &["revoke", "lost", "--reason", "stolen"])
    );
    ok(&keys(&place, &["rotate", "--kid", "next"]));
    ok(&keys(&place, &["revoke", "lost", "--reason", "stolen"]));
    let published = keyset(&place);
    assert!(matches!(
        published.get("lost").unwrap().judge(Timestamp::UNIX_EPOCH),
        Err(KeyFault::Revoked(_))
    ));
    assert!(
        signers(&place.events(), &published)
            .unwrap_err()
            .starts_with("lost: it was revoked")
    );
    let refused = run(&place, &["--signing-key", "lost"]);
    assert_eq!(refused.status.code(), Some(125));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains(r#"key "lost" cannot sign now: it was revoked at"#),
        "{text}"
    );
    assert!(text.contains("(stolen)"), "{text}");
    let again = keys(&place, &["revoke", "lost", "--reason", "again"]);
    assert_eq!(again.status.code(), Some(125));
    assert!(!ok(&keys(&place, &["show", "--keyring"])).contains("lost"));
}

#[test]
fn an_expired_key_signs_nothing() {
    let place = Place::new();
    ok(&keys(&place, &["generate", "--kid", "old"]));
    ok(&keys(
        &place,
        &["rotate", "--kid", "new", "--overlap", "0s"],
    ));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let refused = run(&place, &["--signing-key", "old"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains(r#"key "old" cannot sign now: it was valid until"#),
        "{text}"
    );
    assert!(!place.events().exists());
    ok(&run(&place, &[]));
    assert_eq!(signers(&place.events(), &keyset(&place)).unwrap(), ["new"]);
}

#[test]
fn refusals_to_sign_are_explained_and_leave_nothing() {
    let place = Place::new();
    snapshot!("keys-required", place, &run(&place, &["--require-signing"]));
    snapshot!("keys-nothing-to-show", place, &keys(&place, &["show"]));
    snapshot!("keys-nothing-to-rotate", place, &keys(&place, &["rotate"]));
    snapshot!(
        "keys-bad-name",
        place,
        &keys(&place, &["generate", "--kid", "../x"])
    );
    ok(&keys(&place, &["generate", "--kid", "k"]));
    let folder = place.path().join("keys");
    snapshot!(
        "keys-unknown",
        place,
        &run(&place, &["--signing-key", "other"])
    );
    let key = folder.join("k.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    snapshot!("keys-readable", place, &run(&place, &[]));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = String::from_utf8(run(&place, &[]).stderr).unwrap();
    assert!(
        open.contains("others can write to the key folder"),
        "{open}"
    );
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    // A key that stands under the name of another one.
    let other = Place::new();
    ok(&keys(&other, &["generate", "--kid", "k"]));
    std::fs::copy(other.path().join("keys/k.key"), &key).unwrap();
    snapshot!("keys-other-key", place, &run(&place, &[]));
    assert!(!place.events().exists());
    let state = place.path().join("state");
    assert!(!state.join("log").exists() && !state.join("runs").exists());
}

#[test]
fn the_variables_say_the_same_as_the_flags() {
    let place = Place::new();
    ok(&keys(&place, &["generate", "--kid", "k"]));
    let elsewhere = Place::new();
    let key = place.path().join("keys/k.key");
    let log = elsewhere.events();
    let arguments = [
        "run",
        "--quiet",
        "--backend",
        "stub",
        "--events",
        log.to_str().unwrap(),
        "--",
        "true",
    ];
    let with = |name: &str, value: &Path| {
        elsewhere
            .cellos(&arguments)
            .env(name, value)
            .output()
            .unwrap()
    };
    for (name, value, code) in [
        ("CELLOS_REQUIRE_SIGNING", Path::new("1"), 125),
        ("CELLOS_REQUIRE_SIGNING", Path::new("maybe"), 125),
        ("CELLOS_SIGNING_KEY", Path::new("k"), 125),
    ] {
        assert_eq!(with(name, value).status.code(), Some(code), "{name}");
        assert!(!log.exists());
    }
    ok(&with("CELLOS_SIGNING_KEY", &key));
    assert_eq!(signers(&log, &keyset(&place)).unwrap(), ["k"]);
}

#[test]
fn unsigned_is_unsigned_only_when_asked_for() {
    let place = Place::new();
    ok(&keys(&place, &["generate"]));
    ok(&run(&place, &["--no-signing"]));
    let text = std::fs::read_to_string(place.events()).unwrap();
    assert!(!text.contains("\"sig\""), "{text}");
    let both = place
        .cellos(&["run", "--no-signing", "--backend", "stub", "--", "true"])
        .env("CELLOS_REQUIRE_SIGNING", "yes")
        .output()
        .unwrap();
    snapshot!("keys-required-and-forbidden", place, &both);
}

#[test]
fn a_cell_never_sees_the_keys() {
    require!("userns");
    let place = Place::new();
    ok(&keys(&place, &["generate"]));
    let keys = place.path().join("keys");
    for source in [place.path(), &keys] {
        let mount = format!("{}:/work:ro", source.display());
        let refused = place
            .cellos(&["run", "--mount", &mount, "--", "true"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(126));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(
            text.contains("would show the cell the signing keys"),
            "{text}"
        );
    }
}

#[test]
fn concurrent_rotations_follow_each_other() {
    const ROTATIONS: usize = 8;
    let place = Place::new();
    ok(&keys(&place, &["generate"]));
    let children: Vec<_> = (0..ROTATIONS)
        .map(|_| {
            place
                .cellos(&["keys", "rotate"])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        ok(&child.wait_with_output().unwrap());
    }
    let published = keyset(&place);
    assert_eq!(published.published().unwrap().envelopes, ROTATIONS + 1);
    assert_eq!(published.len(), ROTATIONS + 1);
    ok(&run(&place, &["--require-signing"]));
}

#[test]
fn a_key_of_openssl_signs() {
    // The private key of RFC 8410, 10.3, as openssl genpkey writes it.
    let place = Place::new();
    let key = place.file(
        "foreign.key",
        "-----BEGIN PRIVATE KEY-----\n\
         MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
         -----END PRIVATE KEY-----\n",
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    ok(&run(&place, &["--signing-key", "./foreign.key"]));
    let ring = br#"{"foreign":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}"#;
    let keyset = Keyset::parse(ring, &Trust::SelfContained, Timestamp::now()).unwrap();
    assert_eq!(signers(&place.events(), &keyset).unwrap(), ["foreign"]);
}
