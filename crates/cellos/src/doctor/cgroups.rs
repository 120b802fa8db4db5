//! Control groups: which interface the host has and which limits it can enforce for us.

use super::{Area, Check, State, read};

/// Controllers that limits need.
const CONTROLLERS: [(&str, &str); 3] = [
    ("memory", "run.limits.memoryMaxBytes"),
    ("cpu", "run.limits.cpuMax"),
    ("pids", "run.limits.pidsMax"),
];

pub(super) fn checks() -> Vec<Check> {
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let layout = Layout::of(&mounts);
    let mut checks = vec![interface(layout)];
    let v2_controllers = read("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    for (controller, field) in CONTROLLERS {
        let name = format!("{controller} controller");
        let there = match layout {
            Layout::Version2 => v2_controllers
                .split_whitespace()
                .any(|word| word == controller),
            Layout::Version1 | Layout::Hybrid => has_version_1(&mounts, controller),
            Layout::None => false,
        };
        checks.push(if there {
            Check::new(
                Area::ControlGroups,
                name,
                State::Works,
                layout.name(),
                format!("{field} can be enforced where a group may be made"),
            )
        } else {
            Check::new(
                Area::ControlGroups,
                name,
                State::Missing,
                "not there",
                format!("a document with {field} is refused"),
            )
            .mend("mount the control group file system with this controller")
        });
    }
    checks
}

/// Which interfaces are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Version2,
    Hybrid,
    Version1,
    None,
}

impl Layout {
    fn of(mountinfo: &str) -> Self {
        let has = |kind: &str| {
            mountinfo
                .lines()
                .any(|line| file_system(line) == Some(kind))
        };
        match (has("cgroup2"), has("cgroup")) {
            (true, false) => Self::Version2,
            (true, true) => Self::Hybrid,
            (false, true) => Self::Version1,
            (false, false) => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Version2 => "cgroup v2",
            Self::Hybrid => "cgroup v1 beside v2",
            Self::Version1 => "cgroup v1",
            Self::None => "none mounted",
        }
    }
}

/// The type field of a line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
fn file_system(line: &str) -> Option<&str> {
    line.split_once(" - ")?.1.split(' ').next()
}

fn has_version_1(mountinfo: &str, controller: &str) -> bool {
    mountinfo
        .lines()
        .filter(|line| file_system(line) == Some("cgroup"))
        .filter_map(|line| line.rsplit(' ').next())
        .any(|options| options.split(',').any(|option| option == controller))
}

fn interface(layout: Layout) -> Check {
    let check = |state, meaning| {
        Check::new(
            Area::ControlGroups,
            "interface",
            state,
            layout.name(),
            meaning,
        )
    };
    match layout {
        Layout::Version2 => check(
            State::Works,
            "limits, kills and figures for each cell as a whole",
        ),
        Layout::Hybrid | Layout::Version1 => check(
            State::Works,
            "limits by v1; some figures that only v2 has are missing from the evidence",
        ),
        Layout::None => check(State::Missing, "a document with limits is refused")
            .mend("mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        30 24 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
        31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn interfaces_are_told_apart_by_what_is_mounted() {
        assert_eq!(Layout::of(HYBRID), Layout::Hybrid);
        assert_eq!(
            Layout::of("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n"),
            Layout::Version2
        );
        assert_eq!(
            Layout::of("1 0 0:1 / /proc rw - proc proc rw\n"),
            Layout::None
        );
    }

    #[test]
    fn version_1_controllers_are_in_the_mount_options() {
        assert!(has_version_1(HYBRID, "memory"));
        assert!(has_version_1(HYBRID, "cpu"));
        assert!(!has_version_1(HYBRID, "pids"));
    }
}
