//! What a confined program finds, told by a shell that is one.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use cellos_core::ports::network::NetworkNeeds;
use cellos_isolation::confined::{ConfinedError, Network, Output, Privileges, Step};

use super::*;
use crate::{limits::MonitorGroups, testing, vmm::MonitorLimits};

const SHELL: &str = "/bin/sh";

fn order(script: &str) -> Order {
    let readable = [
        "/usr",
        "/bin",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/proc",
    ];
    Order {
        arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        working_folder: PathBuf::from("/"),
        readable: readable.map(PathBuf::from).to_vec(),
        own: Vec::new(),
        reopened: Vec::new(),
        devices: Vec::new(),
        control_groups: Vec::new(),
        open_files: 64,
        file_bytes: 0,
        privileges: Privileges::None,
        network: Network::Empty,
        output: Output::Discarded,
    }
}

fn start(order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<Confined, ConfinedError> {
    let shell = File::open(SHELL).unwrap();
    confined::start(&testing::helper(), order, shell.as_fd(), descriptors)
}

/// What a script writes to its standard error until it ends.
fn said(order: &Order, descriptors: &[BorrowedFd<'_>]) -> String {
    heard(start(order, descriptors).unwrap())
}

fn heard(mut started: Confined) -> String {
    let mut text = String::new();
    let mut stderr = started.process.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    started.process.wait().unwrap();
    text
}

#[test]
fn it_has_no_privilege() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let status = said(&order("cat /proc/self/status >&2"), &[]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(testing::field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(testing::field(&status, "NoNewPrivs"), "1");
    assert!(
        !testing::field(&status, "Uid").starts_with("0\t"),
        "{status}"
    );
    assert_eq!(testing::field(&status, "SigIgn"), "0000000000000000");
}

#[test]
fn it_has_the_given_descriptors_and_no_other() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let leaked = File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("given");
    fs::write(&path, "given content").unwrap();
    let given = File::open(&path).unwrap();
    // The listing itself needs one more, which is gone when its name is looked at.
    let script = "for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done >&2; cat <&3 >&2; \
                  readlink /proc/$$/fd/0 >&2";
    let text = said(&order(script), &[given.as_fd()]);
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.pop(), Some("given content/null"), "{text}");
    // dash saves the standard output that it redirects at 10.
    lines.retain(|line| *line != "10");
    assert_eq!(lines, ["0", "1", "2", "3"], "{text}");
}

#[test]
fn its_environment_limits_and_session_are_its_own() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let script = "cat /proc/$$/environ | tr '\\0' '\\n' >&2; umask >&2; \
                  ulimit -n >&2; ulimit -c >&2; ulimit -f >&2; cat /proc/$$/stat >&2";
    let mut started = start(&order(script), &[]).unwrap();
    let mut text = String::new();
    let mut stderr = started.process.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    started.process.wait().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..5],
        ["PATH=/usr/bin:/bin", "0077", "64", "0", "0"],
        "{text}"
    );
    let session = lines[5].split(' ').nth(5).unwrap();
    assert_eq!(session, started.process.id().to_string());
}

#[test]
fn it_is_alone_in_its_namespaces() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let script = "for ns in net ipc uts mnt; do readlink /proc/self/ns/$ns; done >&2; \
                  cat /proc/net/dev >&2";
    let text = said(&order(script), &[]);
    for (line, name) in text.lines().zip(["net", "ipc", "uts", "mnt"]) {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(line.starts_with(name), "{text}");
        assert_ne!(line, ours.to_str().unwrap());
    }
    let interfaces = text.lines().filter(|line| line.contains(':')).skip(4);
    let names: Vec<&str> = interfaces
        .map(|line| line.trim().split(':').next().unwrap())
        .collect();
    assert_eq!(names, ["lo"], "{text}");
}

#[test]
fn it_reaches_its_own_files_and_no_others() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let place = tempfile::tempdir().unwrap();
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    let other = place.path().join("other");
    fs::write(&other, "secret").unwrap();
    let handed = place.path().join("handed");
    fs::write(&handed, "shared").unwrap();
    for file in [&other, &handed] {
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    let handed = File::open(&handed).unwrap();
    let script = format!(
        "cat /etc/passwd >&2 || echo no passwd >&2; cat {} >&2 || echo no other >&2; \
         (echo x > /tmp/cellos-confined-test) || echo no tmp >&2; \
         echo ours > file && cat file >&2; cat /proc/self/fd/3 >&2; cat /proc/self/fd/4 >&2",
        other.display()
    );
    let mut order = order(&script);
    order.own = vec![own.clone()];
    order.working_folder = own.clone();
    order.file_bytes = 4096;
    order.reopened = vec![0];
    let hidden = File::open("/etc/passwd").unwrap();
    let text = said(&order, &[handed.as_fd(), hidden.as_fd()]);
    for line in ["no passwd", "no other", "no tmp", "ours", "shared"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // One that was only given, and is not to be opened anew.
    assert!(
        text.contains("/proc/self/fd/4: Permission denied"),
        "{text}"
    );
    assert!(
        !text.contains("root:") && !text.contains("secret"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(own.join("file")).unwrap(), "ours\n");
    if rustix::process::geteuid().is_root() {
        assert_ne!(fs::metadata(&own).unwrap().uid(), 0);
    }
}

#[test]
fn what_fails_is_reported_by_its_step() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let text = tempfile::NamedTempFile::new().unwrap();
    let place = PathBuf::from("/no/such/place");
    let failed = |change: &dyn Fn(&mut Order), program: &File| {
        let mut order = order("true");
        change(&mut order);
        match confined::start(&testing::helper(), &order, program.as_fd(), &[]) {
            Err(ConfinedError::Failed(failure)) => failure,
            other => panic!("{order:?}: {other:?}"),
        }
    };
    let shell = File::open(SHELL).unwrap();
    let folder = failed(&|order| order.working_folder = place.clone(), &shell);
    assert_eq!(folder.step, Step::Folders);
    assert!(folder.to_string().contains("/no/such/place"), "{folder}");
    let group = failed(
        &|order| order.control_groups = vec![place.clone(), "/tmp".into()],
        &shell,
    );
    assert_eq!(group.step, Step::ControlGroups);
    let device = failed(
        &|order| order.devices = vec!["/dev/no-such-device".into()],
        &shell,
    );
    assert_eq!(device.step, Step::Root, "{device}");
    let execute = failed(&|_| (), text.as_file());
    assert_eq!(execute.step, Step::Execute);
    assert_eq!(
        execute.errno,
        Some(rustix::io::Errno::ACCESS.raw_os_error()),
        "{execute}"
    );
    let nul = failed(&|order| order.arguments.push("a\0b".to_owned()), &shell);
    assert_eq!(nul.step, Step::Execute);
}

#[test]
fn a_program_that_is_no_helper_is_an_error_by_its_name() {
    let shell = File::open(SHELL).unwrap();
    let silent = confined::start(&Helper::at("/bin/true"), &order("true"), shell.as_fd(), &[]);
    let silent = silent.unwrap_err();
    assert!(matches!(silent, ConfinedError::Silent { .. }), "{silent}");
    assert!(silent.to_string().contains("/bin/true"), "{silent}");
}

#[test]
fn it_starts_in_its_control_groups() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    cellos_testkit::require!("cgroups");
    let groups = MonitorGroups::new(None).unwrap();
    let group = groups.make("confined", MonitorLimits::default()).unwrap();
    let paths = group.paths();
    let mut order = order("cat /proc/self/cgroup >&2");
    order.control_groups = paths.clone();
    let text = said(&order, &[]);
    assert_eq!(group.remove(), [""; 0]);
    for path in paths {
        let leaf = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(text.contains(&leaf), "{leaf}: {text}");
    }
}

/// The parent of the next test: starts a program from a runtime, ends all the threads that had a
/// part in it, and sees whether the program lives on.
#[test]
#[ignore = "run by it_outlives_its_parents_threads_and_not_its_parent"]
fn helper_parent_with_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let monitor = runtime.block_on(async {
        let start = Start {
            name: "sh",
            helper: testing::helper(),
            order: order("exec sleep 100"),
            program: Arc::new(File::open(SHELL).unwrap()),
            descriptors: Vec::new(),
            console: None,
        };
        tokio::spawn(Monitor::start(start)).await.unwrap().unwrap()
    });
    // Joins its threads, those for blocking work among them.
    runtime.shutdown_timeout(Duration::from_secs(10));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(monitor.end(), None, "it died with a thread");
    eprintln!("monitor {}", monitor.pid());
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn it_outlives_its_parents_threads_and_not_its_parent() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("vmm::process::confinement::helper_parent_with_a_runtime")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(parent.stderr.take().unwrap());
    let pid = stderr
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("monitor ")?.parse::<i32>().ok())
        .expect("a monitor that outlived the threads");
    let monitor = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let ended = |milliseconds: i64| {
        let bound = rustix::event::Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        };
        let mut polled = [PollFd::new(&monitor, PollFlags::IN)];
        poll(&mut polled, Some(&bound)).unwrap() == 1
    };
    assert!(!ended(50));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(ended(5000), "the program outlived its parent");
}

/// Landlock does not know of connecting by a path.
#[test]
fn no_socket_of_the_host_is_within_its_reach() {
    cellos_testkit::require!("userns");
    cellos_testkit::require!("landlock");
    cellos_testkit::require!("python3");
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(
        place.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let (hidden, own) = (place.path().join("hidden"), place.path().join("own"));
    fs::create_dir(&own).unwrap();
    let sockets = [hidden, own.join("socket")];
    let _listeners = sockets.each_ref().map(|path| {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        listener
    });
    let script = "import socket, sys\nfor path in sys.argv[1:]:\n try:\n  \
                  socket.socket(socket.AF_UNIX).connect(path)\n  print('connected', file=sys.stderr)\n \
                  except OSError as e: print(e.strerror, file=sys.stderr)";
    let mut order = order("exec python3 -I -S -c \"$1\" \"$2\" \"$3\"");
    order.arguments.extend(["sh".to_owned(), script.to_owned()]);
    let paths = sockets.iter().map(|path| path.to_str().unwrap().to_owned());
    order.arguments.extend(paths);
    order.own = vec![own];
    let text = said(&order, &[]);
    // The second shows that the test would notice.
    assert_eq!(text, "No such file or directory\nconnected\n");
}

mod as_root {
    use super::*;

    #[test]
    fn each_is_a_user_of_its_own() {
        cellos_testkit::require!("root");
        cellos_testkit::require!("landlock");
        let (mut one, mut two) = (
            start(&order("exec sleep 9"), &[]).unwrap(),
            start(&order("exec sleep 9"), &[]).unwrap(),
        );
        let uids = [&one, &two].map(|started| {
            let status = fs::read_to_string(format!("/proc/{}/status", started.process.id()));
            let status = status.unwrap();
            assert_eq!(testing::field(&status, "Groups"), "");
            let uid = started.confinement.uid;
            assert_eq!(
                testing::field(&status, "Uid"),
                format!("{uid}\t{uid}\t{uid}\t{uid}")
            );
            uid
        });
        for started in [&mut one, &mut two] {
            started.process.kill().unwrap();
            started.process.wait().unwrap();
        }
        assert_ne!(uids[0], uids[1]);
        assert!(uids.iter().all(|uid| *uid > 65_536), "{uids:?}");
    }

    #[test]
    fn it_sees_no_devices_but_its_own() {
        cellos_testkit::require!("root");
        cellos_testkit::require!("landlock");
        let mut order = order(
            "for node in full null zero urandom random kvm mem tty net/tun; do \
             [ -e /dev/$node ] && echo $node; done >&2; : < /dev/full && echo opened >&2",
        );
        order.devices = vec!["/dev/full".into()];
        assert_eq!(said(&order, &[]), "full\nnull\nzero\nurandom\nopened\n");
    }

    #[test]
    fn a_tap_device_is_made_in_its_namespace_and_nowhere_else() {
        cellos_testkit::require!("root");
        cellos_testkit::require!("landlock");
        let needs = NetworkNeeds {
            tcp_ports: [443, 8443].into(),
            udp_ports: [123].into(),
            inbound_sockets: 0,
        };
        let given = File::open("/dev/null").unwrap();
        assert_eq!(network::descriptor(Some(&needs), 1), Some(4));
        let mut order = order(
            "for device in /proc/sys/net/ipv4/conf/*; do echo ${device##*/}; done >&2; \
             cat /proc/net/tcp /proc/net/tcp6 >&2; \
             for fd in /proc/$$/fd/*; do [ -e $fd ] && readlink $fd; done >&2; \
             readlink /proc/$$/fd/4 >&2; cd /proc/sys/net/ipv4/conf/tap0; \
             echo settings $(cat forwarding rp_filter accept_local route_localnet) >&2",
        );
        order.network = network::order(Some(&needs));
        let mut confined = start(&order, &[given.as_fd()]).unwrap();
        let sockets = network::sorted(std::mem::take(&mut confined.sockets));
        let text = heard(confined);

        let devices: Vec<_> = text
            .lines()
            .take_while(|line| !line.contains("local_address"))
            .collect();
        let known = ["all", "default", "lo", "tap0"];
        assert_eq!(devices, known, "nothing else is there: {text}");
        assert!(text.contains("/net/tun"), "{text}");
        assert!(text.contains("settings 0 1 0 0"), "{text}");
        // Port 443 listens at every address of IPv4, and at none of IPv6.
        assert!(text.contains("00000000:01BB 00000000:0000 0A"), "{text}");
        assert!(
            !text.contains("00000000000000000000000000000000:"),
            "{text}"
        );
        assert!(!text.contains("socket:"), "it has a socket itself: {text}");
        let ports = |sockets: &[(u16, OwnedFd)]| -> Vec<u16> {
            sockets.iter().map(|(port, _)| *port).collect()
        };
        assert_eq!(ports(&sockets.tcp), [53, 443, 8443]);
        assert_eq!(ports(&sockets.udp), [53, 123]);
        assert!(sockets.inbound.is_empty());
        assert!(sockets.refusals.is_some());

        assert!(!fs::exists("/sys/class/net/tap0").unwrap());
        order.network = Network::Tap {
            name: "../../etc".to_owned(),
            needs,
        };
        let refused = start(&order, &[given.as_fd()]).unwrap_err().to_string();
        assert!(refused.contains("TAP device"), "{refused}");
    }

    #[test]
    fn one_that_builds_a_jail_keeps_its_privileges_and_nothing_else() {
        cellos_testkit::require!("root");
        cellos_testkit::require!("landlock");
        let mut order = order("cat /proc/self/status >&2; readlink /proc/self/ns/net >&2");
        order.privileges = Privileges::ForJailer;
        let text = said(&order, &[]);
        assert_ne!(testing::field(&text, "CapEff"), "0000000000000000");
        assert!(testing::field(&text, "Uid").starts_with("0\t"));
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        assert!(!text.contains(ours.to_str().unwrap()), "{text}");
    }
}
