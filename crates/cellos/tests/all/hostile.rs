//! A hostile program in a real cell, what it may reach, and what has to be true afterwards.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Child, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use cellos_testkit::dns::DnsServer;
use serde_json::{Value, json};

use crate::program::Place;

/// The name that documents here declare.
pub(crate) const NAME: &str = "api.test.example";
/// Most memory that the supervisor may have at any time. A debug build takes about
/// 40 MB in these floods.
const MAX_RESIDENT_MB: u64 = 200;
/// What every attack begins with: the name's address, and whether the gateway still lets through
/// what is allowed.
const PRELUDE: &str = r#"
import os, resource, select, socket, struct, sys, threading, time
PATIENCE = 15
NAME, PORT, UDP = "api.test.example", int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
THERE = socket.getaddrinfo(NAME, PORT, socket.AF_INET, socket.SOCK_STREAM)[0][4]
def connect(to=THERE):
    s = socket.create_connection(to, 10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
def heard(s):
    said = b""
    try:
        s.settimeout(PATIENCE)
        while True:
            more = s.recv(65536)
            if not more: break
            said += more
    except OSError: pass
    return said
def allowed(path="/allowed"):
    s = connect()
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}:{PORT}\r\nConnection: close\r\n\r\n".encode())
    said = heard(s)
    assert said.endswith(b"reached"), said
def until_allowed():
    # What was refused for want of room has to go first.
    for _ in range(150):
        try: return allowed()
        except (AssertionError, OSError): time.sleep(0.1)
    allowed()
"#;

/// A server that remembers everything that it hears, and answers each connection once its first
/// bytes are there.
pub(crate) struct Server {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let ear = Arc::clone(&ear);
                thread::spawn(move || {
                    let mut said = vec![0; 65_536];
                    let mut first = true;
                    while let Ok(read @ 1..) = stream.read(&mut said) {
                        ear.lock().unwrap().extend_from_slice(&said[..read]);
                        if first {
                            first = false;
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached";
                            let _ = stream.write_all(answer);
                        }
                    }
                });
            }
        });
        Self { port, heard }
    }

    pub(crate) fn has_heard(&self, what: &[u8]) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.windows(what.len()).any(|window| window == what)
    }
}

/// A cell with an attacker in it.
pub(crate) struct Attack {
    pub(crate) place: Place,
    pub(crate) server: Server,
    pub(crate) udp: u16,
    _dns: DnsServer,
}

/// How it went.
pub(crate) struct Outcome {
    pub(crate) output: Output,
    pub(crate) resident_mb: u64,
}

impl Attack {
    pub(crate) fn new(protocol: Option<&str>, script: &str) -> Self {
        let (place, server) = (Place::new(), Server::start());
        let dns = DnsServer::with(&[(NAME, &["127.0.0.1".parse().unwrap()])]);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp_port = udp.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut said = [0; 2048];
            while let Ok((read, from)) = udp.recv_from(&mut said) {
                let _ = udp.send_to(&said[..read], from);
            }
        });
        let mut rule = json!({"host": NAME, "port": server.port});
        if let Some(protocol) = protocol {
            rule["protocol"] = protocol.into();
        }
        let work = place.path().join("work");
        fs::create_dir(&work).unwrap();
        fs::write(work.join("attack.py"), format!("{PRELUDE}{script}")).unwrap();
        let document = json!({
            "apiVersion": "cellos.io/v1",
            "kind": "ExecutionCell",
            "spec": {
                "id": "flood",
                "authority": {
                    "filesystem": {"mounts": [{"source": work, "target": "/work", "access": "ro"}]},
                    "egressRules": [rule, {"host": NAME, "port": udp_port, "protocol": "udp"}],
                    "dnsAuthority": {
                        "resolvers": [{
                            "resolverId": "test",
                            "endpoint": dns.address().to_string(),
                            "protocol": "do53-udp",
                        }],
                        "rebindingPolicy": {"responseIpAllowlist": [format!("{NAME}:127.0.0.0/8")]},
                    },
                },
                "run": {"argv": [
                    "/usr/bin/env", "python3", "/work/attack.py",
                    server.port.to_string(), udp_port.to_string(),
                ]},
                "lifetime": {"ttlSeconds": 300},
            },
        });
        place.file("cell.json", document.to_string());
        Self {
            place,
            server,
            udp: udp_port,
            _dns: dns,
        }
    }

    pub(crate) fn start(&self) -> Child {
        let events = self.place.events();
        let mut command = self.place.cellos(&[
            "run",
            "--quiet",
            "--events",
            events.to_str().unwrap(),
            "cell.json",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs it to its end, and watches the supervisor's memory.
    #[track_caller]
    fn run(&self) -> Outcome {
        let child = self.start();
        let status = format!("/proc/{}/status", child.id());
        let watch = thread::spawn(move || {
            let mut most = 0;
            // Gone, or a zombie, which has none.
            while let Some(now) = resident_mb(&status) {
                most = most.max(now);
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        let output = child.wait_with_output().unwrap();
        let resident_mb = watch.join().unwrap();
        println!("the supervisor took {resident_mb} MB");
        assert!(resident_mb < MAX_RESIDENT_MB, "{resident_mb} MB");
        Outcome {
            output,
            resident_mb,
        }
    }

    /// Runs it to its end: the attacker is content, and the evidence is whole.
    #[track_caller]
    pub(crate) fn succeeds(&self) -> Outcome {
        let outcome = self.run();
        let output = &outcome.output;
        assert!(output.status.success(), "{output:?}");
        self.verified();
        outcome
    }

    #[track_caller]
    pub(crate) fn verified(&self) {
        let events = self.place.events();
        let verified = self.place.cellos(&["verify", events.to_str().unwrap()]);
        let verified = { verified }.output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
    }

    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        fs::read_to_string(self.place.events())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].take())
            .filter(|event| event["type"].as_str().is_some_and(|it| it.ends_with(kind)))
            .map(|mut event| event["data"].take())
            .collect()
    }

    pub(crate) fn flows(&self) -> Vec<Value> {
        self.events("network_flow_decision")
    }

    /// How often this was refused, those counted that are summed up.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let flows = self.flows();
        let such = flows.iter().filter(|flow| flow["reasonCode"] == reason);
        such.map(|flow| flow["count"].as_u64().unwrap_or(1)).sum()
    }

    pub(crate) fn egress(&self) -> Value {
        self.events("lifecycle.v1.destroyed")[0]["egress"].take()
    }
}

fn resident_mb(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
