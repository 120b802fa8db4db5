//! What machines boot, and what a host says of it.

use std::{path::Path, process::Command};

use cellos_testkit::require;

use super::{Machines, available, bundle, stdout};

#[test]
fn a_bundle_verifies_until_a_byte_of_it_changes() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines.cellos(&["vm", "verify"]).output().unwrap();
    let text = stdout(&output, 0);
    for role in ["kernel", "rootfs", "initrd", "signed by vm-"] {
        assert!(text.contains(role), "{role}: {text}");
    }

    let folder = machines.place.path().join("bundle");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(bundle().unwrap()).unwrap() {
        let source = entry.unwrap().path();
        std::fs::copy(&source, folder.join(source.file_name().unwrap())).unwrap();
    }
    let manifest = folder.join("manifest");
    let mut text = std::fs::read_to_string(&manifest).unwrap();
    text.push_str("# one more line\n");
    std::fs::write(&manifest, text).unwrap();
    let output = machines
        .cellos(&["vm", "verify", "--dir", folder.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("signature"), "{stderr}");
}

#[test]
fn doctor_boots_a_machine_and_says_what_executed_it() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines
        .cellos(&["doctor", "--machine", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let found = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        (check["state"].clone(), check["found"].as_str().unwrap())
    };
    let (state, text) = found("a machine");
    assert_eq!(state, "works", "{report}");
    let (_, kvm) = found("/dev/kvm");
    // An emulated machine is what a KVM that runs no guest leaves; nothing else may be claimed.
    let emulated = text.contains("emulated, since KVM runs no guest here");
    assert!(
        emulated || text.contains("by KVM, which runs guests here"),
        "{text}"
    );
    if kvm.contains("cannot run a guest") {
        assert!(emulated, "{kvm}; {text}");
    }
    machines.assert_nothing_left();
}

#[test]
fn machines_are_made_reproducibly_from_a_folder_of_ones_own_and_boot() {
    require!("machines", available());
    let machines = Machines::new();
    let path = |name: &str| {
        machines
            .place
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    std::fs::create_dir_all(path("root/usr/bin")).unwrap();
    let source = machines.place.file(
        "answer.c",
        "#include <stdio.h>\nint main(void) { puts(\"from an image of my own\"); return 42; }\n",
    );
    let compiled = Command::new("cc")
        .args(["-static", "-Os", "-s", "-o", &path("root/usr/bin/answer")])
        .arg(source)
        .status()
        .map_err(|error| error.to_string());
    require!("cc", compiled.as_ref().map(drop));
    unpack(&bundle().unwrap().join("initrd"), machines.place.path());

    let kernel = bundle().unwrap().join("kernel");
    let keys = path("state/vm-keys/trusted.json");
    for to in ["first", "second"] {
        let output = machines
            .cellos(&["vm", "build", "--root", &path("root")])
            .args(["--kernel", kernel.to_str().unwrap()])
            .args(["--modules", &path("modules"), "--guest", &path("init")])
            .args(["--dir", &path(to)])
            .env("CELLOS_VM_TRUST_KEYS", &keys)
            .output()
            .unwrap();
        stdout(&output, 0);
    }
    for file in ["kernel", "initrd", "base", "manifest"] {
        let bytes = |folder| std::fs::read(format!("{}/{file}", path(folder))).unwrap();
        assert!(
            bytes("first") == bytes("second"),
            "{file} is not reproducible"
        );
    }

    let output = machines
        .run(&["--ttl", "120s", "--", "answer"])
        .env("CELLOS_VM_DIR", path("first"))
        .env("CELLOS_VM_TRUST_KEYS", keys)
        .output()
        .unwrap();
    assert_eq!(stdout(&output, 42), "from an image of my own\n");
    machines.assert_nothing_left();
}

/// Takes the guest's program and the kernel's modules out of an initial RAM disk, cpio(5) newc:
/// `init` and `modules/NAME.ko` below `to`.
fn unpack(initrd: &Path, to: &Path) {
    std::fs::create_dir(to.join("modules")).unwrap();
    let archive = std::fs::read(initrd).unwrap();
    let mut at = 0;
    loop {
        let field = |index: usize| {
            let start = at + 6 + 8 * index;
            let text = std::str::from_utf8(&archive[start..start + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        assert_eq!(&archive[at..at + 6], b"070701");
        let (size, name_size) = (field(6), field(11));
        let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_size - 1]).unwrap();
        let data = (at + 110 + name_size).next_multiple_of(4);
        match name.trim_start_matches('/') {
            "TRAILER!!!" => return,
            name if name == "init" || name.ends_with(".ko") => {
                std::fs::write(to.join(name), &archive[data..data + size]).unwrap();
            }
            _ => {}
        }
        at = (data + size).next_multiple_of(4);
    }
}
