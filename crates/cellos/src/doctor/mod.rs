//! What the host offers: one file per area, each a list of checks. A check tries the thing where
//! that is cheap, and says by what else it judged where it is not.

mod cgroups;
pub(crate) mod machines;
mod mounts;
mod namespaces;
pub(crate) mod probe;
mod process;
mod sandbox;
mod trial;

use std::fmt;

use serde::Serialize;

pub(crate) use self::trial::trial_cell;

/// The area a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Area {
    Privileges,
    Namespaces,
    ControlGroups,
    Sandbox,
    Processes,
    Mounts,
    Virtualization,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileges => "privileges",
            Self::Namespaces => "namespaces",
            Self::ControlGroups => "control groups",
            Self::Sandbox => "sandbox",
            Self::Processes => "processes",
            Self::Mounts => "mounts",
            Self::Virtualization => "virtualization",
        })
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// It is there.
    Works,
    /// It is not there, and cells run without it.
    Missing,
    /// It is not there, and no cell runs without it.
    Blocking,
    /// Neither good nor bad.
    Info,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub(crate) area: Area,
    /// The thing.
    pub(crate) name: String,
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What it means for cells.
    pub(crate) meaning: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Check {
    fn new(
        area: Area,
        name: impl Into<String>,
        state: State,
        found: impl Into<String>,
        meaning: impl Into<String>,
    ) -> Self {
        Self {
            area,
            name: name.into(),
            state,
            found: found.into(),
            meaning: meaning.into(),
            mend: None,
        }
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// Looks at everything.
pub(crate) fn look(boot: machines::Boot) -> Vec<Check> {
    let mut checks = vec![privileges()];
    checks.extend(namespaces::checks());
    checks.extend(cgroups::checks());
    checks.extend(sandbox::checks());
    checks.extend(process::checks());
    checks.extend(mounts::checks());
    checks.extend(machines::checks(boot));
    checks
}

fn privileges() -> Check {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        Check::new(
            Area::Privileges,
            "user",
            State::Info,
            "root",
            "cells are mapped to an unprivileged user outside; limits need no delegation",
        )
    } else {
        Check::new(
            Area::Privileges,
            "user",
            State::Info,
            format!("uid {}", uid.as_raw()),
            "cells run rootless, in user namespaces; limits need a delegated control group",
        )
    }
}

/// The text of a file of the kernel's, trimmed; `None` where there is no such file.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}
