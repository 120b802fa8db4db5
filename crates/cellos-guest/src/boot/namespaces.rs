//! A test's own mounts, for steps that change those of the whole process.

use std::path::Path;

use cellos_testkit::alone::{Place, finished, rerun};
use rustix::mount::MountFlags;

/// Set in the child to the folder that it may use.
const FOLDER: &str = "CELLOS_TEST_FOLDER";

/// Namespaces of a child, as options of unshare(1).
#[derive(Debug, Clone, Copy)]
pub(super) enum Namespaces {
    /// Of users, mounts and processes: for everybody.
    Unprivileged,
    /// Of mounts and processes: root keeps its rights to the machine.
    Privileged,
}

/// Runs a part of a test in a child that has namespaces, no mount that anybody else sees, and an
/// empty folder.
pub(super) fn inside(test: &str, namespaces: Namespaces, part: impl FnOnce(&Path)) {
    let own = tempfile::tempdir().unwrap();
    let variable = format!("{FOLDER}={}", own.path().display());
    let options = match namespaces {
        Namespaces::Unprivileged => "-Urmpf",
        Namespaces::Privileged => "-mpf",
    };
    let command = [
        "unshare",
        options,
        "--propagation=private",
        "env",
        &variable,
    ];
    match rerun(test, &command) {
        Place::Alone => {
            // Its own it would have to remove, when the root may be another.
            own.close().unwrap();
            part(std::env::var_os(FOLDER).unwrap().as_ref());
            finished();
        }
        Place::Parent(result) => result.unwrap(),
    }
}

/// Mounts an empty file system that is written to.
pub(super) fn mount_empty(place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).unwrap();
}

/// An empty file system in the folder becomes the root, as a RAM disk is at first.
pub(super) fn enter_empty_root(folder: &Path) {
    mount_empty(folder);
    rustix::process::chroot(folder).unwrap();
    rustix::process::chdir("/").unwrap();
}
