//! The jailer: what it refuses, what the jail looks like, what runs in it. Everything that mounts is
//! behind `unshare`, in user, mount and network namespaces that go away with the test.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use cellos_testkit::require;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Vmm, accept, alive, eventually, guest, line, program};

/// What `unshare` is asked for: nothing that is done behind it reaches the host's mounts. Without a
/// fork, so that the VMM is the test's own child and is killed with it.
const NAMESPACES: [&str; 3] = ["-Urmn", "--propagation", "private"];

/// Staged files, as an operator does it, and the jailer's arguments.
struct Jail {
    folder: TempDir,
    root: PathBuf,
    arguments: Vec<String>,
}

impl Jail {
    fn new(guest_arguments: &[&str], uid: u32, more: &[&str], rest: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let exec_file = program("fake-firecracker");
        let root = folder.path().join("fake-firecracker/vm-1/root");
        fs::create_dir_all(&root).unwrap();
        fs::copy(guest(), root.join("guest")).unwrap();
        let settings = json!({ "guest": { "program": "/guest", "arguments": guest_arguments } });
        fs::write(root.join("fake-vmm.json"), settings.to_string()).unwrap();
        for name in ["kernel", "rootfs"] {
            fs::write(root.join(name), "cellos fake image").unwrap();
        }
        let (uid, base) = (uid.to_string(), folder.path().to_str().unwrap().to_owned());
        let mut arguments = vec!["--id", "vm-1", "--exec-file", exec_file.to_str().unwrap()];
        arguments.extend(["--uid", &uid, "--gid", &uid, "--chroot-base-dir", &base]);
        arguments.extend(more);
        arguments.extend(["--", "--api-sock", "/api.sock"]);
        arguments.extend(rest);
        Self {
            root,
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            folder,
        }
    }

    /// The jailer behind `unshare`.
    fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(NAMESPACES)
            .arg(program("fake-jailer"))
            .args(&self.arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `command` and waits for the VMM's socket.
    fn start(self, mut command: Command) -> Vmm {
        for stream in ["stdout", "stderr"] {
            let file = fs::File::create(self.folder.path().join(stream)).unwrap();
            match stream {
                "stdout" => command.stdout(file),
                _ => command.stderr(file),
            };
        }
        let mut child = command.spawn().unwrap();
        let socket = self.root.join("api.sock");
        eventually("the API socket in the jail", || {
            let ended = child
                .try_wait()
                .unwrap()
                .is_some_and(|status| !status.success());
            let errors = fs::read_to_string(self.folder.path().join("stderr")).unwrap();
            assert!(!ended, "the jailer ended: {errors}");
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Vmm {
            folder: self.folder,
            root: self.root,
            child,
        }
    }
}

#[test]
fn arguments_are_checked() {
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("other-program");
    fs::copy("/bin/true", &other).unwrap();
    let firecracker = program("fake-firecracker");
    let base = folder.path().to_str().unwrap();
    let good = [
        ("--id", "vm-1"),
        ("--exec-file", firecracker.to_str().unwrap()),
        ("--uid", "0"),
        ("--gid", "0"),
        ("--chroot-base-dir", base),
    ];
    for (name, value, part) in [
        ("--id", Some("a_b"), "id"),
        ("--id", None, "required argument missing"),
        ("--exec-file", Some("/missing/firecracker"), "exec-file"),
        ("--exec-file", other.to_str(), "firecracker"),
        ("--uid", Some("-1"), "uid"),
        ("--uid", None, "uid"),
        ("--gid", Some("users"), "gid"),
        ("--chroot-base-dir", Some("/missing"), "chroot-base-dir"),
        ("--cgroup-version", Some("3"), "cgroup-version"),
        ("--cgroup", Some("memory.max"), "cgroup"),
        ("--cgroup", Some("../memory.max=1"), "cgroup"),
        ("--parent-cgroup", Some("/all"), "parent-cgroup"),
        ("--parent-cgroup", Some("a/../.."), "parent-cgroup"),
        ("--resource-limit", Some("cpu=1"), "resource-limit"),
        ("--resource-limit", Some("fsize=much"), "resource-limit"),
        ("--node", Some("0"), "wasn't expected"),
    ] {
        let mut command = Command::new(program("fake-jailer"));
        for (known, value) in good.iter().filter(|(known, _)| *known != name) {
            command.args([known, value]);
        }
        if let Some(value) = value {
            command.args([name, value]);
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name} {value:?}");
        assert!(errors.contains(part), "{name} {value:?}: {errors}");
    }
    assert!(!folder.path().join("fake-firecracker").exists());
}

#[test]
fn a_machine_runs_in_the_jail() {
    require!("userns");
    let jail = Jail::new(&["report", "9000"], 0, &[], &["--level", "Error"]);
    // A descriptor and a variable that must not get in.
    let mut command = jail.command();
    command.env("SECRET", "s");
    let mut vmm = jail.start(command);
    assert_eq!(vmm.get("/")["id"], "vm-1");
    // Paths are the jail's.
    let host_path = vmm.path("kernel");
    vmm.refused(
        "PUT",
        "/boot-source",
        json!({ "kernel_image_path": host_path }),
    );
    vmm.put("/boot-source", json!({ "kernel_image_path": "/kernel" }));
    vmm.put("/vsock", json!({ "guest_cid": 3, "uds_path": "/v.sock" }));
    let listener = vmm.host_port(9_000);
    vmm.action("InstanceStart");
    let stream = accept(&listener);
    let report: Value = serde_json::from_str(&line(&stream)).unwrap();
    assert_eq!(report["boot"], "cold");
    let pid = vmm_process(report["pid"].as_u64().unwrap());
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(file("environ"), b"");
    let words = String::from_utf8(file("cmdline")).unwrap();
    let words: Vec<_> = words.split('\0').collect();
    assert_eq!(words[..3], ["/fake-firecracker", "--id", "vm-1"]);
    assert!(words.contains(&"--start-time-us") && words.ends_with(&["--level", "Error", ""]));
    // pivot_root: nothing else is mounted.
    let mounts = String::from_utf8(file("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let limits = String::from_utf8(file("limits")).unwrap();
    let open_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    assert!(open_files.unwrap().contains("2048"), "{limits}");
    drop(stream);
    eventually("the end", || vmm.child.try_wait().unwrap().is_some());
}

#[test]
fn the_jail_is_laid_out_as_documented() {
    require!("userns");
    let jail = Jail::new(&[], 0, &["--resource-limit", "no-file=64"], &[]);
    let command = jail.command();
    let vmm = jail.start(command);
    assert_eq!(
        fs::read(vmm.path("fake-firecracker")).unwrap(),
        fs::read(program("fake-firecracker")).unwrap()
    );
    for folder in ["", "dev", "dev/net", "run"] {
        assert!(vmm.path(folder).is_dir(), "{folder}");
    }
    for device in ["dev/net/tun", "dev/kvm", "dev/urandom"] {
        let kind = fs::symlink_metadata(vmm.path(device)).unwrap().file_type();
        // In a user namespace a file stands in for it.
        assert!(kind.is_char_device() || kind.is_file(), "{device}");
    }
    assert!(!vmm.path("old_root").exists());
}

#[test]
fn a_jail_that_was_not_removed_is_refused() {
    require!("userns");
    let jail = Jail::new(&[], 0, &[], &["--version"]);
    let first = jail.command().output().unwrap();
    assert!(String::from_utf8_lossy(&first.stdout).starts_with("Firecracker v1.16.1\n"));
    let second = jail.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let errors = String::from_utf8(second.stderr).unwrap();
    assert!(
        errors.contains("/dev/net/tun") && errors.contains("exists"),
        "{errors}"
    );
}

#[test]
fn a_new_pid_namespace_leaves_a_pid_file_and_ends_the_jailer() {
    require!("userns");
    let jail = Jail::new(
        &["sleep", "60000"],
        0,
        &["--new-pid-ns", "--daemonize"],
        &[],
    );
    let command = jail.command();
    let mut vmm = jail.start(command);
    assert_eq!(vmm.ended().code(), Some(0), "{}", vmm_errors(&vmm));
    let pid: u64 = vmm.text("fake-firecracker.pid").parse().unwrap();
    let machine = Orphan(pid);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let inside = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    assert!(inside.ends_with("\t1"), "{inside}");
    let output = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
    // Its mount is not in the jail, so the name is not the whole path.
    assert!(output.ends_with("null"), "{}", output.display());
    vmm.put("/boot-source", json!({ "kernel_image_path": "/kernel" }));
    vmm.action("InstanceStart");
    let guest = children(pid)[0];
    drop(machine);
    eventually("the machine's end", || !alive(pid) && !alive(guest));
}

#[test]
fn a_program_that_is_not_root_gets_no_jail() {
    require!("userns");
    let jail = Jail::new(&[], 0, &[], &[]);
    let output = Command::new("unshare")
        .arg("-U")
        .arg(program("fake-jailer"))
        .args(&jail.arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("must be run as root"));
}

#[test]
fn a_missing_network_namespace_is_an_error() {
    require!("userns");
    let jail = Jail::new(&[], 0, &["--netns", "/run/netns/none-such"], &[]);
    let output = jail.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("none-such"));
}

/// Needs root on the host: several users in one user namespace, and control groups.
mod as_root {
    use std::io::Write;

    use super::*;

    /// The jailer in a user namespace where every id is itself.
    fn command(jail: &Jail) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "-U",
                "sh",
                "-c",
                r#"read -r _ && exec unshare -mn --propagation private "$@""#,
            ])
            .arg("sh")
            .arg(program("fake-jailer"))
            .args(&jail.arguments)
            .stdin(Stdio::piped());
        command
    }

    /// Gives the namespace of a child its users, then lets it go on.
    fn map(child: &mut std::process::Child) {
        let pid = child.id();
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        eventually("the user namespace", || {
            fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() != own
        });
        for name in ["gid_map", "uid_map"] {
            fs::write(format!("/proc/{pid}/{name}"), "0 0 65536").unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    #[test]
    fn the_machine_runs_as_its_user() {
        require!("root");
        require!("userns");
        let jail = Jail::new(&["report", "9000"], 10_002, &[], &[]);
        let (root, folder) = (jail.root.clone(), jail.folder);
        // The temporary folder is its owner's only; the jailed user passes through it.
        let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        fs::set_permissions(folder.path(), permissions).unwrap();
        let jail = Jail { folder, ..jail };
        let mut command = command(&jail);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        map(&mut child);
        let vmm = Vmm {
            folder: jail.folder,
            root,
            child,
        };
        eventually("the API socket in the jail", || {
            std::os::unix::net::UnixStream::connect(vmm.path("api.sock")).is_ok()
        });
        for name in ["", "run", "dev/kvm", "api.sock"] {
            let owner = fs::metadata(vmm.path(name)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (10_002, 10_002), "{name}");
        }
        // A listener that only root may reach is not for the machine's user.
        vmm.put("/boot-source", json!({ "kernel_image_path": "/kernel" }));
        vmm.put("/vsock", json!({ "guest_cid": 3, "uds_path": "/v.sock" }));
        let listener = vmm.host_port(9_000);
        std::os::unix::fs::chown(vmm.path("v.sock_9000"), Some(10_002), Some(10_002)).unwrap();
        vmm.action("InstanceStart");
        let stream = accept(&listener);
        let report: Value = serde_json::from_str(&line(&stream)).unwrap();
        let pid = report["pid"].as_u64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for field in [
            "Uid:\t10002\t10002\t10002\t10002",
            "CapEff:\t0000000000000000",
        ] {
            assert!(status.contains(field), "{status}");
        }
    }

    #[test]
    fn control_groups_are_made_and_joined() {
        require!("root");
        require!("cgroups");
        require!("userns");
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let v1 = mounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let memory = fields[2] == "cgroup" && fields[3].split(',').any(|o| o == "memory");
            memory.then(|| PathBuf::from(fields[1]))
        });
        let (version, value, mount) = match v1 {
            Some(mount) => ("1", "memory.limit_in_bytes=268435456", mount),
            None => ("2", "memory.max=268435456", "/sys/fs/cgroup".into()),
        };
        let parent = format!("cellos-fake-jailer-{}", std::process::id());
        let more = [
            "--cgroup-version",
            version,
            "--cgroup",
            value,
            "--parent-cgroup",
            &parent,
        ];
        let jail = Jail::new(&["report", "9000"], 0, &more, &[]);
        let command = jail.command();
        let vmm = jail.start(command);
        let group = Group(mount.join(&parent).join("vm-1"));
        let members = fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
        let (file, limit) = value.split_once('=').unwrap();
        assert_eq!(
            fs::read_to_string(group.0.join(file)).unwrap().trim(),
            limit
        );
        let pid: u64 = members.trim().parse().unwrap();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name.trim(), "fake-firecracke");
        drop(vmm);
        eventually("the machine's end", || !alive(pid));
        // The jailer leaves the group to the operator, as the real one does.
        assert!(group.0.exists());
        let path = group.0.clone();
        drop(group);
        assert!(!path.exists());
    }

    /// A machine's group, removed with its parent, also where the test fails.
    struct Group(PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            for _ in 0..1_000 {
                // Busy until the kernel has let go of the last process.
                if fs::remove_dir(&self.0).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let _ = fs::remove_dir(self.0.parent().unwrap());
        }
    }

    #[test]
    fn a_value_that_the_kernel_refuses_fails_the_jail() {
        require!("root");
        require!("userns");
        let jail = Jail::new(&[], 0, &["--cgroup", "nothing.such=1"], &[]);
        let output = jail.command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing"));
    }
}

/// The VMM whose guest has a PID.
fn vmm_process(guest: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{guest}/stat")).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    after.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn children(pid: u64) -> Vec<u64> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// A VMM that is nobody's child any more. Killed with the value, also where a test fails.
struct Orphan(u64);

impl Drop for Orphan {
    fn drop(&mut self) {
        // What it leaves is seen by the test.
        let _ = Command::new("kill")
            .args(["-KILL", &self.0.to_string()])
            .status();
    }
}

fn vmm_errors(vmm: &Vmm) -> String {
    fs::read_to_string(vmm.folder.path().join("stderr")).unwrap()
}
