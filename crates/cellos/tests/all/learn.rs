//! Runs that are there to learn, and the documents that they print.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Output},
    thread,
};

use cellos_testkit::{EventLog, dns::DnsServer, require};
use serde_json::json;

use crate::program::Place;

/// Ports that a run that learns listens on, and one on which it does not.
const PORTS: [u16; 4] = [8080, 8443, 6379, 34567];

/// An address of this host that no other test has.
fn own_address() -> IpAddr {
    let [a, b, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, 83, a, b.max(1)).into()
}

/// Answers requests with a word, a TLS hello with an alert, and everything else with another word.
fn answer(mut stream: TcpStream) {
    let mut piece = [0; 4096];
    let mut said = Vec::new();
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        said.extend_from_slice(&piece[..length]);
        let answer: &[u8] = match &said[..] {
            [0x16, ..] => &[21, 3, 3, 0, 2, 2, 40],
            [b'G', ..] if said.ends_with(b"\r\n\r\n") => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb\n"
            }
            // The rest of the request is yet to come.
            [b'G', ..] => continue,
            _ => b"opaque\n",
        };
        said.clear();
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

fn serve(address: IpAddr) {
    for port in PORTS {
        let listener = TcpListener::bind((address, port)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                thread::spawn(move || answer(stream));
            }
        });
    }
}

const NAMES: [&str; 5] = [
    "web.test.example",
    "tls.test.example",
    "store.test.example",
    "odd.test.example",
    "many.test.example",
];

/// Two requests, the second for another host; TLS; another protocol; and a port of nobody's.
const SCRIPT: &str = r#"
say() { exec 3<>/dev/tcp/$1/$2 || return; printf "$3" >&3; head -n 1 <&3; exec 3>&-; }
curl -sS http://web.test.example:8080/
curl -sSk https://tls.test.example:8443/ 2>&1 | grep -o 'handshake failure'
say store.test.example 6379 'PING\r\n'
say odd.test.example 34567 'HELLO\r\n'
exec 3<>/dev/tcp/many.test.example/8080
printf 'GET / HTTP/1.1\r\nHost: many.test.example:8080\r\n\r\n' >&3
for n in 1 2 3 4; do read -r line <&3; done; echo "$line"
printf 'GET / HTTP/1.1\r\nHost: else.test.example\r\n\r\n' >&3
for n in 1 2 3 4; do read -r line <&3 || line=refused; done; echo "$line"
exit 0
"#;

fn document(server: &DnsServer, address: IpAddr) -> String {
    let allowed: Vec<String> = NAMES.iter().map(|it| format!("{it}:{address}")).collect();
    json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": "learner",
            "authority": {"dnsAuthority": {
                "resolvers": [{
                    "resolverId": "one",
                    "endpoint": server.address().to_string(),
                    "protocol": "do53-udp",
                }],
                "rebindingPolicy": {"responseIpAllowlist": allowed},
            }},
            "run": {"argv": ["/bin/bash", "-c", SCRIPT]},
            "lifetime": {"ttlSeconds": 60},
        },
    })
    .to_string()
}

fn said(ran: &Output) -> Vec<String> {
    let out = String::from_utf8_lossy(&ran.stdout);
    out.lines().map(|it| it.trim_end().to_owned()).collect()
}

fn verify(place: &Place, log: &str) -> String {
    let verified = place.cellos(&["verify", log]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    String::from_utf8_lossy(&verified.stdout).into_owned()
}

#[test]
fn the_document_of_a_run_that_learns_suffices_for_the_next_one() {
    require!("userns");
    let address = own_address();
    serve(address);
    let known: Vec<(&str, &[IpAddr])> = NAMES
        .iter()
        .map(|name| (*name, std::slice::from_ref(&address)))
        .collect();
    let server = DnsServer::with(&known);
    let place = Place::new();
    place.file("first.json", document(&server, address));

    let learning = place
        .cellos(&[
            "run",
            "--learn=second.yaml",
            "--events",
            "1.jsonl",
            "first.json",
        ])
        .output()
        .unwrap();
    assert!(learning.status.success(), "{learning:?}");
    assert_eq!(
        said(&learning),
        ["web", "handshake failure", "opaque", "web", "web"],
        "{learning:?}"
    );
    let notes = String::from_utf8_lossy(&learning.stderr);
    assert!(
        notes.contains("odd.test.example port 34567 was refused"),
        "{notes}"
    );
    let first = EventLog::read(place.path().join("1.jsonl"));
    let started = first.data("lifecycle.v1.started");
    assert_eq!(started["declared"]["networkMode"], "learn");
    let found = verify(&place, "1.jsonl");
    assert!(found.contains("learned_network: 1, note"), "{found}");

    let enforcing = place
        .cellos(&["run", "--events", "2.jsonl", "second.yaml"])
        .output()
        .unwrap();
    assert_eq!(
        said(&enforcing),
        ["web", "handshake failure", "opaque", "opaque", "web", "web"],
        "{enforcing:?}"
    );
    let second = EventLog::read(place.path().join("2.jsonl"));
    let destroyed = second.data("lifecycle.v1.destroyed");
    assert_eq!(destroyed["egress"]["flowsRefused"], 0);
    assert_eq!(
        destroyed["egress"]["exercisedRules"],
        json!([0, 1, 2, 3, 4])
    );
    let found = verify(&place, "2.jsonl");
    assert!(!found.contains("learned_network"), "{found}");
}

#[test]
fn what_is_refused_even_so_is_said_with_what_would_allow_it() {
    require!("userns");
    let place = Place::new();
    let script = "exec 3<>/dev/tcp/127.0.0.1/8080; exec 3<>/dev/tcp/192.0.2.5/33333; true";
    let ran = place
        .cellos(&["run", "--learn", "--", "bash", "-c", script])
        .output()
        .unwrap();
    let notes = String::from_utf8_lossy(&ran.stderr);
    for refused in ["127.0.0.1 port 8080", "192.0.2.5 port 33333"] {
        let note = notes.lines().find(|line| line.contains(refused)).unwrap();
        assert!(
            note.contains("was refused") && note.contains("rule"),
            "{note}"
        );
    }
}

#[test]
fn a_low_soft_limit_on_open_files_is_raised_and_a_low_hard_one_is_told() {
    require!("userns");
    let place = Place::new();
    let program = crate::program::cellos_program();
    let limited = |limit: &str| {
        let script = format!(
            "ulimit {limit}; exec {} run --learn -- bash -c 'ulimit -Sn'",
            program.display()
        );
        let mut command = Command::new("bash");
        command
            .args(["-c", &script])
            .current_dir(place.path())
            .env("CELLOS_STATE_DIR", place.path().join("state"));
        command.output().unwrap()
    };
    let raised = limited("-Sn 512");
    assert!(raised.status.success(), "{raised:?}");
    assert_eq!(said(&raised), ["512"], "the workload's own limit");
    let low = limited("-n 512");
    assert_eq!(low.status.code(), Some(125), "{low:?}");
    let told = String::from_utf8_lossy(&low.stderr);
    assert!(told.contains("hard limit of this process is 512"), "{told}");
}
