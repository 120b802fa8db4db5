//! What the mount tree of a cell is made with.

use super::{Area, Check, State, process, read};

/// The first kernel with idmapped mounts.
const IDMAPPED: (u32, u32) = (5, 12);

pub(super) fn checks() -> Vec<Check> {
    vec![proc_visible(), idmapped(), overlay()]
}

/// A kernel lets a user namespace mount `/proc` only where nothing of the host's is covered up
/// (`mount_too_revealing` in fs/namespace.c).
fn proc_visible() -> Check {
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let covered: Vec<&str> = covered_parts(&mounts).collect();
    if covered.is_empty() {
        Check::new(
            Area::Mounts,
            "/proc",
            State::Works,
            "fully visible",
            "each cell mounts a /proc of its own",
        )
    } else {
        Check::new(
            Area::Mounts,
            "/proc",
            State::Blocking,
            format!("covered in part: {}", covered.join(", ")),
            "the kernel does not let a cell have a /proc of its own",
        )
        .mend("run outside the container, or let it see all of /proc (docker: --security-opt systempaths=unconfined)")
    }
}

/// Mount points below `/proc` that are not empty directories made for mounts.
fn covered_parts(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| {
            point.starts_with("/proc/") && !point.starts_with("/proc/sys/fs/binfmt_misc")
        })
}

fn idmapped() -> Check {
    match process::release() {
        Some(version) if version >= IDMAPPED => Check::new(
            Area::Mounts,
            "idmapped mounts",
            State::Works,
            "by version of the kernel; the file system must have them too",
            "a mounted folder's files belong to the cell's user, for root",
        ),
        _ => Check::new(
            Area::Mounts,
            "idmapped mounts",
            State::Missing,
            "not in this kernel",
            "a mounted folder keeps its owners' numbers",
        )
        .mend("use Linux 5.12 or later"),
    }
}

fn overlay() -> Check {
    let known = read("/proc/filesystems")
        .unwrap_or_default()
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"));
    if known {
        Check::new(
            Area::Mounts,
            "overlayfs",
            State::Works,
            "in this kernel",
            "images can be stacked without copies",
        )
    } else {
        Check::new(
            Area::Mounts,
            "overlayfs",
            State::Info,
            "not loaded",
            "only images need it",
        )
        .mend("modprobe overlay")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containers_cover_up_in_proc_is_found() {
        let mounts = "1 0 0:1 / /proc rw - proc proc rw\n\
                      2 1 0:2 / /proc/kcore rw - tmpfs tmpfs rw\n\
                      3 1 0:3 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n";
        assert_eq!(covered_parts(mounts).collect::<Vec<_>>(), ["/proc/kcore"]);
    }
}
