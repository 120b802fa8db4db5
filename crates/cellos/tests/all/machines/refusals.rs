//! What is refused before a machine boots.

use std::{os::unix::fs::FileExt as _, path::PathBuf};

use cellos_testkit::require;

use super::{Machines, available, bundle};

/// A copy of the bundle that a test may spoil.
fn copy(machines: &Machines) -> PathBuf {
    let folder = machines.place.path().join("bundle");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(bundle().unwrap()).unwrap() {
        let source = entry.unwrap().path();
        std::fs::copy(&source, folder.join(source.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn a_changed_file_is_an_event_and_nothing_boots() {
    require!("machines", available());
    for (file, role) in [
        ("base", "rootfs"),
        ("kernel", "kernel"),
        ("initrd", "initrd"),
    ] {
        let machines = Machines::new();
        let folder = copy(&machines);
        let path = folder.join(file);
        let spoiled = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut byte = [0];
        spoiled.read_exact_at(&mut byte, 4097).unwrap();
        spoiled.write_all_at(&[byte[0] ^ 1], 4097).unwrap();
        let output = machines
            .shell(&[], "true")
            .env("CELLOS_VM_DIR", &folder)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("digest mismatch"), "{stderr}");
        let log = machines.log();
        let failed = log.data("manifest-failed");
        assert_eq!(failed["role"], role, "{failed}");
        assert_ne!(failed["expectedSha256"], failed["actualSha256"]);
        assert!(
            log.types().ends_with(&["cell.lifecycle.v1.failed"]),
            "{:?}",
            log.types()
        );
        log.none("started");
        machines.assert_nothing_left();
    }
}

#[test]
fn a_manifest_that_nobody_known_signed_is_refused() {
    require!("machines", available());
    let machines = Machines::new();
    let folder = copy(&machines);
    let strangers = machines.place.file("strangers.json", "{}");
    let unsigned = |command: &mut std::process::Command| {
        let output = command.env("CELLOS_VM_DIR", &folder).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = unsigned(
        machines
            .shell(&[], "true")
            .env("CELLOS_VM_TRUST_KEYS", &strangers),
    );
    assert!(said.contains("key"), "{said}");
    std::fs::remove_file(folder.join("manifest.sig")).unwrap();
    let said = unsigned(&mut machines.shell(&[], "true"));
    assert!(said.contains("unsigned"), "{said}");
    machines.assert_nothing_left();
}

#[test]
fn a_bundle_that_a_revoked_key_signed_is_refused_by_the_keys_name() {
    require!("machines", available());
    let machines = Machines::new();
    let signature = std::fs::read(bundle().unwrap().join("manifest.sig")).unwrap();
    let signature: serde_json::Value = serde_json::from_slice(&signature).unwrap();
    let kid = signature["signerKid"].as_str().unwrap();
    let list = |kid: &str| {
        serde_json::json!({
            "schemaVersion": "1.0.0",
            "revocationEpoch": 1,
            "revocations":
                [{"kid": kid, "revokedAt": "2026-01-01T00:00:00Z", "reason": "lost"}],
        })
        .to_string()
    };
    let revoked = machines.place.file("revoked.json", list(kid));
    let says_so = format!("{kid:?}, which is revoked");
    let output = machines
        .shell(&[], "true")
        .env("CELLOS_VM_REVOKED_KEYS", &revoked)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&says_so), "{said}");
    machines.log().none("started");
    machines.assert_nothing_left();

    let flags = ["vm", "verify", "--revoked", revoked.to_str().unwrap()];
    let by_variable = ["vm", "verify"];
    for arguments in [&flags[..], &by_variable] {
        let output = machines
            .cellos(arguments)
            .env("CELLOS_VM_REVOKED_KEYS", &revoked)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&says_so), "{said}");
        assert!(!output.status.success());
    }
    let another = machines.place.file("revoked.json", list("another"));
    let output = machines
        .cellos(&["vm", "verify", "--revoked", another.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn what_a_machine_cannot_give_is_refused_by_name() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines
        .run(&["--mount", ".:/host", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("spec.authority.filesystem.mounts"),
        "{stderr}"
    );
    assert!(stderr.contains("microvm"), "{stderr}");
    assert!(stderr.contains("linux"), "{stderr}");
}

#[test]
fn a_host_without_a_bundle_says_how_to_make_one() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines
        .shell(&[], "true")
        .env("CELLOS_VM_DIR", machines.place.path().join("nothing"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cellos vm prepare"), "{stderr}");
}

#[test]
fn a_run_folder_that_others_can_write_is_refused_before_anything_is_put_there() {
    use std::os::unix::fs::PermissionsExt as _;

    require!("machines", available());
    let machines = Machines::new();
    let run = machines.run_folder();
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let output = machines.shell(&[], "true").output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("others can write to it"), "{stderr}");
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
}
