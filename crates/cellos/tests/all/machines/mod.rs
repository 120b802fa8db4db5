//! Cells in virtual machines: a real kernel under QEMU, emulated where there is no KVM that runs
//! guests.
//!
//! A machine takes a second or two to boot, so a test looks at as much of one run as it can.

mod bundle;
mod ends;
mod firecracker;
mod forgery;
mod killed;
mod network;
mod refusals;
mod runs;

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use cellos_testkit::{Ability, EventLog};

use crate::program::Place;

/// Names the bundle that machines boot, with its keys beside it.
const BUNDLE: &str = "CELLOS_TEST_VM_BUNDLE";

/// Whether machines can be tried here, for `require!("machines", …)`.
fn available() -> Result<(), String> {
    Ability::Qemu
        .probe()
        .map_err(|missing| missing.to_string())?;
    match bundle() {
        Some(_) => Ok(()),
        None => Err(format!(
            "{BUNDLE} names no bundle; cargo xtask test makes one"
        )),
    }
}

fn bundle() -> Option<PathBuf> {
    std::env::var_os(BUNDLE)
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
}

/// A place whose machines are its own.
struct Machines {
    place: Place,
}

impl Machines {
    fn new() -> Self {
        Self {
            place: Place::new(),
        }
    }

    /// `cellos run --backend microvm` with these arguments.
    fn run(&self, arguments: &[&str]) -> Command {
        let events = self.place.events();
        let mut all = vec!["run", "--backend", "microvm", "--events"];
        all.push(events.to_str().unwrap());
        all.extend(arguments);
        self.cellos(&all)
    }

    /// A shell script in a machine.
    fn shell(&self, flags: &[&str], script: &str) -> Command {
        let mut arguments = flags.to_vec();
        arguments.extend(["--ttl", "120s", "--", "sh", "-c", script]);
        self.run(&arguments)
    }

    fn cellos(&self, arguments: &[&str]) -> Command {
        let bundle = bundle().unwrap();
        let mut command = self.place.cellos(arguments);
        command
            .env(
                "CELLOS_VM_TRUST_KEYS",
                bundle.with_file_name("vm-keys").join("trusted.json"),
            )
            .env("CELLOS_VM_DIR", bundle)
            .env("CELLOS_VM_RUN_DIR", self.run_folder());
        command
    }

    fn run_folder(&self) -> PathBuf {
        self.place.path().join("vm")
    }

    fn log(&self) -> EventLog {
        EventLog::read(self.place.events())
    }

    /// Nothing of a machine is left: no folder of one, no monitor.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.run_folder())
            .map(|entries| {
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.is_dir())
                    .collect()
            })
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.monitors(), [0_u32; 0], "monitors are alive");
    }

    /// The monitors of this place, by an open file below its folder or their parent.
    fn monitors(&self) -> Vec<u32> {
        let folder = self.run_folder();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            let ours = command.contains("qemu-system") && {
                std::fs::read_link(entry.path().join("cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(&folder))
                    || command.contains(folder.to_str().unwrap())
            };
            if ours {
                found.push(pid);
            }
        }
        found
    }
}

/// What a run wrote to standard output, after it ended with this code.
#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}
