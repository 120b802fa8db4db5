//! Namespaces, tried one by one, and the switches that forbid them.

use super::{Area, Check, State, probe::Probe, read};

/// Each switch with the values that allow user namespaces, what it does and how to set it.
const SWITCHES: [(&str, fn(&str) -> bool, &str, &str); 3] = [
    (
        "user.max_user_namespaces",
        |value| value != "0",
        "how many user namespaces there may be",
        "sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "kernel.unprivileged_userns_clone",
        |value| value == "1",
        "whether unprivileged users may have user namespaces (Debian)",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        |value| value == "0",
        "whether AppArmor takes away what a user namespace gives (Ubuntu)",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for cellos with userns",
    ),
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
    for (switch, allows, meaning, mend) in SWITCHES {
        // A kernel without the switch does not restrict anything by it.
        let Some(value) = read(&format!("/proc/sys/{}", switch.replace('.', "/"))) else {
            continue;
        };
        let good = allows(&value);
        // A switch that forbids it and yet did not: root, or a profile of our own.
        let state = match (good, any_failed) {
            (true, _) => State::Works,
            (false, true) => State::Blocking,
            (false, false) => State::Info,
        };
        let check = Check::new(
            Area::Namespaces,
            switch,
            state,
            value,
            meaning,
        );
        checks.push(if good { check } else { check.mend(mend) });
    }
    checks
}
