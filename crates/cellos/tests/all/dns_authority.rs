//! What a document says of name resolution, held to by whole cells.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener},
    process::Output,
    thread,
};

use cellos_testkit::dns::hickory_proto::rr::{RData, Record, RecordType, rdata::TXT};
use cellos_testkit::{
    EventLog,
    dns::{DnsAnswer, DnsServer, DnsTransport, address, fqdn},
    require,
};
use serde_json::{Value, json};

use crate::program::Place;

const NAME: &str = "api.test.example";

/// A server of this host that answers requests with a word.
fn server(on: &str) -> u16 {
    let listener = TcpListener::bind((on, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nreached\n",
            );
        }
    });
    port
}

/// Asks for a name as often as told, each time over a connection of its own.
fn fetch(port: u16, times: usize) -> String {
    format!(
        "for n in $(seq {times}); do curl -sS --max-time 20 http://{NAME}:{port}/ || echo failed; done"
    )
}

fn resolver(server: &DnsServer, protocol: &str) -> Value {
    json!({
        "resolverId": "one",
        "endpoint": server.address().to_string(),
        "protocol": protocol,
        "trustKid": "resolver-2027",
    })
}

fn run(place: &Place, port: u16, dns: &Value, script: &str) -> Output {
    let document = json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": "asker",
            "authority": {
                "egressRules": [{"host": NAME, "port": port}],
                "dnsAuthority": dns,
            },
            "run": {"argv": ["/bin/bash", "-c", script]},
            "lifetime": {"ttlSeconds": 60},
        },
    });
    place.file("document.json", document.to_string());
    let ran = place
        .cellos(&["run", "--events", "log.jsonl", "document.json"])
        .output()
        .unwrap();
    let verified = place.cellos(&["verify", "log.jsonl"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}\n{ran:?}");
    ran
}

fn said(ran: &Output) -> Vec<String> {
    let out = String::from_utf8_lossy(&ran.stdout);
    out.lines().map(str::to_owned).collect()
}

/// The data of the events of one type.
fn data(place: &Place, kind: &str) -> Vec<Value> {
    let log = EventLog::read(place.path().join("log.jsonl"));
    let events = log.events().iter().filter(|event| event.ty.ends_with(kind));
    events.filter_map(|event| event.data.clone()).collect()
}

fn loopback() -> [IpAddr; 1] {
    ["127.0.0.1".parse().unwrap()]
}

#[test]
fn declared_resolvers_are_asked_over_their_transport_and_named_in_the_record() {
    require!("userns");
    for (protocol, transport) in [
        ("do53-udp", DnsTransport::Udp),
        ("do53-tcp", DnsTransport::Tcp),
    ] {
        let (place, port) = (Place::new(), server("127.0.0.1"));
        let names = DnsServer::with(&[(NAME, &loopback())]);
        let dns = json!({
            "resolvers": [resolver(&names, protocol)],
            "rebindingPolicy": {"responseIpAllowlist": [format!("{NAME}:127.0.0.0/8")]},
            "refreshPolicy": {},
        });
        let ran = run(&place, port, &dns, &fetch(port, 1));
        assert_eq!(said(&ran), ["reached"], "{protocol}: {ran:?}");
        assert!(names.asked().iter().all(|it| it.transport == transport));
        let flows = data(&place, "network_flow_decision");
        assert_eq!(flows[0]["upstreamResolverId"], "one", "{flows:?}");
        let drift = data(&place, "dns_authority_drift");
        assert_eq!(drift[0]["resolverId"], "one", "{drift:?}");
        assert_eq!(drift[0]["issuerKid"], "resolver-2027", "{drift:?}");
    }
}

#[test]
fn private_answers_are_refused_unless_they_are_listed() {
    require!("userns");
    let (place, port) = (Place::new(), server("127.0.0.1"));
    let names = DnsServer::with(&[(NAME, &loopback())]);
    let dns = json!({"resolvers": [resolver(&names, "do53-udp")]});
    let ran = run(&place, port, &dns, &fetch(port, 1));
    assert_eq!(said(&ran), ["failed"], "{ran:?}");
    let flows = data(&place, "network_flow_decision");
    assert_eq!(flows[0]["reasonCode"], "address_forbidden", "{flows:?}");
    assert_eq!(flows[0]["requestedName"], NAME);
}

#[test]
fn a_name_that_moves_is_followed_or_refused_as_the_policy_says() {
    require!("userns");
    for (rejects, listed, expected, kind) in [
        (true, "127.0.0.1", ["reached", "failed"], "rebind_rejected"),
        (
            false,
            "127.0.0.1",
            ["reached", "reached"],
            "rebind_rejected",
        ),
    ] {
        let (place, port) = (Place::new(), server("0.0.0.0"));
        let names = DnsServer::start();
        let mut asked = 0u8;
        // No answer holds for any time at all, and each is another address.
        names.behave(move |question| {
            if question.kind != RecordType::A {
                return DnsAnswer::Records(Vec::new());
            }
            asked += 1;
            let mut record = address(&question.name, IpAddr::from([127, 0, 0, asked]));
            record.ttl = 0;
            DnsAnswer::Records(vec![record])
        });
        let allowlist = [format!("{NAME}:{listed}")];
        let dns = json!({
            "resolvers": [resolver(&names, "do53-udp")],
            "rebindingPolicy": {"responseIpAllowlist": allowlist, "rejectOnRebind": rejects},
        });
        let ran = run(&place, port, &dns, &fetch(port, 2));
        let told = data(&place, kind);
        assert_eq!(told[0]["novelIp"], "127.0.0.2", "{told:?}");
        assert_eq!(told[0]["rejected"], rejects, "{told:?}");
        assert_eq!(told[0]["issuerKid"], "resolver-2027", "{told:?}");
        let flows = data(&place, "network_flow_decision");
        if rejects {
            assert_eq!(said(&ran), expected, "{ran:?}");
            assert_eq!(flows[1]["reasonCode"], "rebind_rejected", "{flows:?}");
        } else {
            // Told of and not rejected, but a private address that nobody named all the same.
            assert_eq!(said(&ran)[0], "reached", "{ran:?}");
            assert_eq!(flows[1]["reasonCode"], "address_forbidden", "{flows:?}");
        }
    }
}

/// A query by hand, since bash and curl ask for addresses only. Prints the answer's code and texts.
const ASK_TEXT: &str = r#"
import socket, sys
name = sys.argv[1]
query = bytes.fromhex("123401000001000000000000")
query += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\x10\0\1"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(query, ("198.18.0.53", 53))
answer = s.recv(4096)
print(answer[3] & 15, b"hello from outside" in answer)
"#;

#[test]
fn texts_are_answered_where_the_document_allows_that_type() {
    require!("userns");
    require!("python3");
    let names = DnsServer::start();
    names.behave(|question| {
        let text = TXT::new(vec!["hello from outside".to_owned()]);
        let record = Record::from_rdata(fqdn(&question.name), 60, RData::TXT(text));
        DnsAnswer::Records(vec![record])
    });
    for (types, expected, reason) in [
        (json!(["A", "TXT"]), "0 True", "allowed_by_allowlist"),
        (json!(["A"]), "5 False", "denied_query_type"),
    ] {
        let place = Place::new();
        let dns = json!({
            "resolvers": [resolver(&names, "do53-udp")],
            "allowedQueryTypes": types,
        });
        let script = format!("python3 -c '{ASK_TEXT}' {NAME}");
        let ran = run(&place, 443, &dns, &script);
        assert_eq!(said(&ran), [expected], "{ran:?}");
        let queries = data(&place, "dns_query");
        assert_eq!(queries[0]["reasonCode"], reason, "{queries:?}");
        assert_eq!(queries[0]["queryType"], "TXT");
    }
}

#[test]
fn unsigned_answers_are_refused_where_signatures_are_demanded() {
    require!("userns");
    let (place, port) = (Place::new(), server("127.0.0.1"));
    let names = DnsServer::with(&[(NAME, &loopback())]);
    let mut signed = resolver(&names, "do53-udp");
    signed["dnssec"] = json!({"validate": true, "failClosed": true});
    let dns = json!({
        "resolvers": [signed],
        "rebindingPolicy": {"responseIpAllowlist": [format!("{NAME}:127.0.0.0/8")]},
    });
    let ran = run(&place, port, &dns, &fetch(port, 1));
    assert_eq!(said(&ran), ["failed"], "{ran:?}");
    let flows = data(&place, "network_flow_decision");
    assert_eq!(flows[0]["reasonCode"], "dnssec_failed", "{flows:?}");
    let told = data(&place, "dns_authority_dnssec_failed");
    assert_eq!(told[0]["failClosed"], true, "{told:?}");
    assert_eq!(told[0]["issuerKid"], "resolver-2027", "{told:?}");
}
