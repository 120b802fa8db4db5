//! The Debian packages that tests and benchmarks need, each with its reason.

use std::path::Path;
use std::process::Command;

use crate::error::TaskError;
use crate::process;

/// One package, and how to see without asking a package manager that it is there.
struct Package {
    name: &'static str,
    /// A file that it brings.
    probe: &'static str,
    reason: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        probe: "/usr/bin/cc",
        reason: "links every Rust program",
    },
    Package {
        name: "libc6-dev",
        probe: "/usr/include/stdio.h",
        reason: "what programs are linked with",
    },
    Package {
        name: "git",
        probe: "/usr/bin/git",
        reason: "lists the files of the checkout for the rootless half; a client in cells",
    },
    Package {
        name: "python3",
        probe: "/usr/bin/python3",
        reason: "a workload of tests, examples and benchmarks; a cell sees only /usr",
    },
    Package {
        name: "python3-venv",
        probe: "/usr/share/doc/python3-venv",
        reason: "makes the environment of the packages that tests check our formats with",
    },
    Package {
        name: "python3-pip",
        probe: "/usr/lib/python3/dist-packages/pip",
        reason: "a client in cells, with a network",
    },
    Package {
        name: "curl",
        probe: "/usr/bin/curl",
        reason: "a client in cells, with a network",
    },
    Package {
        name: "openssl",
        probe: "/usr/bin/openssl",
        reason: "a client in cells, with a network",
    },
    Package {
        name: "nodejs",
        probe: "/usr/bin/node",
        reason: "a client in cells, and a server of HTTP/2 for one",
    },
    Package {
        name: "npm",
        probe: "/usr/bin/npm",
        reason: "a client in cells, with a network",
    },
    Package {
        name: "postgresql",
        probe: "/usr/lib/postgresql",
        reason: "a server for a client in cells",
    },
    Package {
        name: "postgresql-client",
        probe: "/usr/bin/psql",
        reason: "a client in cells, with a network",
    },
    Package {
        name: "bubblewrap",
        probe: "/usr/bin/bwrap",
        reason: "what the benchmark and the break-out tests compare with",
    },
    Package {
        name: "crun",
        probe: "/usr/bin/crun",
        reason: "what the benchmark compares with",
    },
    Package {
        name: "slirp4netns",
        probe: "/usr/bin/slirp4netns",
        reason: "what the benchmark compares a cell's network with",
    },
    Package {
        name: "nftables",
        probe: "/usr/sbin/nft",
        reason: "translates addresses in the network that the benchmark compares with",
    },
    Package {
        name: "iproute2",
        probe: "/usr/share/doc/iproute2",
        reason: "attaches the namespaces that the benchmark compares with",
    },
    Package {
        name: "qemu-system-x86",
        probe: "/usr/bin/qemu-system-x86_64",
        reason: "boots microVMs where the host cannot, by emulation",
    },
    Package {
        name: "softhsm2",
        probe: "/usr/bin/softhsm2-util",
        reason: "a token in software, for the keys that lie in tokens",
    },
    Package {
        name: "util-linux",
        probe: "/usr/bin/unshare",
        reason: "gives crun a mount namespace in which it accepts a hybrid cgroup layout",
    },
    Package {
        name: "passwd",
        probe: "/usr/sbin/useradd",
        reason: "makes the unprivileged user of the rootless half",
    },
];

/// Installs what is missing; where that cannot be done, the error names all of it.
pub(crate) fn ensure() -> Result<String, TaskError> {
    let missing = missing(PACKAGES, |probe| Path::new(probe).exists());
    if missing.is_empty() {
        return Ok(format!("all {} there", PACKAGES.len()));
    }
    for package in &missing {
        eprintln!("missing: {} ({})", package.name, package.reason);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !process::is_root() || process::find("apt-get").is_none() {
        return Err(TaskError::Broken(vec![format!(
            "Debian packages are missing and only root can install them: apt-get install {}",
            names.join(" ")
        )]));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt().args(["update", "--quiet=2"]))?;
    process::run(
        apt()
            .args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
            .args(&names),
    )?;
    Ok(format!("installed {}", names.join(", ")))
}

fn missing(packages: &'static [Package], exists: impl Fn(&str) -> bool) -> Vec<&'static Package> {
    packages
        .iter()
        .filter(|package| !exists(package.probe))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_whose_file_is_absent_are_missing() {
        let names: Vec<_> = missing(PACKAGES, |probe| probe != "/usr/bin/bwrap")
            .iter()
            .map(|package| package.name)
            .collect();
        assert_eq!(names, ["bubblewrap"]);
    }
}
