//! A base from a directory.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

use cellos_vm_image::{BaseError, BaseSource, ImageError, TreeError};
use tempfile::TempDir;

use crate::support::{bundle_of, image};

#[test]
fn a_directory_becomes_an_image_with_every_mount_point() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("usr/bin/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), Permissions::from_mode(0o6755)).unwrap();
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::set_permissions(root.join("etc/empty"), Permissions::from_mode(0o600)).unwrap();
    symlink("/nowhere/at/all", root.join("etc/link")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    let bundle = folder.path().join("bundle");
    bundle_of(&BaseSource::Directory(root), &bundle).unwrap();

    let expected = [
        ("/bin", "l777 0:0 usr/bin"),
        ("/dev", "d755 0:0"),
        ("/etc", "d755 0:0"),
        ("/etc/empty", "f600 0:0 "),
        ("/etc/link", "l777 0:0 /nowhere/at/all"),
        ("/proc", "d555 0:0"),
        ("/run", "d755 0:0"),
        ("/sys", "d555 0:0"),
        ("/tmp", "d1777 0:0"),
        ("/usr", "d755 0:0"),
        ("/usr/bin", "d755 0:0"),
        ("/usr/bin/tool", "f755 0:0 #!/bin/sh\n"),
        ("/var", "d755 0:0"),
        ("/work", "d755 0:0"),
    ];
    let mut found = image(&bundle);
    assert!(found.remove("/").unwrap().starts_with("d755 "));
    let found: Vec<_> = found
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn contents_of_every_size_come_through() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    // Around the size of a block, and blocks of zeros.
    let sizes = [0, 1, 4096, 131_071, 131_072, 131_073, 400_000];
    for size in sizes {
        fs::write(root.join(format!("x{size}")), "x".repeat(size)).unwrap();
        fs::write(root.join(format!("z{size}")), vec![0; size]).unwrap();
    }
    let bundle = folder.path().join("bundle");
    bundle_of(&BaseSource::Directory(root), &bundle).unwrap();
    let found = image(&bundle);
    for size in sizes {
        for (name, character) in [("x", "x"), ("z", "\0")] {
            let text = &found[&format!("/{name}{size}")];
            let content = text.split_once(":0 ").unwrap().1;
            assert!(content == character.repeat(size), "{name}{size}");
        }
    }
}

#[test]
fn a_directory_of_many_names_is_read_back() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("many")).unwrap();
    for number in 0..1500 {
        fs::write(root.join(format!("many/name-{number}")), number.to_string()).unwrap();
    }
    let bundle = folder.path().join("bundle");
    bundle_of(&BaseSource::Directory(root), &bundle).unwrap();
    let found = image(&bundle);
    for number in 0..1500 {
        assert_eq!(
            found[&format!("/many/name-{number}")],
            format!("f644 0:0 {number}")
        );
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let _listener = UnixListener::bind(root.join("socket")).unwrap();
    let error = bundle_of(&BaseSource::Directory(root), &folder.path().join("bundle")).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Base(BaseError::Special {
                kind: "sockets",
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn a_file_in_place_of_a_mount_point_is_refused() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("proc"), "").unwrap();
    let error = bundle_of(&BaseSource::Directory(root), &folder.path().join("bundle")).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Base(BaseError::Tree(TreeError::MountPoint { name: "proc" }))
        ),
        "{error}"
    );
}

#[test]
fn a_directory_that_is_too_deep_is_refused() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let deep: std::path::PathBuf = std::iter::repeat_n("d", 200).collect();
    fs::create_dir_all(root.join(deep)).unwrap();
    let error = bundle_of(&BaseSource::Directory(root), &folder.path().join("bundle")).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Base(BaseError::Tree(TreeError::TooLong { .. }))
        ),
        "{error}"
    );
}
