//! The whole program over the stand-in for Firecracker: no real one can be had from a package
//! registry, and not every host has a KVM for it. The driver, its jails and their remains are real; the
//! guest is a process beside the test.

mod published;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cellos_fake_vmm::{
    outside::{Guests, Play},
    programs::built,
    settings::Guest,
};
use cellos_testkit::{Ability, EventLog, require};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::program::{Place, source_file};

const FIRECRACKER: &str = "stand-in-firecracker";
const JAILER: &str = "stand-in-jailer";
const GUEST: &str = "stand-in-guest";

/// First user id of these tests' jails.
const FIRST_ID: u32 = 872_000;

/// Whether the stand-ins were built, for `require!("fake-vmm", …)`.
fn stand_ins() -> Result<(), String> {
    for program in [FIRECRACKER, JAILER, GUEST] {
        built(program).map_err(|error| error.to_string())?;
    }
    for ability in [Ability::UserNamespaces, Ability::Landlock] {
        ability.probe().map_err(|missing| missing.to_string())?;
    }
    Ok(())
}

/// Who starts monitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A jailer, which needs root.
    Jailer,
    /// The program itself.
    Us,
}

/// A place with a bundle, and somebody who runs the guests of its machines.
struct Host {
    place: Place,
    by: By,
    _guests: Guests,
}

impl Host {
    /// With the real guest program.
    fn new(by: By) -> Self {
        let play = Play::Program(Guest {
            program: built(GUEST).unwrap(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
        });
        Self::with(by, play)
    }

    fn with(by: By, play: Play) -> Self {
        let place = Place::new();
        let bundle = place.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let mut manifest = String::new();
        for name in ["kernel", "initrd", "rootfs"] {
            let content = format!("for machines of {}: {name}", place.path().display());
            fs::write(bundle.join(name), &content).unwrap();
            manifest.push_str(&format!("sha256:{} {name} {name}\n", sha256(content)));
        }
        fs::write(bundle.join("manifest"), manifest).unwrap();
        Self {
            _guests: Guests::below(place.path(), play).unwrap(),
            place,
            by,
        }
    }

    fn bundle(&self, file: &str) -> PathBuf {
        self.place.path().join("bundle").join(file)
    }

    /// `cellos run --backend microvm` with these arguments.
    fn run(&self, arguments: &[&str]) -> Command {
        let events = self.place.events();
        let mut all = vec!["run", "--backend", "microvm", "--events"];
        all.push(events.to_str().unwrap());
        all.extend(arguments);
        self.on_machines(self.place.cellos(&all))
    }

    /// With settings that name the stand-ins and the bundle.
    fn on_machines(&self, mut command: Command) -> Command {
        command
            .env("CELLOS_FIRECRACKER_BINARY", built(FIRECRACKER).unwrap())
            .env("CELLOS_VM_DIR", self.place.path().join("bundle"))
            .env("CELLOS_VM_ALLOW_UNSIGNED", "1")
            .env("CELLOS_VM_RUN_DIR", self.run_folder());
        match self.by {
            By::Us => command.env("CELLOS_FIRECRACKER_ALLOW_NO_JAILER", "1"),
            By::Jailer => command
                .env("CELLOS_FIRECRACKER_JAILER_BINARY", built(JAILER).unwrap())
                .env("CELLOS_FIRECRACKER_JAILER_UID", FIRST_ID.to_string())
                .env("CELLOS_FIRECRACKER_CHROOT_BASE", self.jails()),
        };
        command
    }

    fn run_folder(&self) -> PathBuf {
        self.place.path().join("vm")
    }

    fn jails(&self) -> PathBuf {
        self.place.path().join("jails")
    }

    fn log(&self) -> EventLog {
        EventLog::read(self.place.events())
    }

    /// No machine, no jail, no monitor.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let mut left = folders(&self.run_folder());
        left.retain(|folder| !folder.ends_with("ids"));
        left.extend(folders(&self.jails().join("firecracker")));
        assert!(left.is_empty(), "{left:?}");
        for process in fs::read_dir("/proc").unwrap().flatten() {
            for link in ["cwd", "root"] {
                let found = fs::read_link(process.path().join(link)).unwrap_or_default();
                assert!(
                    !found.starts_with(self.place.path()),
                    "{}: {link} is {}",
                    process.path().display(),
                    found.display()
                );
            }
        }
    }
}

fn folders(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn sha256(content: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the evidence of a run that ended well says.
#[track_caller]
fn assert_evidence(host: &Host) {
    let log = host.log();
    let started = log.data("started");
    for (field, file) in [
        ("kernelDigestSha256", host.bundle("kernel")),
        ("rootfsDigestSha256", host.bundle("rootfs")),
        ("firecrackerDigestSha256", built(FIRECRACKER).unwrap()),
    ] {
        assert_eq!(started[field], sha256(fs::read(file).unwrap()), "{field}");
    }
    let machine = &log.data("container_security")["machine"];
    assert_eq!(machine["monitor"], "firecracker", "{machine}");
    assert_eq!(machine["execution"], "fake", "{machine}");
    assert_eq!(machine["exitAuthentication"], "session", "{machine}");
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["residue"]["found"], json!([]), "{destroyed}");
    host.assert_nothing_left();
}

fn hello(by: By) {
    let host = Host::new(by);
    let hello = source_file("../../examples/hello.yaml");
    let output = host.run(&[hello.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Hello from a cell."), "{text}");
    assert_evidence(&host);
}

fn exit_code(by: By) {
    let host = Host::new(by);
    let run = ["--", "sh", "-c", "cat; exit 7"];
    let output = crate::program::with_input(&mut host.run(&run), b"through the machine");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stdout, b"through the machine");
    assert_evidence(&host);
}

fn drop_in(by: By) {
    let host = Host::new(by);
    host.place.file(
        "cell.json",
        r#"{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{"id":"cell-1",
        "run":{"argv":["/bin/sh","-c","echo from a machine"]},
        "authority":{},"lifetime":{"ttlSeconds":60}}}"#,
    );
    let mut command = host.on_machines(host.place.supervisor(&["cell.json"]));
    command.env("CELLOS_CELL_BACKEND", "firecracker");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"from a machine\n", "{output:?}");
    assert_evidence(&host);
}

/// Its machine is killed with it, and the next run of `cellos reap` removes the rest.
fn killed_supervisor(by: By) {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };
    let host = Host::new(by);
    let mut child = host
        .run(&["--", "sh", "-c", "echo up; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folders(&host.run_folder()).is_empty());
    let reap = host.on_machines(host.place.cellos(&["reap"])).output();
    let reap = reap.unwrap();
    assert_eq!(reap.status.code(), Some(0), "{reap:?}");
    host.assert_nothing_left();
}

#[test]
fn hello_runs_and_its_evidence_says_by_what() {
    require!("fake-vmm", stand_ins());
    hello(By::Us);
}

#[test]
fn exit_codes_and_streams_pass() {
    require!("fake-vmm", stand_ins());
    exit_code(By::Us);
}

#[test]
fn the_drop_in_runs_cells_by_firecracker() {
    require!("fake-vmm", stand_ins());
    drop_in(By::Us);
}

#[test]
fn what_a_killed_supervisor_leaves_is_reaped() {
    require!("fake-vmm", stand_ins());
    killed_supervisor(By::Us);
}

mod as_root {
    use super::*;

    #[test]
    fn hello_runs_in_a_jail_and_its_evidence_says_by_what() {
        require!("root");
        require!("fake-vmm", stand_ins());
        hello(By::Jailer);
    }

    #[test]
    fn exit_codes_and_streams_pass_out_of_a_jail() {
        require!("root");
        require!("fake-vmm", stand_ins());
        exit_code(By::Jailer);
    }

    #[test]
    fn the_drop_in_runs_cells_in_jails() {
        require!("root");
        require!("fake-vmm", stand_ins());
        drop_in(By::Jailer);
    }

    #[test]
    fn a_jail_that_a_killed_supervisor_leaves_is_reaped() {
        require!("root");
        require!("fake-vmm", stand_ins());
        killed_supervisor(By::Jailer);
    }
}
