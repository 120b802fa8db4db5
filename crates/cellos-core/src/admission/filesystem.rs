//! `authority.filesystem`, and paths in general.

use std::collections::HashSet;

use super::{report::Report, shown};
use crate::{document::FilesystemAuthority, source::ProblemCode};

/// Most mounts of one cell; each costs a system call at every start.
pub const MAX_MOUNTS: usize = 64;
/// Longest path, in bytes: `PATH_MAX` of Linux without the closing NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// Places inside a cell that are made by the cell itself.
const RESERVED_TARGETS: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Why no path of a document may look like this; nothing when it may.
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    if path.contains('\0') {
        Some("contains a NUL byte")
    } else if path.len() > MAX_PATH_BYTES {
        Some("is longer than a path can be")
    } else if path.split('/').any(|part| part == "..") {
        Some("contains a `..` part")
    } else {
        None
    }
}

/// Why a path is not absolute and normalised; nothing when it is.
fn absolute_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("is empty");
    }
    let Some(parts) = path.strip_prefix('/') else {
        return Some("is relative");
    };
    if let Some(fault) = path_fault(path) {
        return Some(fault);
    }
    if !parts.is_empty() && parts.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("has an empty or `.` part");
    }
    None
}

pub(super) fn check(filesystem: &FilesystemAuthority, report: &mut Report) {
    let list = "spec.authority.filesystem.mounts";
    if filesystem.mounts.len() > MAX_MOUNTS {
        let message = format!(
            "has {} mounts, at most {MAX_MOUNTS} are made",
            filesystem.mounts.len()
        );
        report.refuse(ProblemCode::TooMany, list, message);
    }
    let mut targets = HashSet::new();
    for (index, mount) in filesystem.mounts.iter().enumerate() {
        for (field, path) in [("source", &mount.source), ("target", &mount.target)] {
            if let Some(fault) = absolute_fault(path) {
                let path = format!("{list}[{index}].{field}");
                let mend = "write an absolute path without `.`, `..` and doubled slashes";
                report.refuse_with(ProblemCode::InvalidPath, path, fault, mend);
            }
        }
        let path = || format!("{list}[{index}].target");
        let target = mount.target.as_str();
        let reserved = RESERVED_TARGETS.iter().find(|reserved| {
            target
                .strip_prefix(**reserved)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if target == "/" {
            let mend = "mount the folders that are needed; the root is the cell's own";
            report.refuse_with(ProblemCode::InvalidPath, path(), "is the cell's root", mend);
        } else if let Some(reserved) = reserved {
            let message = format!("lies in {reserved}, which the cell makes itself");
            report.refuse(ProblemCode::InvalidPath, path(), message);
        }
        if !targets.insert(target) {
            let message = format!("duplicates value `{}`", shown(target));
            report.refuse(ProblemCode::Duplicate, path(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn mounts(mounts: Value) -> Value {
        json!({"authority": {"filesystem": {"mounts": mounts}}})
    }

    #[test]
    fn mounts_are_absolute_and_normalised() {
        admitted(mounts(json!([])));
        admitted(json!({"authority": {"filesystem": {}}}));
        admitted(mounts(json!([
            {"source": "/", "target": "/host", "access": "ro"},
            {"source": "/srv/x", "target": "/work", "access": "rw"},
            {"source": "/srv/x", "target": "/work/sub", "access": "ro"},
            {"source": "/proc/cpuinfo", "target": "/processes", "access": "ro"},
        ])));
        for bad in [
            "", "a", "./a", "/a/../b", "/a/./b", "/a//b", "/a/", "/a\0", "//", "/..",
        ] {
            let path = "spec.authority.filesystem.mounts[0].source";
            let mount = json!([{"source": bad, "target": "/t", "access": "ro"}]);
            refused(mounts(mount), path, ProblemCode::InvalidPath);
            let path = "spec.authority.filesystem.mounts[0].target";
            let mount = json!([{"source": "/s", "target": bad, "access": "ro"}]);
            refused(mounts(mount), path, ProblemCode::InvalidPath);
        }
    }

    #[test]
    fn targets_are_not_the_cells_own_places() {
        for bad in [
            "/",
            "/proc",
            "/proc/self",
            "/dev",
            "/dev/shm",
            "/sys",
            "/sys/fs/cgroup",
        ] {
            let path = "spec.authority.filesystem.mounts[0].target";
            let mount = json!([{"source": "/s", "target": bad, "access": "ro"}]);
            refused(mounts(mount), path, ProblemCode::InvalidPath);
        }
    }

    #[test]
    fn targets_are_unique_and_bounded() {
        let same = json!([
            {"source": "/a", "target": "/t", "access": "ro"},
            {"source": "/b", "target": "/t", "access": "rw"},
        ]);
        refused(
            mounts(same),
            "spec.authority.filesystem.mounts[1].target",
            ProblemCode::Duplicate,
        );
        let many = |count: usize| -> Value {
            (0..count)
                .map(
                    |index| json!({"source": "/s", "target": format!("/t{index}"), "access": "ro"}),
                )
                .collect()
        };
        admitted(mounts(many(MAX_MOUNTS)));
        refused(
            mounts(many(MAX_MOUNTS + 1)),
            "spec.authority.filesystem.mounts",
            ProblemCode::TooMany,
        );
    }
}
