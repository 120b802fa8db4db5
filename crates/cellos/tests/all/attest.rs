//! `cellos attest` and `cellos run --attest`, shown to verifiers that others have published.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cellos_core::{
    CloudEventV1,
    signing::{Signer as _, SoftwareSigner},
};
use cellos_evidence::{
    line::LineHash,
    log::{EventLog, LogConfig},
};
use cellos_testkit::{python_bin, require};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::program::{Place, source_file};

/// Thirty-two times 7, the seed of the published examples.
const SEED: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

/// A place with a signing key and the keyring that verifies it.
struct Signing {
    place: Place,
    kid: String,
    public_hex: String,
}

impl Signing {
    fn new() -> Self {
        let place = Place::new();
        let public = *SoftwareSigner::from_base64url_seed("k", SEED)
            .unwrap()
            .verifying_key()
            .as_bytes();
        let path = place.file("k1.key", SEED);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        // A key is named after its file.
        let kid = "k1".to_owned();
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(public);
        place.file("keys.json", json!({ &kid: text }).to_string());
        Self {
            place,
            kid,
            public_hex: hex(&public),
        }
    }

    /// A run of the stub backend whose events are in the place.
    fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        let head = ["run", "--backend", "stub", "--events", "events.jsonl", "-q"];
        let folder = self.place.path().to_str().unwrap();
        let arguments = [&head, flags, &["--workdir", folder, "--"], command].concat();
        self.place.cellos(&arguments).output().unwrap()
    }

    fn attest(&self, arguments: &[&str]) -> Output {
        let head = [
            "attest",
            "--log",
            "events.jsonl",
            "--signing-key",
            "./k1.key",
        ];
        self.place
            .cellos(&[&head, arguments].concat())
            .output()
            .unwrap()
    }

    fn check(&self, arguments: &[&str]) -> Output {
        let head = ["attest", "--keys", "keys.json", "--check"];
        self.place
            .cellos(&[&head, arguments].concat())
            .output()
            .unwrap()
    }

    /// What the public verifiers say of a file.
    fn publicly(&self, file: &str) -> Output {
        Command::new(python_bin().join("python3"))
            .arg(source_file("tests/python/verify_attestations.py"))
            .arg(self.place.path().join(file))
            .args([&self.kid, &self.public_hex])
            .output()
            .unwrap()
    }

    /// The statements of a file that the public verifiers accept.
    #[track_caller]
    fn accepted(&self, file: &str) -> Vec<Value> {
        let output = self.publicly(file);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn failed(output: &Output, code: i32, reason: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(reason), "{said}");
}

/// A log of one run that exported an artifact of this content.
fn log_with_artifact(path: &Path, content: &[u8]) {
    let event = |kind: &str, mut data: Value| -> CloudEventV1 {
        data["runId"] = "r1".into();
        data["cellId"] = "c1".into();
        serde_json::from_value(json!({
            "specversion": "1.0", "id": kind, "source": "cellos-supervisor",
            "type": format!("dev.cellos.events.cell.{kind}"),
            "time": "2026-01-02T03:04:05.123456Z", "data": data,
        }))
        .unwrap()
    };
    let signer = SoftwareSigner::from_base64url_seed("k1", SEED).unwrap();
    let log = EventLog::open(LogConfig {
        signer: Some(std::sync::Arc::new(signer)),
        ..LogConfig::new(path)
    })
    .unwrap();
    log.append(&[
        event(
            "lifecycle.v1.started",
            json!({"specHash": hex(&Sha256::digest("document")), "backend": "microvm",
                   "kernelDigestSha256": hex(&Sha256::digest("kernel"))}),
        ),
        event(
            "observability.v1.fs_touch",
            json!({"artifactName": "app.tar", "sourcePath": "/work/app.tar"}),
        ),
        event(
            "export.v2.completed",
            json!({"artifactName": "app.tar", "sha256": hex(&Sha256::digest(content))}),
        ),
        event("lifecycle.v1.destroyed", json!({"outcome": "succeeded"})),
    ])
    .unwrap();
}

#[test]
fn a_public_verifier_accepts_what_a_run_attests_of_itself() {
    require!("python-packages");
    let signing = Signing::new();
    let flags = ["--attest", "out.intoto.jsonl", "--signing-key", "./k1.key"];
    // An earlier run in the same log is none of its business.
    succeeded(&signing.run(&flags[2..], &["true"]));
    let output = signing.run(
        &[&flags[..], &["--run-id", "r1"]].concat(),
        &["sh", "-c", "exit 7"],
    );
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let statements = signing.accepted("out.intoto.jsonl");
    let [provenance, trace] = statements.as_slice() else {
        panic!("{statements:?}")
    };
    assert_eq!(
        provenance["predicateType"],
        "https://slsa.dev/provenance/v1"
    );
    assert_eq!(
        trace["predicateType"],
        "https://in-toto.io/attestation/runtime-trace/v0.1"
    );
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(
        definition["externalParameters"]["document"]["spec"]["run"]["argv"],
        json!(["sh", "-c", "exit 7"])
    );
    assert_eq!(definition["internalParameters"]["exitCode"], 7);
    assert_eq!(
        provenance["predicate"]["runDetails"]["metadata"]["invocationId"],
        "r1"
    );
    assert_eq!(trace["predicate"]["monitoredProcess"]["event"], "r1");
    // The subject is the last line of the log, as `sha256sum` has it.
    let log = std::fs::read(signing.place.events()).unwrap();
    let last = log
        .trim_ascii_end()
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap();
    for statement in &statements {
        assert_eq!(
            statement["subject"],
            json!([{"name": "run:r1", "digest": {
                "sha256": hex(&Sha256::digest(last)),
                "cellosLogLine": LineHash::of_line(last).to_hex(),
            }}])
        );
    }
    succeeded(&signing.check(&["out.intoto.jsonl"]));
}

#[test]
fn a_run_is_attested_from_its_log_with_the_document_that_ran() {
    require!("python-packages");
    let signing = Signing::new();
    let folder = signing.place.path().to_str().unwrap();
    let document = format!(
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: a\n  authority: {{}}\n  \
         lifetime: {{ttlSeconds: 10}}\n  run: {{argv: ['true'], workingDirectory: {folder:?}}}\n",
    );
    signing.place.file("cell.yaml", &document);
    signing
        .place
        .file("other.yaml", document.replace("10", "11"));
    let run = [
        "run",
        "--backend",
        "stub",
        "--events",
        "events.jsonl",
        "--run-id",
        "r1",
        "--signing-key",
        "./k1.key",
    ];
    let output = signing
        .place
        .cellos(&[&run[..], &["cell.yaml"]].concat())
        .output();
    succeeded(&output.unwrap());

    // The whole document, where it is given; its digest, where it is not.
    succeeded(&signing.attest(&["r1", "--document", "cell.yaml", "-o", "whole"]));
    let parameters = |file: &str| {
        let statement = signing.accepted(file).swap_remove(0);
        statement["predicate"]["buildDefinition"]["externalParameters"].clone()
    };
    let digest = hex(&Sha256::digest(&document));
    assert_eq!(parameters("whole")["documentSha256"], digest.as_str());
    assert_eq!(
        parameters("whole")["document"]["spec"]["lifetime"],
        json!({"ttlSeconds": 10})
    );
    succeeded(&signing.attest(&["r1", "-o", "digest", "--predicate", "provenance"]));
    assert_eq!(parameters("digest")["documentSha256"], digest.as_str());
    assert_eq!(parameters("digest").get("document"), None);
    assert_eq!(signing.accepted("digest").len(), 1);
    failed(
        &signing.attest(&["r1", "--document", "other.yaml"]),
        125,
        "this is not the document of the run",
    );

    // Whose host it was.
    let named = ["r1", "--builder-id", "https://example.com/b", "-o", "named"];
    succeeded(&signing.attest(&named));
    let builder = |file: &str| {
        let statement = signing.accepted(file).swap_remove(0);
        statement["predicate"]["runDetails"]["builder"]["id"].clone()
    };
    assert_eq!(builder("named"), "https://example.com/b");
    assert!(
        builder("whole")
            .as_str()
            .unwrap()
            .ends_with("#builder-stub")
    );
}

#[test]
fn an_artifact_is_a_subject_and_another_file_is_not() {
    require!("python-packages");
    let signing = Signing::new();
    log_with_artifact(&signing.place.events(), b"the content");
    signing.place.file("app.tar", "the content");
    signing.place.file("other.tar", "other content");
    succeeded(&signing.attest(&["r1", "-o", "out"]));
    for statement in signing.accepted("out") {
        assert_eq!(
            statement["subject"],
            json!([{"name": "app.tar", "digest": {"sha256": hex(&Sha256::digest("the content"))}}])
        );
    }
    let said = succeeded(&signing.check(&["out", "--artifact", "app.tar"]));
    assert!(said.contains("app.tar: attested by line 1, 2"), "{said}");
    failed(
        &signing.check(&["out", "--artifact", "app.tar", "--artifact", "other.tar"]),
        125,
        "other.tar: no attestation is about it",
    );
    let json = succeeded(&signing.check(&["out", "--json", "--artifact", "app.tar"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["format"], "cellos.attest-check/1");
    assert_eq!(json["artifacts"][0]["lines"], json!([1, 2]));
    assert_eq!(json["attestations"][1]["kids"], json!([signing.kid]));
}

#[test]
fn what_was_changed_is_refused_by_public_verifiers_and_by_ours() {
    require!("python-packages");
    let signing = Signing::new();
    log_with_artifact(&signing.place.events(), b"x");
    let line = succeeded(&signing.attest(&["r1", "--predicate", "provenance"]));
    let envelope: Value = serde_json::from_str(&line).unwrap();
    let payload = STANDARD
        .decode(envelope["payload"].as_str().unwrap())
        .unwrap();
    let payload = String::from_utf8(payload).unwrap();

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut envelope = envelope.clone();
        change(&mut envelope);
        envelope.to_string() + "\n"
    };
    let set_payload = |envelope: &mut Value, text: &str| {
        envelope["payload"] = STANDARD.encode(text).into();
    };
    signing.place.file("good", &line);
    assert_eq!(signing.accepted("good").len(), 1);
    succeeded(&signing.check(&["good"]));
    for (name, text, reason) in [
        (
            "succeeded",
            changed(&|it| set_payload(it, &payload.replace("succeeded", "failed"))),
            "does not verify",
        ),
        (
            "a space",
            changed(&|it| set_payload(it, &format!("{payload} "))),
            "does not verify",
        ),
        (
            "the type",
            changed(&|it| it["payloadType"] = "application/vnd.in-toto.x+json".into()),
            "payload type",
        ),
        (
            "the key id",
            changed(&|it| it["signatures"][0]["keyid"] = "k2".into()),
            "the keyset has no such key",
        ),
        (
            "no signature",
            changed(&|it| it["signatures"] = json!([])),
            "0 signatures",
        ),
        (
            "another signature",
            changed(&|it| it["signatures"][0]["sig"] = STANDARD.encode([1; 64]).into()),
            "does not verify",
        ),
    ] {
        signing.place.file("bad", &text);
        let output = signing.publicly("bad");
        assert!(!output.status.success(), "{name}: {output:?}");
        failed(&signing.check(&["bad"]), 125, reason);
    }
    signing.place.file("none", "");
    failed(&signing.check(&["none"]), 125, "no attestation");
}

#[test]
fn a_run_whose_part_of_the_log_is_not_in_order_is_not_attested() {
    let signing = Signing::new();
    succeeded(&signing.run(&["--run-id", "r1"], &["true"]));
    failed(
        &signing.attest(&["r2"]),
        125,
        "no run of events.jsonl is called \"r2\"",
    );
    let events = signing.path("events.jsonl");
    let text = std::fs::read_to_string(&events).unwrap();
    std::fs::write(
        &events,
        text.replacen("\"ttlSeconds\":600", "\"ttlSeconds\":601", 1),
    )
    .unwrap();
    failed(&signing.attest(&["r1"]), 125, "chain_broken");
    let output = signing.attest(&["r1", "--allow-findings"]);
    succeeded(&output);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("chain_broken"), "{stderr}");
    // Without its end it is not over.
    let cut: Vec<_> = text.lines().collect();
    let cut = cut[..cut.len() - 1].join("\n") + "\n";
    std::fs::write(&events, cut).unwrap();
    failed(&signing.attest(&["r1"]), 125, "has no end");
}

#[test]
fn a_run_that_anybody_could_have_written_is_not_attested() {
    let signing = Signing::new();
    succeeded(&signing.run(&["--run-id", "r1"], &["true"]));
    failed(&signing.attest(&["r1"]), 125, "unsigned");
    let output = signing.attest(&["r1", "--allow-findings"]);
    succeeded(&output);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("unsigned"), "{stderr}");
    // The log of another host, whose key is given, is as good as one's own.
    let other = Signing::new();
    log_with_artifact(&other.path("events.jsonl"), b"content");
    other.place.file("other.json", json!({}).to_string());
    failed(
        &other.attest(&["r1", "--keys", "other.json"]),
        125,
        "unknown_key",
    );
    succeeded(&other.attest(&["r1", "--keys", "keys.json"]));
}

#[test]
fn nothing_is_attested_without_a_key_that_only_its_owner_can_read() {
    let signing = Signing::new();
    let output = signing.place.cellos(&["attest", "r1"]).output().unwrap();
    failed(&output, 125, "there is no key");
    let output = signing.run(&["--attest", "out"], &["touch", "ran"]);
    failed(&output, 125, "there is no key");
    let key = signing.path("k1.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let flags = ["--attest", "out", "--signing-key", "./k1.key"];
    failed(&signing.run(&flags, &["touch", "ran"]), 125, "k1.key");
    assert!(!signing.path("ran").exists());
}

#[test]
fn what_is_blanked_in_the_events_is_not_in_the_attestation() {
    let signing = Signing::new();
    let flags = [
        "--attest",
        "out",
        "--signing-key",
        "./k1.key",
        "--redact",
        "argv",
    ];
    succeeded(&signing.run(&flags, &["sh", "-c", "true hunter2"]));
    let text = std::fs::read_to_string(signing.path("out")).unwrap();
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        let envelope: Value = serde_json::from_str(line).unwrap();
        let payload = STANDARD
            .decode(envelope["payload"].as_str().unwrap())
            .unwrap();
        assert!(!String::from_utf8(payload).unwrap().contains("hunter2"));
    }
    succeeded(&signing.check(&["out"]));
}
