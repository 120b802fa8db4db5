//! What a reader must know to judge the numbers.

use std::path::Path;
use std::process::Command;

use super::options::Options;
use crate::process;

/// The conditions of this run as a Markdown list.
pub(crate) fn describe(options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let user = if process::is_root() {
        "root"
    } else {
        "an unprivileged user"
    };
    let facts = [
        (
            "kernel",
            first_line(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        ),
        (
            "processor",
            processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        ),
        ("cores", cores.to_string()),
        (
            "load before",
            first_line(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        ),
        ("run as", user.to_owned()),
        (
            "cgroups",
            cgroup_layout(Path::new("/sys/fs/cgroup")).to_owned(),
        ),
        ("bubblewrap", version("bwrap")),
        ("crun", version("crun")),
        (
            "rounds",
            format!(
                "{} after {} that do not count; each round runs every program once",
                options.rounds, options.warm_up
            ),
        ),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        text.push_str("- ");
        text.push_str(name);
        text.push_str(": ");
        text.push_str(&value);
        text.push('\n');
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

fn processor(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

fn version(program: &str) -> String {
    match Command::new(program).arg("--version").output() {
        Ok(output) => first_line(&String::from_utf8_lossy(&output.stdout)),
        Err(_) => "not installed".to_owned(),
    }
}

/// cgroups(7): a pure v2 tree has its controllers file at the top, a hybrid one has a v2 tree
/// beside those of v1.
fn cgroup_layout(root: &Path) -> &'static str {
    if root.join("cgroup.controllers").exists() {
        "v2"
    } else if root.join("unified/cgroup.controllers").exists() {
        "hybrid (controllers in v1, a v2 tree beside them)"
    } else if root.join("memory").exists() {
        "v1"
    } else {
        "none"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_cgroup_layouts_apart() {
        let cases = [
            ("cgroup.controllers", "v2"),
            (
                "unified/cgroup.controllers",
                "hybrid (controllers in v1, a v2 tree beside them)",
            ),
            ("memory/tasks", "v1"),
            ("other", "none"),
        ];
        for (file, layout) in cases {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
            assert_eq!(cgroup_layout(root.path()), layout, "{file}");
        }
    }

    #[test]
    fn reads_the_processor_of_cpuinfo() {
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: A Chip @ 3GHz\n"),
            "A Chip @ 3GHz"
        );
        assert_eq!(processor(""), "unknown");
    }
}
