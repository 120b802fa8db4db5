//! Tests against the kernel's own control groups, as root. Where they cannot run they say why, and
//! fail if `CELLOS_TEST_REQUIRE` names `cgroups`.
#![allow(unsafe_code)]

mod delegation;
mod killing;
mod leftovers;
mod limits;
mod measure;
mod unprivileged;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{control::Directory, group::make_leaf, *};

const MIB: u64 = 1 << 20;
/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says why a test does nothing, or fails it where it must run.
fn skip(why: &str) {
    let required = std::env::var("CELLOS_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|word| word.trim() == "cgroups"),
        "control groups are required here, but: {why}"
    );
    eprintln!("skipped: {why}");
}

/// The host, if root can use these controllers here.
fn host_with(controllers: &[Controller]) -> Option<CgroupHost> {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    let host = CgroupHost::detect(None);
    for controller in controllers {
        if let Err(unavailable) = host.support(*controller) {
            skip(&unavailable.to_string());
            return None;
        }
    }
    Some(host)
}

/// A cgroup of the v2 tree for this test alone.
fn unified(name: &str) -> Option<Scratch> {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let all = layout::parse(&fs::read_to_string("/proc/self/cgroup").unwrap(), &mounts);
    let Some(tree) = all.iter().find(|h| h.version == Version::V2) else {
        skip("no cgroup2 mount");
        return None;
    };
    let path = tree
        .mount
        .join(format!("test-{name}-{}", std::process::id()));
    match fs::create_dir(&path) {
        Ok(()) => Some(Scratch(path)),
        Err(error) => {
            skip(&format!("cannot make {}: {error}", path.display()));
            None
        }
    }
}

/// A directory of cgroups that goes with the test, whatever becomes of it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            for _ in 0..200 {
                if fs::remove_dir(path).is_ok() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

/// A cgroup that is emptied and removed even when the test fails.
struct Guard(Arc<Cgroup>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.remove();
    }
}

fn fresh_name(creator: &Creator) -> String {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    leaf_name("test", creator, SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

fn create(host: &CgroupHost, limits: &Limits) -> Guard {
    let name = fresh_name(&Creator::current().unwrap());
    Guard(Arc::new(host.create(&name, limits).unwrap()))
}

/// Starts a command that joins the way the launcher's child does.
fn start(group: &Guard, command: &mut Command) -> Child {
    let joining = Arc::clone(&group.0);
    let join = move || {
        joining
            .join_from_child()
            .map_err(|_| std::io::ErrorKind::PermissionDenied.into())
    };
    // SAFETY: the closure only opens and writes files through descriptors that are open already; it
    // allocates nothing unless it fails, and the test then fails too.
    unsafe { command.pre_exec(join) };
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn gone(group: &Cgroup) -> bool {
    group.paths().all(|path| !path.exists())
}

/// A leaf of the v2 tree that enforces nothing.
fn unified_group(scratch: &Scratch) -> Guard {
    let parent = Directory::open(&scratch.0).unwrap();
    let name = fresh_name(&Creator::current().unwrap());
    let leaf = make_leaf(&parent, &name, Version::V2, Vec::new()).unwrap();
    Guard(Arc::new(Cgroup { leaves: vec![leaf] }))
}
