//! Namespaces, tried one by one, and the switches that forbid them.

use super::{Area, Check, State, probe::Probe, read};

/// A switch of the kernel's that can forbid user namespaces.
struct Switch {
    /// Name as of sysctl(8).
    name: &'static str,
    /// Whether a value allows user namespaces.
    allows: fn(&str) -> bool,
    /// What it decides.
    meaning: &'static str,
    /// How to set it.
    mend: &'static str,
}

const SWITCHES: [Switch; 3] = [
    Switch {
        name: "user.max_user_namespaces",
        allows: |value| value != "0",
        meaning: "how many user namespaces there may be",
        mend: "sysctl -w user.max_user_namespaces=15000",
    },
    Switch {
        name: "kernel.unprivileged_userns_clone",
        allows: |value| value == "1",
        meaning: "whether unprivileged users may have user namespaces (Debian)",
        mend: "sysctl -w kernel.unprivileged_userns_clone=1",
    },
    Switch {
        name: "kernel.apparmor_restrict_unprivileged_userns",
        allows: |value| value == "0",
        meaning: "whether AppArmor takes away what a user namespace gives (Ubuntu)",
        mend: "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile \
               for cellos with userns",
    },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut any_failed = false;
    for probe in Probe::NAMESPACES {
        let name = format!("{} namespace", probe.name());
        checks.push(match probe.try_out() {
            Ok(_) => Check::new(
                Area::Namespaces,
                name,
                State::Works,
                "created one",
                "each cell has its own",
            ),
            Err(error) => {
                any_failed = true;
                Check::new(
                    Area::Namespaces,
                    name,
                    State::Blocking,
                    error,
                    "no cell can be created",
                )
                .mend("see the switches below; inside a container, allow it user namespaces")
            }
        });
    }
    for switch in SWITCHES {
        // A kernel without the switch does not restrict anything by it.
        let Some(value) = read(&format!("/proc/sys/{}", switch.name.replace('.', "/"))) else {
            continue;
        };
        let good = (switch.allows)(&value);
        // A switch that forbids it and yet did not: root, or a profile of our own.
        let state = match (good, any_failed) {
            (true, _) => State::Works,
            (false, true) => State::Blocking,
            (false, false) => State::Info,
        };
        let check = Check::new(Area::Namespaces, switch.name, state, value, switch.meaning);
        checks.push(if good { check } else { check.mend(switch.mend) });
    }
    checks
}
