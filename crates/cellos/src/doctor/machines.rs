//! Virtual machines. A device that opens is no proof: `kvm_pvm` opens and emulates every guest
//! instruction of an ordinary kernel, which then dies before its init. So a machine is booted where
//! that was asked for, and what executed it is the answer.

use cellos_core::{
    CellosError,
    ports::workload::{GuestExecution, Machine},
};
use cellos_host_microvm::{BootFiles, DriverChoice, KvmVerdict, MicrovmConfig};

use super::{Area, Check, State, trial};
use crate::compose;

/// What is said of everything here where it is missing.
const NOT_NEEDED: &str = "only the microvm backend needs it";

/// Whether a machine is booted to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// One is, which takes seconds.
    Try,
    /// None is.
    No,
}

pub(super) fn checks(boot: Boot) -> Vec<Check> {
    let mut checks = vec![kvm()];
    match compose::machines_config(&compose::BackendOptions::from_environment()) {
        Ok(config) => {
            checks.push(monitor(&config));
            checks.push(boot_files(&config));
            if boot == Boot::Try {
                checks.push(machine());
            }
        }
        Err(error) => checks.push(
            check("settings", State::Missing, error.to_string(), NOT_NEEDED)
                .mend("install qemu-system-x86 (Debian), then cellos vm prepare"),
        ),
    }
    checks
}

fn check(name: &str, state: State, found: String, meaning: &str) -> Check {
    Check::new(Area::Virtualization, name, state, found, meaning)
}

fn kvm() -> Check {
    const DEVICE: &str = "/dev/kvm";
    let verdict = KvmVerdict::at_a_glance();
    let emulated = "machines are emulated without it, which is slower";
    match &verdict {
        KvmVerdict::Works => check(DEVICE, State::Works, verdict.to_string(), "machines use it"),
        KvmVerdict::Untried => check(
            DEVICE,
            State::Info,
            "opens; whether it runs guests was not tried".into(),
            "cellos doctor --machine boots one",
        ),
        KvmVerdict::OpensButCannotRunGuests { .. } => check(
            DEVICE,
            State::Missing,
            "opens but cannot run a guest: the module is kvm_pvm".into(),
            emulated,
        )
        .mend("run on a host with hardware virtualization, or nested virtualization switched on"),
        KvmVerdict::NoAccess { why } => check(DEVICE, State::Info, why.clone(), emulated)
            .mend("add the user to the group of /dev/kvm"),
        _ => check(DEVICE, State::Info, "not there".into(), emulated),
    }
}

fn monitor(config: &MicrovmConfig) -> Check {
    let (name, program) = match &config.driver {
        DriverChoice::Qemu(qemu) => ("QEMU", &qemu.program),
        DriverChoice::Firecracker(firecracker) => ("Firecracker", &firecracker.program),
    };
    if program.is_file() {
        let found = program.display().to_string();
        return check(name, State::Works, found, "boots the machines");
    }
    check(
        name,
        State::Missing,
        format!("{} is not there", program.display()),
        NOT_NEEDED,
    )
}

fn boot_files(config: &MicrovmConfig) -> Check {
    let name = "what machines boot";
    let (path, prepared) = match &config.boot {
        BootFiles::Bundle(folder) => (folder.clone(), true),
        BootFiles::Published { kernel, .. } => (kernel.clone(), false),
    };
    if path.exists() {
        let meaning = if prepared {
            "cellos vm verify checks its signature and digests"
        } else {
            "a guest of the published contract"
        };
        return check(name, State::Works, path.display().to_string(), meaning);
    }
    let found = format!("{} is not there", path.display());
    check(name, State::Missing, found, NOT_NEEDED).mend("cellos vm prepare")
}

/// Boots a machine with a cell, and takes it apart.
fn machine() -> Check {
    const NAME: &str = "a machine";
    match boot_one() {
        Ok(machine) => {
            let how = match machine.execution {
                GuestExecution::Kvm => "by KVM, which runs guests here",
                GuestExecution::Emulated => "emulated, since KVM runs no guest here",
                GuestExecution::Fake => "by a FAKE monitor, for tests",
            };
            let found = format!(
                "booted in {:.0} ms {how}; {} {}, kernel {}",
                machine.ready_after.as_secs_f64() * 1e3,
                machine.monitor,
                machine.monitor_version,
                machine.guest_kernel,
            );
            check(NAME, State::Works, found, "cells can run in machines")
        }
        Err(why) => check(NAME, State::Missing, why, "no cell can run in a machine"),
    }
}

fn boot_one() -> Result<Machine, String> {
    let text = |error: CellosError| error.to_string();
    let backend = compose::prepare(
        compose::MACHINES_BACKEND,
        &compose::BackendOptions::from_environment(),
    )
    .map_err(|failure| failure.message())?;
    crate::commands::run::block_on(async {
        let backend = backend.start().map_err(|failure| failure.message())?;
        let cell = backend.create(&trial::document()).await.map_err(text)?;
        let posture = match backend.workload() {
            Some(control) => control.posture(&cell.cell_id).await.map_err(text),
            None => Err("the backend gives no control over workloads".into()),
        };
        backend.destroy(&cell).await.map_err(text)?;
        posture?
            .machine
            .ok_or_else(|| "the backend does not say what the machine is".into())
    })
    .map_err(|failure| failure.message())?
}
