//! The rootless half: the tests that speak to the kernel, run again as a user who has no rights.
//!
//! That user can read neither root's home (where the toolchain is) nor, perhaps, this checkout. So
//! the built test programs travel in a nextest archive, and everything they read is copied into a
//! folder that the user owns.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{OtherTests, PROFILE, judge_nextest};
use crate::error::TaskError;
use crate::machines::{self, Machines};
use crate::process;
use crate::python::{self, Python};
use crate::report::Outcome;
use crate::tools;
use crate::workspace::{self, ScratchFolder, Workspace};

/// Made when missing. It owns nothing outside the folder of a run.
const USER: &str = "cellos-test";

/// The crates whose tests come out differently without root: those that make cells, and those
/// that watch over them. Parsers and printers are tested once, in the other half.
const CRATES: &[&str] = &[
    "cellos",
    "cellos-host-linux",
    "cellos-host-microvm",
    "cellos-isolation",
    "cellos-host-stub",
    "cellos-supervisor",
];

/// A test with this in its path is about what only root can have, such as a user id of its own for
/// each cell; without root it would have nothing to look at.
const NEEDS_ROOT: &str = "as_root";

/// zstd's fastest level: the archive is read once, on this machine.
const ARCHIVE_LEVEL: &str = "1";

struct Account {
    uid: u32,
    gid: u32,
}

pub(super) fn run(
    workspace: &Workspace,
    machines: &Machines,
    python: &Python,
) -> Result<Outcome, TaskError> {
    if !process::is_root() {
        return Ok(Outcome::Skipped(
            "the tests above already ran without root".to_owned(),
        ));
    }
    let account = account()?;
    let scratch = ScratchFolder::create("cellos-rootless")?;
    let archive = scratch.path().join("tests.tar.zst");
    build_archive(workspace, &archive)?;

    let folder = |name: &str| scratch.path().join(name);
    let checkout = folder("checkout");
    copy_checkout(workspace, &checkout)?;
    for name in ["extracted", "home", "runtime", "tmp"] {
        workspace::make_folder(&folder(name))?;
    }
    let runner = folder("cargo-nextest");
    let installed = tools::locate("cargo-nextest")
        .ok_or_else(|| TaskError::usage("cargo-nextest is not installed"))?;
    std::fs::copy(&installed, &runner).map_err(TaskError::file("copy", &installed))?;
    let bundle = machines.copy_to(&folder("machines"))?;
    let packages = python.copy_to(&folder("python"))?;
    give(scratch.path(), &account)?;
    private(&folder("runtime"))?;

    let mut command = Command::new(&runner);
    command
        .args(["nextest", "run", "--profile", PROFILE, "--archive-file"])
        .arg(&archive)
        .arg("--extract-to")
        .arg(folder("extracted"))
        .arg("--workspace-remap")
        .arg(&checkout)
        .args(["--no-tests", "fail", "-E", &filter(CRATES)])
        .current_dir(&checkout)
        // A user's environment, and nothing of root's.
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", folder("home"))
        .env("USER", USER)
        .env("LOGNAME", USER)
        .env("LANG", "C.UTF-8")
        .env("TMPDIR", folder("tmp"))
        .env("XDG_RUNTIME_DIR", folder("runtime"))
        .env("INSTA_WORKSPACE_ROOT", &checkout)
        .env("INSTA_UPDATE", "no")
        .envs(passed_through(std::env::vars_os()))
        .envs(bundle.map(|bundle| (machines::VARIABLE, bundle)))
        .envs(packages.map(|folder| (python::VARIABLE, folder)))
        // Also empties the list of supplementary groups.
        .uid(account.uid)
        .gid(account.gid);
    judge_nextest(&mut command, &checkout, OtherTests::RanElsewhere)
}

/// What the caller may say to tests, in both halves.
fn passed_through(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(name, _)| {
        name == "CI" || name == "CELLOS_TEST_REQUIRE" || name == "RUST_BACKTRACE"
    })
}

/// Which test programs travel. Single tests cannot be chosen while archiving.
fn programs(crates: &[&str]) -> String {
    let packages: Vec<String> = crates
        .iter()
        .map(|name| format!("package(={name})"))
        .collect();
    packages.join(" | ")
}

/// Which of their tests run.
fn filter(crates: &[&str]) -> String {
    format!("({}) & not test(/(^|::){NEEDS_ROOT}/)", programs(crates))
}

fn build_archive(workspace: &Workspace, archive: &Path) -> Result<(), TaskError> {
    let mut command = workspace.cargo(&["nextest", "archive", "--locked"]);
    // The whole workspace, so that features unify as in the other half and nothing is rebuilt.
    command
        .args([
            "--workspace",
            "--zstd-level",
            ARCHIVE_LEVEL,
            "--archive-file",
        ])
        .arg(archive)
        .args(["-E", &programs(CRATES)]);
    process::run(&mut command)
}

/// The files that git tracks or would track. Build products stay behind.
fn copy_checkout(workspace: &Workspace, to: &Path) -> Result<(), TaskError> {
    let mut list = Command::new("git");
    list.current_dir(&workspace.root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    for name in process::output(&mut list)?
        .split('\0')
        .filter(|name| !name.is_empty())
    {
        let source = workspace.root.join(name);
        // A tracked file may have been deleted, and a link is not ours to follow.
        if !source
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
        {
            continue;
        }
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            workspace::make_folder(parent)?;
        }
        std::fs::copy(&source, &target).map_err(TaskError::file("copy", &source))?;
    }
    Ok(())
}

fn account() -> Result<Account, TaskError> {
    let read = || workspace::read(Path::new("/etc/passwd"));
    if let Some(account) = find_account(&read()?, USER) {
        return Ok(account);
    }
    process::run(Command::new("/usr/sbin/useradd").args([
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        USER,
    ]))?;
    find_account(&read()?, USER)
        .ok_or_else(|| TaskError::unreadable("/etc/passwd", format!("no {USER} after useradd")))
}

/// The ids of a user in the form of passwd(5).
fn find_account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [user, _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        (*user == name).then_some(())?;
        Some(Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    })
}

/// Makes the user the owner of a folder and all in it.
fn give(path: &Path, account: &Account) -> Result<(), TaskError> {
    std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
        .map_err(TaskError::file("give away", path))?;
    if !path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
    {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(TaskError::file("list", path))? {
        let entry: PathBuf = entry.map_err(TaskError::file("list", path))?.path();
        give(&entry, account)?;
    }
    Ok(())
}

/// The mode that the XDG base directory specification asks of a runtime folder.
fn private(path: &Path) -> Result<(), TaskError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .map_err(TaskError::file("close", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_ids_of_exactly_the_named_user() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\
                      cellos-test2:x:7:8::/:/bin/sh\n\
                      broken line\n\
                      cellos-test:x:998:997::/nonexistent:/usr/sbin/nologin\n";
        let account = find_account(passwd, "cellos-test").unwrap();
        assert_eq!((account.uid, account.gid), (998, 997));
        assert!(find_account(passwd, "nobody").is_none());
    }

    #[test]
    fn the_filter_names_each_crate_and_leaves_out_what_needs_root() {
        assert_eq!(
            filter(&["a", "b"]),
            "(package(=a) | package(=b)) & not test(/(^|::)as_root/)"
        );
    }

    #[test]
    fn little_of_the_environment_reaches_the_unprivileged_tests() {
        let all = ["HOME", "CARGO_HOME", "CI", "CELLOS_TEST_REQUIRE"]
            .map(|name| (OsString::from(name), OsString::from("x")));
        let names: Vec<_> = passed_through(all.into_iter())
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["CI", "CELLOS_TEST_REQUIRE"]);
    }
}
