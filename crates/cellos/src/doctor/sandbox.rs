//! Seccomp and Landlock.

use landlock::{ABI, Access as _, AccessFs, LandlockStatus, Ruleset, RulesetAttr as _};

use super::{Area, Check, State, probe::Probe, read};

pub(super) fn checks() -> Vec<Check> {
    vec![seccomp(), landlock()]
}

fn seccomp() -> Check {
    match read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "errno") => Check::new(
            Area::Sandbox,
            "seccomp filters",
            State::Works,
            actions,
            "each cell has a system call filter",
        ),
        found => Check::new(
            Area::Sandbox,
            "seccomp filters",
            State::Blocking,
            found.unwrap_or_else(|| "not in this kernel".into()),
            "no cell can be created",
        )
        .mend("use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn landlock() -> Check {
    match Probe::Landlock.try_out() {
        Ok(version) => Check::new(
            Area::Sandbox,
            "Landlock",
            State::Works,
            version,
            "a second line behind the mount tree",
        ),
        Err(error) => Check::new(
            Area::Sandbox,
            "Landlock",
            State::Missing,
            error,
            "cells rely on the mount tree alone",
        )
        .mend("boot with lsm=landlock,… on a kernel with CONFIG_SECURITY_LANDLOCK"),
    }
}

/// Restricts this process, to see whether the kernel does it. Returns the version.
pub(super) fn restrict_with_landlock() -> Result<String, String> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| error.to_string())?;
    match status.landlock {
        LandlockStatus::NotImplemented => Err("not in this kernel".into()),
        LandlockStatus::NotEnabled => Err("switched off at boot".into()),
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => {
            let version = kernel_abi.unwrap_or(effective_abi as i32);
            Ok(format!("ABI {version}"))
        }
    }
}
