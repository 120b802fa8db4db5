//! An OCI bundle whose container is isolated as the other contenders' processes are.
//!
//! Form: OCI runtime specification 1.0, config.md and config-linux.md.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::TaskError;
use crate::workspace;

/// Names at the root of a merged-/usr system, and where they lead.
const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

/// Writes `config.json` and an empty root file system into `folder`.
pub(crate) fn prepare(folder: &Path, argv: &[&str]) -> Result<(), TaskError> {
    let root = folder.join("rootfs");
    for name in ["usr", "proc", "dev", "tmp"] {
        workspace::make_folder(&root.join(name))?;
    }
    for (name, target) in LINKS {
        let link = root.join(name);
        symlink(target, &link).map_err(TaskError::file("create", &link))?;
    }
    workspace::write(
        &folder.join("config.json"),
        &configuration(argv).to_string(),
    )
}

fn configuration(argv: &[&str]) -> Value {
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": argv,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": none, "effective": none, "inheritable": none,
                "permitted": none, "ambient": none,
            },
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "cell",
        "mounts": [
            { "destination": "/usr", "type": "none", "source": "/usr",
              "options": ["bind", "ro", "nosuid", "nodev"] },
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "mode=755", "size=64k"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "nodev"] },
        ],
        "linux": {
            // A network namespace without a path is a new one with nothing but a loopback device.
            "namespaces": [
                { "type": "user" }, { "type": "mount" }, { "type": "pid" }, { "type": "network" },
                { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
            ],
            "uidMappings": [{ "containerID": 0, "hostID": 0, "size": 1 }],
            "gidMappings": [{ "containerID": 0, "hostID": 0, "size": 1 }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_holds_the_command_and_links_into_usr() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &["/usr/bin/true"]).unwrap();
        let config = workspace::read(&folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["process"]["args"], json!(["/usr/bin/true"]));
        let link = std::fs::read_link(folder.path().join("rootfs/lib64")).unwrap();
        assert_eq!(link, Path::new("usr/lib64"));
    }
}
