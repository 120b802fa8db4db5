//! `cellos-supervisor` as an existing deployment calls it.

use crate::program::{Place, snapshot, source_file, with_input};

fn document(place: &Place, script: &str, more: &str) -> String {
    let folder = place.path();
    format!(
        r#"{{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{{"id":"cell-1",
        "run":{{"argv":["/bin/sh","-c",{script:?}],"workingDirectory":{folder:?},"secretDelivery":"env"}},
        "authority":{{}},"lifetime":{{"ttlSeconds":20}}{more}}}}}"#
    )
}

#[test]
fn success_is_0_and_everything_else_is_1() {
    let place = Place::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 1), ("kill -9 $$", 1)] {
        place.file("cell.json", document(&place, script, ""));
        let output = place.supervisor(&["cell.json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
    assert_eq!(
        place.event_types().last().unwrap(),
        "cell.lifecycle.v1.destroyed"
    );
}

#[test]
fn the_document_may_come_from_standard_input() {
    let place = Place::new();
    let output = with_input(
        &mut place.supervisor(&["-"]),
        document(&place, "echo from stdin", "").as_bytes(),
    );
    assert_eq!(output.stdout, b"from stdin\n", "{output:?}");
}

#[test]
fn a_linked_document_is_refused() {
    let place = Place::new();
    place.file("cell.json", document(&place, "true", ""));
    std::os::unix::fs::symlink("cell.json", place.path().join("link.json")).unwrap();
    let output = place.supervisor(&["link.json"]).output().unwrap();
    snapshot!("supervisor-symlink", place, &output);
}

#[test]
fn validate_prints_the_summary_and_runs_nothing() {
    let place = Place::new();
    place.file("cell.json", r#"{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{"id":"cell-1","run":{"argv":["touch","ran"]},"authority":{},"lifetime":{"ttlSeconds":20}}}"#);
    let output = place
        .supervisor(&["--validate", "cell.json"])
        .output()
        .unwrap();
    snapshot!("supervisor-validate", place, &output);
    assert!(!place.path().join("ran").exists());
}

#[test]
fn unknown_fields_are_ignored_with_a_warning() {
    let place = Place::new();
    place.file(
        "cell.json",
        document(&place, "true", r#","annotations":{}"#),
    );
    let output = place.supervisor(&["cell.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("warning: spec.annotations"), "{stderr}");
}

#[test]
fn a_demanded_derivation_token_is_demanded_at_validation_too() {
    let place = Place::new();
    let networked = document(&place, "true", "").replace(
        r#""authority":{}"#,
        r#""authority":{"egressRules":[{"host":"example.com","port":443}]}"#,
    );
    place.file("cell.json", networked);
    let output = place
        .supervisor(&["--validate", "cell.json"])
        .env("CELLOS_REQUIRE_AUTHORITY_DERIVATION", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("authorityDerivation")
    );
}

#[test]
fn a_policy_pack_rejects_with_an_event() {
    let place = Place::new();
    place.file("cell.json", document(&place, "touch ran", ""));
    place.file(
        "pack.json",
        r#"{"apiVersion":"cellos.io/v1","kind":"PolicyPack","spec":{"id":"p","version":"1.0.0","rules":{"maxLifetimeTtlSeconds":5}}}"#,
    );
    let output = place
        .supervisor(&["cell.json"])
        .env("CELLOS_POLICY_PACK_PATH", "pack.json")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.event_types(), ["cell.policy.v1.rejected"]);
    assert!(!place.path().join("ran").exists());
}

#[test]
fn an_authorization_policy_rejects_with_an_event() {
    let place = Place::new();
    place.file(
        "cell.json",
        document(&place, "touch ran", r#","correlation":{"tenantId":"evil"}"#),
    );
    place.file(
        "authz.json",
        r#"{"apiVersion":"cellos.io/v1","kind":"AuthorizationPolicy","spec":{"subjects":["acme"]}}"#,
    );
    let output = place
        .supervisor(&["cell.json"])
        .env("CELLOS_AUTHZ_POLICY_PATH", "authz.json")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(place.event_types(), ["cell.authz.v1.rejected"]);
}

#[test]
fn the_cap_on_run_time_is_named_as_the_reason() {
    let place = Place::new();
    place.file("cell.json", document(&place, "exec sleep 30", ""));
    let output = place
        .supervisor(&["cell.json"])
        .env("CELLOS_RUN_TIMEOUT_MS", "100")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = std::fs::read_to_string(place.events()).unwrap();
    assert!(log.contains("(CELLOS_RUN_TIMEOUT_MS)"), "{log}");
}

#[test]
fn a_program_outside_the_allowed_folders_is_refused() {
    let place = Place::new();
    place.file("cell.json", document(&place, "true", ""));
    for (prefixes, code) in [("/bin", 0), ("/usr/bin", 1), ("/opt,/bin", 0)] {
        let output = place
            .supervisor(&["cell.json"])
            .env("CELLOS_RUN_ARGV0_ALLOW_PREFIXES", prefixes)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{prefixes}: {output:?}");
    }
}

#[test]
fn signed_events_verify() {
    let place = Place::new();
    place.file("cell.json", document(&place, "true", ""));
    let output = place
        .supervisor(&["cell.json"])
        .env("CELLOS_EVENT_SIGNING", "ed25519")
        .env("CELLOS_EVENT_SIGNING_KID", "k1")
        .env(
            "CELLOS_EVENT_SIGNING_KEY_BASE64",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let keys = cellos_core::signing::EventVerifyKeys {
        ed25519: cellos_core::signing::TrustVerifyKeys::parse(
            br#"{"k1":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"}"#,
        )
        .unwrap(),
        hmac: cellos_core::signing::HmacVerifyKeys::default(),
    };
    let log = std::fs::read_to_string(place.events()).unwrap();
    for line in log.lines() {
        let envelope = cellos_core::signing::parse_signed_event_line(line.as_bytes()).unwrap();
        let revoked = cellos_core::signing::RevokedKids::default();
        cellos_core::signing::verify_signed_event(&envelope, &keys, &revoked).unwrap();
    }
    assert!(log.lines().count() > 3);
}

#[test]
fn configurations_that_would_silently_guard_nothing_are_refused() {
    let place = Place::new();
    place.file("cell.json", document(&place, "touch ran", ""));
    for (name, variable, value) in [
        ("hardened", "CELLOS_DEPLOYMENT_PROFILE", "hardened"),
        ("unknown-variable", "CELLOS_RUN_TIMOUT_MS", "5"),
        ("unknown-backend", "CELLOS_CELL_BACKEND", "gvisor"),
        (
            "not-a-switch",
            "CELLOS_REQUIRE_AUTHORITY_DERIVATION",
            "maybe",
        ),
        ("custom-filter", "CELLOS_SECCOMP_BPF_PATH", "/etc/filter"),
        ("missing-pack", "CELLOS_POLICY_PACK_PATH", "missing.json"),
    ] {
        let output = place
            .supervisor(&["cell.json"])
            .env(variable, value)
            .output()
            .unwrap();
        snapshot!(format!("supervisor-refuses-{name}"), place, &output);
    }
    let nats = place
        .supervisor(&["cell.json"])
        .env("NATS_URL", "nats://127.0.0.1:4222")
        .env_remove("CELL_OS_USE_NOOP_SINK")
        .output()
        .unwrap();
    snapshot!("supervisor-refuses-nats", place, &nats);
    assert!(!place.path().join("ran").exists());
}

#[test]
fn wrong_calls_are_explained() {
    let place = Place::new();
    for (name, arguments) in [
        ("none", &[][..]),
        ("flag", &["--run"][..]),
        ("extra", &["a.json", "b.json"]),
        ("secret", &["secret", "get", "K"]),
    ] {
        let output = place.supervisor(arguments).output().unwrap();
        snapshot!(format!("supervisor-call-{name}"), place, &output);
    }
}

/// A file of the published examples.
fn published(name: &str) -> std::path::PathBuf {
    source_file("../cellos-core/tests/vectors-authority").join(name)
}

#[test]
fn an_authority_beyond_the_ceiling_is_refused() {
    let place = Place::new();
    let networked = document(&place, "touch ran", "").replace(
        r#""authority":{}"#,
        r#""authority":{"egressRules":[{"host":"example.com","port":443}]}"#,
    );
    place.file("cell.json", networked);
    let output = place
        .supervisor(&["cell.json"])
        .env(
            "CELLOS_AUTHORITY_CEILING_PATH",
            published("ex7-signed-ceiling-envelope.json"),
        )
        .env(
            "CELLOS_TRUST_VERIFY_KEYS_PATH",
            published("trust-verify-keys.json"),
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("authority_exceeds_ceiling"), "{stderr}");
    assert!(!place.path().join("ran").exists());
}

#[test]
fn the_hardened_default_runs_isolated_within_its_ceiling() {
    cellos_testkit::require!("userns");
    let place = Place::new();
    place.file(
        "cell.json",
        r#"{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{"id":"cell-1","run":{"argv":["/bin/sh","-c","ls /home | wc -l"]},"authority":{},"lifetime":{"ttlSeconds":20}}}"#,
    );
    let run = |anchor: &str| {
        let anchor = place.file("anchor", anchor);
        place
            .supervisor(&["cell.json"])
            .env_remove("CELLOS_DEPLOYMENT_PROFILE")
            .env_remove("CELLOS_CELL_BACKEND")
            .env(
                "CELLOS_AUTHORITY_CEILING_PATH",
                published("ex7-signed-ceiling-envelope.json"),
            )
            .env(
                "CELLOS_TRUST_VERIFY_KEYS_PATH",
                published("trust-verify-keys.json"),
            )
            .env("CELLOS_AUTHORITY_CEILING_ANCHOR_PATH", anchor)
            .output()
            .unwrap()
    };
    let output = run("");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"0\n");
    let kept = std::fs::read_to_string(place.path().join("anchor")).unwrap();
    assert_eq!(kept.trim(), "3");
    let stale = run("4");
    assert_eq!(stale.status.code(), Some(1));
    let stderr = String::from_utf8(stale.stderr).unwrap();
    assert!(stderr.contains("ceiling_epoch_stale"), "{stderr}");
}
