//! What is in a bundle, and how it comes into its place.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use cellos_core::{
    signing::{RevokedKids, SoftwareSigner, TrustVerifyKeys},
    vm_manifest::{ManifestTrust, Role, SignatureError, Unsigned},
};
use cellos_vm_image::{
    BASE_FILE, BaseSource, BundleSpec, Existing, INITRD_FILE, ImageError, KERNEL_FILE,
    MANIFEST_FILE, PinnedProgram, SIGNATURE_FILE, build_bundle, open_bundle,
};
use tempfile::TempDir;

use crate::support::{Sources, elf, kernel, keys_of};

struct Workshop {
    folder: TempDir,
    sources: Sources,
    base: BaseSource,
    signer: SoftwareSigner,
}

impl Workshop {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let sources = Sources::new(folder.path());
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/b"), "bbb").unwrap();
        fs::write(root.join("usr/bin/a"), "a".repeat(300_000)).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        Self {
            base: BaseSource::Directory(root),
            signer: SoftwareSigner::from_seed("builder", [7; 32]),
            folder,
            sources,
        }
    }

    fn spec(&self) -> BundleSpec<'_> {
        BundleSpec {
            signer: Some(&self.signer),
            ..self.sources.spec(&self.base)
        }
    }

    fn place(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, name: &str) -> std::path::PathBuf {
        let place = self.place(name);
        build_bundle(&self.spec(), &place, &mut |_| ()).unwrap();
        place
    }

    fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn open(
    bundle: &Path,
    keys: &TrustVerifyKeys,
    unsigned: Unsigned,
) -> Result<Option<String>, ImageError> {
    let trust = ManifestTrust {
        keys,
        revoked: &RevokedKids::default(),
        unsigned,
    };
    open_bundle(bundle, &trust).map(|opened| opened.signer_kid)
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let one = Workshop::new();
    let first = one.build("first");
    // Other times, another order of creation and another folder.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let other = Workshop::new();
    let root = other.place("root");
    let content = fs::read(root.join("usr/bin/a")).unwrap();
    fs::remove_file(root.join("usr/bin/a")).unwrap();
    fs::write(root.join("usr/bin/a"), content).unwrap();
    let second = other.build("second");
    for name in [
        KERNEL_FILE,
        INITRD_FILE,
        BASE_FILE,
        MANIFEST_FILE,
        SIGNATURE_FILE,
    ] {
        assert!(
            fs::read(first.join(name)).unwrap() == fs::read(second.join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(names(&first).len(), 5);
}

#[test]
fn a_bundle_holds_the_kernel_the_guest_and_a_manifest_that_is_believed() {
    let workshop = Workshop::new();
    let bundle = workshop.build("bundle");
    assert_eq!(fs::read(bundle.join(KERNEL_FILE)).unwrap(), kernel());
    let initrd = fs::read(bundle.join(INITRD_FILE)).unwrap();
    let guest = elf(b"guest program");
    assert!(initrd.windows(guest.len()).any(|part| part == guest));
    assert_eq!(
        open(&bundle, &keys_of(&workshop.signer), Unsigned::Refuse)
            .unwrap()
            .as_deref(),
        Some("builder")
    );
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_changed_file_is_found() {
    let workshop = Workshop::new();
    for (name, role) in [
        (KERNEL_FILE, Role::Kernel),
        (INITRD_FILE, Role::Initrd),
        (BASE_FILE, Role::Rootfs),
    ] {
        let bundle = workshop.build(name);
        let mut content = fs::read(bundle.join(name)).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(bundle.join(name), content).unwrap();
        // Also where nobody has to vouch for the manifest.
        for unsigned in [Unsigned::Refuse, Unsigned::Allow] {
            let error = open(&bundle, &keys_of(&workshop.signer), unsigned).unwrap_err();
            assert!(
                matches!(error, ImageError::DigestMismatch { role: found, .. } if found == role),
                "{error}"
            );
        }
    }
}

#[test]
fn an_unsigned_bundle_is_opened_only_where_that_is_allowed() {
    let workshop = Workshop::new();
    let place = workshop.place("bundle");
    let spec = workshop.sources.spec(&workshop.base);
    let report = build_bundle(&spec, &place, &mut |_| ()).unwrap();
    assert_eq!(report.signer_kid, None);
    assert!(!place.join(SIGNATURE_FILE).exists());
    let keys = keys_of(&workshop.signer);
    assert!(matches!(
        open(&place, &keys, Unsigned::Refuse),
        Err(ImageError::Signature(SignatureError::Unsigned))
    ));
    assert_eq!(open(&place, &keys, Unsigned::Allow).unwrap(), None);
}

#[test]
fn a_manifest_with_a_line_more_is_not_believed() {
    let workshop = Workshop::new();
    let bundle = workshop.build("bundle");
    let mut manifest = fs::read_to_string(bundle.join(MANIFEST_FILE)).unwrap();
    manifest.push_str("# harmless\n");
    fs::write(bundle.join(MANIFEST_FILE), manifest).unwrap();
    assert!(matches!(
        open(&bundle, &keys_of(&workshop.signer), Unsigned::Allow),
        Err(ImageError::Signature(SignatureError::Mismatch { .. }))
    ));
}

#[test]
fn programs_of_the_host_are_pinned() {
    let workshop = Workshop::new();
    let program = workshop.place("firecracker");
    fs::write(&program, "program").unwrap();
    let programs = [PinnedProgram {
        role: Role::Firecracker,
        path: program.clone(),
    }];
    let spec = BundleSpec {
        programs: &programs,
        ..workshop.spec()
    };
    let bundle = workshop.place("bundle");
    build_bundle(&spec, &bundle, &mut |_| ()).unwrap();
    let keys = keys_of(&workshop.signer);
    open(&bundle, &keys, Unsigned::Refuse).unwrap();
    fs::write(&program, "another program").unwrap();
    assert!(matches!(
        open(&bundle, &keys, Unsigned::Refuse),
        Err(ImageError::DigestMismatch {
            role: Role::Firecracker,
            ..
        })
    ));
}

#[test]
fn only_absolute_paths_of_programs_are_pinned() {
    let workshop = Workshop::new();
    for (role, path) in [(Role::Qemu, "bin/qemu"), (Role::Kernel, "/boot/vmlinux")] {
        let programs = [PinnedProgram {
            role,
            path: path.into(),
        }];
        let spec = BundleSpec {
            programs: &programs,
            ..workshop.spec()
        };
        let error = build_bundle(&spec, &workshop.place("bundle"), &mut |_| ()).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::PinnedPath { .. } | ImageError::PinnedRole { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_stands_in_the_place_is_kept_unless_it_is_a_bundle_to_replace() {
    let workshop = Workshop::new();
    let bundle = workshop.build("bundle");
    assert!(matches!(
        build_bundle(&workshop.spec(), &bundle, &mut |_| ()),
        Err(ImageError::TargetExists { .. })
    ));
    fs::write(bundle.join("old"), "").unwrap();
    let replace = BundleSpec {
        existing: Existing::Replace,
        ..workshop.spec()
    };
    build_bundle(&replace, &bundle, &mut |_| ()).unwrap();
    assert!(!bundle.join("old").exists());

    let home = workshop.place("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "").unwrap();
    let link = workshop.place("link");
    symlink(&bundle, &link).unwrap();
    for place in [&home, &link] {
        assert!(matches!(
            build_bundle(&replace, place, &mut |_| ()),
            Err(ImageError::NotABundle { .. })
        ));
    }
    assert!(home.join("letter").exists());
    // What does not exist yet needs nothing to replace.
    build_bundle(&replace, &workshop.place("fresh"), &mut |_| ()).unwrap();
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let workshop = Workshop::new();
    let before = workshop.names();
    let nowhere = BaseSource::Directory(workshop.place("nowhere"));
    let spec = BundleSpec {
        base: &nowhere,
        ..workshop.spec()
    };
    build_bundle(&spec, &workshop.place("bundle"), &mut |_| ()).unwrap_err();
    fs::write(&workshop.sources.guest, "#!/bin/sh\n").unwrap();
    let error = build_bundle(&workshop.spec(), &workshop.place("bundle"), &mut |_| ()).unwrap_err();
    assert!(matches!(error, ImageError::GuestBinary { .. }), "{error}");
    assert_eq!(workshop.names(), before);
}

#[test]
fn a_bundle_is_never_seen_half_made() {
    let workshop = Workshop::new();
    let place = workshop.place("bundle");
    let mut seen = false;
    build_bundle(&workshop.spec(), &place, &mut |_| seen |= place.exists()).unwrap();
    assert!(!seen);
    assert!(place.join(MANIFEST_FILE).exists());
}
