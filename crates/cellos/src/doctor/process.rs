//! Process handles.

use rustix::process::PidfdFlags;

use super::{Area, Check, State};

pub(super) fn checks() -> Vec<Check> {
    let pidfd = match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(_) => Check::new(
            Area::Processes,
            "pidfd",
            State::Works,
            "opened one",
            "processes are waited for and killed without races",
        ),
        Err(errno) => Check::new(
            Area::Processes,
            "pidfd",
            State::Blocking,
            errno.to_string(),
            "no cell can be created",
        )
        .mend("use Linux 5.3 or later"),
    };
    vec![pidfd, clone3()]
}

/// The first kernel with each thing that cannot be tried without side effects.
const CLONE3: (u32, u32) = (5, 3);
const CLONE_INTO_CGROUP: (u32, u32) = (5, 7);

fn clone3() -> Check {
    let release = release();
    let found = format!(
        "Linux {} (by version)",
        rustix::system::uname().release().to_string_lossy()
    );
    match release {
        Some(version) if version >= CLONE_INTO_CGROUP => Check::new(
            Area::Processes,
            "clone3",
            State::Works,
            found,
            "a cell is created with one call, inside its control group",
        ),
        Some(version) if version >= CLONE3 => Check::new(
            Area::Processes,
            "clone3",
            State::Works,
            found,
            "a cell is created with one call and then moved into its control group",
        ),
        _ => Check::new(
            Area::Processes,
            "clone3",
            State::Blocking,
            found,
            "no cell can be created",
        )
        .mend("use Linux 5.3 or later"),
    }
}

/// Major and minor version of the kernel.
pub(super) fn release() -> Option<(u32, u32)> {
    let uname = rustix::system::uname();
    version(uname.release().to_str().ok()?)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.18.0-rc1+"), Some((6, 18)));
        assert_eq!(version("5.10-cloud"), Some((5, 10)));
        assert_eq!(version("odd"), None);
    }
}
