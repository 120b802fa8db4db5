//! The network inside a cell: what reaches the sockets that are handed over, and what a workload
//! cannot do to it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use cellos_core::ports::{
    CellBackend, CellHandle,
    network::{CellNetwork, NetworkNeeds},
    workload::WorkloadControl,
};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{LauncherOptions, Warm};
use cellos_testkit::require;
use serde_json::json;

use crate::support::{
    backend, backend_with, backend_with_open_files, document, read_all, shell, streams,
};

/// How long a test waits for a packet inside one machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn needs(tcp: &[u16], udp: &[u16], inbound: u16) -> NetworkNeeds {
    NetworkNeeds {
        tcp_ports: tcp.iter().copied().collect(),
        udp_ports: udp.iter().copied().collect(),
        inbound_sockets: inbound,
    }
}

/// A cell with a network, parked.
struct Networked {
    backend: LinuxBackend,
    handle: CellHandle,
    network: CellNetwork,
}

impl Networked {
    async fn with(backend: LinuxBackend, script: &str, needs: NetworkNeeds) -> Self {
        backend.prepare_network("net", needs).await.unwrap();
        let document = document("net", &shell(script), &json!({}));
        let handle = backend.create(&document).await.unwrap();
        let network = backend.network("net").await.unwrap();
        Self {
            backend,
            handle,
            network,
        }
    }

    /// Lets it run to its end while `serve` does its part, and returns its output.
    async fn run(self, serve: impl FnOnce(CellNetwork) + Send + 'static) -> String {
        let (streams, output) = streams();
        let reader = std::thread::spawn(move || read_all(output));
        let server = std::thread::spawn(move || serve(self.network));
        self.backend.release("net", streams).await.unwrap();
        self.backend
            .wait_for_in_vm_exit("net")
            .await
            .unwrap()
            .unwrap();
        let output = reader.join().unwrap();
        server.join().unwrap();
        let (_, residue) = self
            .backend
            .destroy_and_measure(&self.handle)
            .await
            .unwrap();
        assert!(residue.found.is_empty(), "{residue:?}");
        output
    }
}

fn listener(network: &CellNetwork, port: u16) -> TcpListener {
    let (_, socket) = network.tcp.iter().find(|(at, _)| *at == port).unwrap();
    let listener = TcpListener::from(socket.try_clone().unwrap());
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Waits for what would otherwise block.
fn patiently<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < end, "nothing came");
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = patiently(|| listener.accept());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection from a shell to any address, and one line each way.
const CONNECT: &str = "exec 3<>/dev/tcp/192.0.2.7/443; echo hello >&3; cat <&3; \
                       exec 3<>/dev/tcp/2001:db8::7/443; echo hello6 >&3; cat <&3";

async fn any_address_reaches_the_listener(warm: Warm) {
    let backend = backend_with(&LauncherOptions {
        warm,
        ..LauncherOptions::default()
    });
    let script = format!("exec bash -c '{CONNECT}'");
    let cell = Networked::with(backend, &script, needs(&[443], &[], 0)).await;
    let output = cell
        .run(|network| {
            let listener = listener(&network, 443);
            for (address, said) in [
                ("[::ffff:192.0.2.7]:443", "hello\n"),
                ("[2001:db8::7]:443", "hello6\n"),
            ] {
                let mut stream = accept(&listener);
                assert_eq!(stream.local_addr().unwrap().to_string(), address);
                let mut line = vec![0; said.len()];
                stream.read_exact(&mut line).unwrap();
                assert_eq!(String::from_utf8(line).unwrap(), said);
                stream.write_all(b"answer\n").unwrap();
            }
        })
        .await;
    assert_eq!(output, "answer\nanswer\n");
}

#[tokio::test]
async fn a_connection_to_any_address_reaches_the_ports_listener() {
    require!("userns");
    any_address_reaches_the_listener(Warm::Never).await;
}

#[tokio::test]
async fn a_cell_that_was_begun_before_has_the_same_network() {
    require!("userns");
    any_address_reaches_the_listener(Warm::Keep(1)).await;
}

#[tokio::test]
async fn a_network_is_handed_over_once_and_only_where_it_was_asked_for() {
    require!("userns");
    let backend = backend();
    let document = document("net", &shell("true"), &json!({}));
    backend
        .prepare_network("net", needs(&[80], &[123], 2))
        .await
        .unwrap();
    let handle = backend.create(&document).await.unwrap();
    let network = backend.network("net").await.unwrap();
    let ports =
        |sockets: &[(u16, OwnedFd)]| sockets.iter().map(|(port, _)| *port).collect::<Vec<_>>();
    assert_eq!(ports(&network.tcp), [53, 80]);
    assert_eq!(ports(&network.udp), [53, 123]);
    assert!(network.inbound.len() >= 2, "{network:?}");
    assert!(network.refusals.is_some());
    assert!(backend.network("net").await.is_err(), "handed over twice");
    assert!(
        backend
            .prepare_network("net", needs(&[], &[], 0))
            .await
            .is_err(),
        "prepared a cell that is there"
    );
    backend.destroy(&handle).await.unwrap();
    // What was prepared was for that one.
    let handle = backend.create(&document).await.unwrap();
    assert!(backend.network("net").await.is_err());
    backend.destroy(&handle).await.unwrap();
    assert!(backend.network("net").await.is_err());
}

#[tokio::test]
async fn a_failed_creation_takes_what_was_prepared_with_it() {
    require!("userns");
    let backend = backend();
    let run = json!({ "argv": ["/bin/true"], "workingDirectory": "/usr/absent" });
    backend
        .prepare_network("net", needs(&[80], &[], 0))
        .await
        .unwrap();
    let refused = document("net", &run, &json!({}));
    backend.create(&refused).await.unwrap_err();
    let handle = backend
        .create(&document("net", &shell("true"), &json!({})))
        .await
        .unwrap();
    assert!(backend.network("net").await.is_err());
    backend.destroy(&handle).await.unwrap();
}

#[tokio::test]
async fn hundreds_of_ports_arrive_and_the_workload_inherits_none() {
    require!("userns");
    let many: Vec<u16> = (10_000..10_600).collect();
    let script = "ls /proc/self/fd | tr '\\n' ' '; ulimit -n; ulimit -Hn";
    let plain = crate::support::run_script(script).await.output;
    let cell = Networked::with(backend(), script, needs(&many, &many, 50)).await;
    assert_eq!(cell.network.tcp.len(), 601);
    assert_eq!(cell.network.udp.len(), 601);
    assert!(cell.network.inbound.len() >= 50);
    let output = cell.run(drop).await;
    // `ls` has one more open for the folder it lists.
    assert!(output.starts_with("0 1 2 3 "), "{output}");
    assert_eq!(output, plain, "limits differ");
}

#[tokio::test]
async fn too_many_ports_are_refused_with_the_number() {
    require!("userns");
    let backend = backend();
    let many: Vec<u16> = (1..5000).collect();
    backend
        .prepare_network("net", needs(&many, &[], 0))
        .await
        .unwrap();
    let error = backend
        .create(&document("net", &shell("true"), &json!({})))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 4096"), "{error}");
    assert_eq!(backend.tracked_cell_count(), 0);
}

#[tokio::test]
async fn a_limit_on_open_files_fails_the_cell_and_no_other() {
    require!("userns");
    let backend = backend_with_open_files(100);
    let many: Vec<u16> = (10_000..10_200).collect();
    let document = document("net", &shell("true"), &json!({}));
    backend
        .prepare_network("net", needs(&many, &[], 0))
        .await
        .unwrap();
    let error = backend.create(&document).await.unwrap_err().to_string();
    assert!(error.contains("listen on TCP port"), "{error}");
    assert!(error.contains("Too many open files"), "{error}");
    assert_eq!(backend.tracked_cell_count(), 0);
    backend
        .prepare_network("net", needs(&[80], &[], 0))
        .await
        .unwrap();
    let handle = backend.create(&document).await.unwrap();
    assert_eq!(backend.network("net").await.unwrap().tcp.len(), 2);
    backend.destroy(&handle).await.unwrap();
}

#[tokio::test]
async fn names_are_asked_for_only_where_there_is_a_network() {
    require!("userns");
    let script = "cat /etc/resolv.conf; grep hosts: /etc/nsswitch.conf; cat /etc/hosts";
    let hosts = "127.0.0.1 localhost cell\n::1 localhost cell\n";
    for warm in [Warm::Never, Warm::Keep(1)] {
        let options = LauncherOptions {
            warm,
            ..LauncherOptions::default()
        };
        let cell = Networked::with(backend_with(&options), script, needs(&[], &[], 0)).await;
        assert_eq!(
            cell.run(drop).await,
            format!(
                "nameserver 198.18.0.53\noptions timeout:10 attempts:2\nhosts: files dns\n{hosts}"
            )
        );
    }
    assert_eq!(
        crate::support::run_script(script).await.output,
        format!("# no name service in this cell\nhosts: files\n{hosts}")
    );
}

#[tokio::test]
async fn what_the_kernel_refuses_is_seen_and_nothing_else() {
    require!("userns");
    let script = "exec 2>/dev/null; bash -c '\
                    (exec 3<>/dev/tcp/192.0.2.8/444); (exec 3<>/dev/tcp/2001:db8::8/444); \
                    (exec 3<>/dev/tcp/127.0.0.1/444); (exec 3<>/dev/tcp/::1/444); \
                    exec 3<>/dev/udp/192.0.2.9/5; echo x >&3; \
                    exec 3<>/dev/tcp/192.0.2.7/443; echo hello >&3'";
    let cell = Networked::with(backend(), script, needs(&[443], &[], 0)).await;
    let (sender, receiver) = std::sync::mpsc::channel();
    cell.run(move |network| {
        let _accepted = accept(&listener(&network, 443));
        // The connection came last, so everything else is there.
        let socket = std::net::UdpSocket::from(network.refusals.unwrap());
        let mut packet = [0; 256];
        while let Ok(length) = socket.recv(&mut packet) {
            sender.send(packet[..length].to_vec()).unwrap();
        }
    })
    .await;
    let packets: Vec<Vec<u8>> = receiver.iter().collect();
    assert_eq!(packets.len(), 3, "{packets:?}");
    // Address and port that the reset comes from.
    assert_eq!(packets[0][12..16], [192, 0, 2, 8]);
    assert_eq!(packets[0][20..22], 444u16.to_be_bytes());
    assert_eq!(packets[1][0] >> 4, 6);
    assert_eq!(packets[1][40..42], 444u16.to_be_bytes());
    // Address and port that the datagram behind the ICMP header was for.
    assert_eq!(packets[2][28 + 16..28 + 20], [192, 0, 2, 9]);
    assert_eq!(packets[2][48 + 2..48 + 4], 5u16.to_be_bytes());
}

const HOSTILE: &str = r#"
import errno, os, socket, struct
def attempt(what, act):
    try:
        act()
        print(what, "DONE")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
def bound(family, kind, address, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, port))
for kind, name in (socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp"):
    for family, address in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "192.0.2.7"),             (socket.AF_INET6, "::"), (socket.AF_INET6, "fd63:656c:6c6f::c612:35"):
        attempt(f"{name} {address}", lambda: bound(family, kind, address, 4433))
def netlink(kind, body):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(struct.pack("=IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
    code = -struct.unpack("=i", s.recv(4096)[16:20])[0]
    if code:
        raise OSError(code, os.strerror(code))
route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 255, 3, 254, 2, 0) + struct.pack("=HHI", 8, 4, 1)
attempt("delete route", lambda: netlink(25, route))
attempt("add route", lambda: netlink(24, route))
attempt("add address", lambda: netlink(20, struct.pack("=BBBBI", 2, 32, 0, 0, 1) +
    struct.pack("=HH4s", 8, 2, bytes([198, 18, 1, 1]))))
attempt("set link", lambda: netlink(16, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 6))
attempt("raw6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
attempt("transparent", lambda: socket.socket().setsockopt(0, 19, 1))
attempt("sysctl", lambda: open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w"))
"#;

#[tokio::test]
async fn a_workload_can_neither_take_a_port_nor_change_its_network() {
    require!("userns");
    require!("python3");
    let script = format!("exec python3 - <<'EOF'\n{HOSTILE}\nEOF\n");
    let cell = Networked::with(backend(), &script, needs(&[4433], &[4433], 0)).await;
    let Networked {
        backend,
        handle,
        network,
    } = cell;
    let cell = Networked {
        backend,
        handle,
        network: CellNetwork::default(),
    };
    let output = cell.run(drop).await;
    drop(network);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 17, "{output}");
    for line in &lines[..8] {
        assert!(line.ends_with(" EADDRINUSE"), "{line}");
    }
    for line in &lines[8..12] {
        assert!(line.ends_with(" EPERM"), "{line}");
    }
    for line in &lines[12..] {
        assert!(!line.ends_with(" DONE"), "{line}");
    }
}

/// Prints what a network of two ports adds to a cell's creation; run it by hand, in a release
/// build.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_network_costs() {
    const CELLS: u32 = 60;
    let backend = backend();
    let document = document("net", &shell("true"), &json!({}));
    for wanted in [
        None,
        Some(needs(&[80, 443], &[], 0)),
        None,
        Some(needs(&[80, 443], &[], 0)),
    ] {
        let mut times = Vec::new();
        for _ in 0..CELLS {
            let begun = Instant::now();
            if let Some(needs) = wanted.clone() {
                backend.prepare_network("net", needs).await.unwrap();
            }
            let handle = backend.create(&document).await.unwrap();
            times.push(begun.elapsed());
            let network = backend.network("net").await;
            backend.destroy(&handle).await.unwrap();
            drop(network);
            // The kernel takes networks apart later, and nothing can be routed meanwhile.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        times.sort();
        let (median, most) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        println!(
            "network {:5}: median {median:?}, 90 % {most:?}",
            wanted.is_some()
        );
    }
}
