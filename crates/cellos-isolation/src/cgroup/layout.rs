//! Which cgroup hierarchies are mounted, and which cgroup is ours in each.

use std::path::{Component, Path, PathBuf};

use super::{Controller, Version};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Limits that a v1 hierarchy enforces. v2 says so per cgroup, in `cgroup.controllers`.
    pub(super) controllers: Vec<Controller>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Directory of our own cgroup; `None` when the mount does not show it.
    pub(super) own: Option<PathBuf>,
}

/// Reads `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo` (`cgroups(7)`, `proc_pid_mountinfo(5)`).
/// Keeps the v2 hierarchy and the v1 hierarchies that enforce limits.
pub(super) fn parse(own_cgroups: &str, mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mountinfo.lines().filter_map(Mount::parse) {
        let controllers = mount.controllers();
        if mount.version == Version::V1 && controllers.is_empty() {
            continue;
        }
        let own = own_path(own_cgroups, mount.version, &controllers)
            .and_then(|path| beneath_mount(&path, &mount));
        let hierarchy = Hierarchy {
            version: mount.version,
            controllers,
            mount: mount.point,
            own,
        };
        // The same hierarchy may be mounted twice; the first that shows our own cgroup is used.
        let same = |other: &&mut Hierarchy| {
            other.version == hierarchy.version && other.controllers == hierarchy.controllers
        };
        match found.iter_mut().find(same) {
            Some(earlier) if earlier.own.is_none() && hierarchy.own.is_some() => {
                *earlier = hierarchy;
            }
            Some(_) => {}
            None => found.push(hierarchy),
        }
    }
    found
}

struct Mount<'a> {
    version: Version,
    /// Cgroup that the mount shows as its root.
    root: PathBuf,
    point: PathBuf,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let version = match back.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let _source = back.next()?;
        let super_options = back.next().unwrap_or_default();
        let mut front = front.split(' ').skip(3);
        let root = PathBuf::from(unescape(front.next()?));
        let point = PathBuf::from(unescape(front.next()?));
        Some(Self {
            version,
            root,
            point,
            super_options,
        })
    }

    fn controllers(&self) -> Vec<Controller> {
        if self.version == Version::V2 {
            return Vec::new();
        }
        let listed = |c: &Controller| self.super_options.split(',').any(|o| o == c.name());
        Controller::ALL.into_iter().filter(listed).collect()
    }
}

/// Path of our own cgroup in a hierarchy, from the cgroup namespace's root.
pub(super) fn own_path(
    own_cgroups: &str,
    version: Version,
    controllers: &[Controller],
) -> Option<PathBuf> {
    own_cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match version {
            Version::V2 => number == "0" && names.is_empty(),
            Version::V1 => controllers
                .iter()
                .all(|c| names.split(',').any(|n| n == c.name())),
        };
        matches.then(|| PathBuf::from(path))
    })
}

fn beneath_mount(own: &Path, mount: &Mount<'_>) -> Option<PathBuf> {
    let upward = |path: &Path| path.components().any(|c| c == Component::ParentDir);
    if upward(own) || upward(&mount.root) {
        // Outside the cgroup namespace's root: no mount in here shows it.
        return None;
    }
    let relative = own.strip_prefix(&mount.root).ok()?;
    Some(if relative.as_os_str().is_empty() {
        mount.point.clone()
    } else {
        mount.point.join(relative)
    })
}

/// Undoes the octal escapes of mountinfo (`\040` for a space).
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                text.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_one_hierarchy_per_controller() {
        let cgroups = "5:pids:/\n4:memory:/box/a\n2:cpu,cpuacct:/x\n9:name=systemd:/\n0::/u\n";
        let mounts = "\
30 29 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 29 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 29 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 29 0:31 / /proc rw - proc proc rw
";
        let found = parse(cgroups, mounts);
        let view: Vec<_> = found
            .iter()
            .map(|h| (h.version, h.own.as_deref().unwrap().to_str().unwrap()))
            .collect();
        assert_eq!(
            view,
            [
                (Version::V1, "/sys/fs/cgroup/memory/box/a"),
                (Version::V1, "/sys/fs/cgroup/cpu,cpuacct/x"),
                (Version::V1, "/sys/fs/cgroup/pids"),
                (Version::V2, "/sys/fs/cgroup/unified/u"),
            ]
        );
    }

    #[test]
    fn a_container_without_a_cgroup_namespace_sees_its_part_of_the_tree() {
        let found = parse(
            "0::/docker/abc/inner\n",
            "1 2 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        );
        assert_eq!(
            found[0].own.as_deref(),
            Some(Path::new("/sys/fs/cgroup/inner"))
        );
    }

    #[test]
    fn an_own_cgroup_that_no_mount_shows_is_absent() {
        for (cgroups, mounts) in [
            (
                "0::/../other\n",
                "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            ),
            (
                "0::/a\n",
                "1 2 0:3 /b /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            ),
            (
                "0::/\n",
                "1 2 0:3 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            ),
            ("", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
        ] {
            assert_eq!(parse(cgroups, mounts)[0].own, None, "{cgroups}{mounts}");
        }
    }

    #[test]
    fn of_two_mounts_the_one_that_shows_our_cgroup_is_used() {
        let mounts = "\
1 2 0:3 /b /elsewhere rw - cgroup2 cgroup rw
1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup rw
";
        let found = parse("0::/a\n", mounts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].own.as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
    }

    #[test]
    fn escaped_and_broken_lines_do_not_confuse() {
        let mounts = "garbage\n1 2 - cgroup2\n1 2 0:3 / /a\\040b\\134 rw - cgroup2 cgroup rw\n";
        let found = parse("garbage\n0::/\n", mounts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mount, Path::new("/a b\\"));
    }
}
