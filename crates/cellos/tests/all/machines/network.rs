//! Destinations that a document declares, from inside a machine, and no others.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener},
    thread,
};

use cellos_testkit::{dns::DnsServer, require};

use super::{Machines, available, stdout};

/// Whether machines can have network cards here.
fn cards() -> Result<(), String> {
    available()?;
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map(drop)
        .map_err(|error| format!("/dev/net/tun: {error}"))
}

/// A server on a port of this host's loopback device, that answers every request with a word.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                line.clear();
            }
            let _ = stream.get_mut().write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached",
            );
        }
    });
    port
}

#[test]
fn a_machine_reaches_what_is_declared_by_its_name_and_nothing_else() {
    require!("machines", cards());
    let (machines, port) = (Machines::new(), server());
    let names = DnsServer::with(&[("web.test", &[IpAddr::V4(Ipv4Addr::LOCALHOST)])]);
    let resolver = names.address();
    let script = format!(
        "get() {{ printf 'GET / HTTP/1.1\\r\\nHost: '$3'\\r\\nConnection: close\\r\\n\\r\\n' | \
         nc -w 9 $1 $2; }}; \
         get web.test {port} web.test; echo; echo one; \
         get web.test {port} other.test; echo two; \
         get 203.0.113.6 {port} web.test; echo three; \
         nc -w 9 203.0.113.7 81 </dev/null || echo four; \
         nslookup other.test; \
         for device in /sys/class/net/*; do echo $device; done; \
         ip addr add 198.51.100.1/32 dev eth0 || echo five; \
         nc -w 9 127.0.0.1 {port} </dev/null || echo six"
    );
    let document = serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": "networked",
            "run": {"argv": ["sh", "-c", script]},
            "authority": {
                "egressRules": [{"host": "web.test", "port": port, "protocol": "http"}],
                "dnsAuthority": {
                    "resolvers": [{
                        "resolverId": "test", "endpoint": resolver.to_string(),
                        "protocol": "do53-udp"
                    }],
                    "rebindingPolicy": {"responseIpAllowlist": ["web.test:127.0.0.0/8"]}
                }
            },
            "lifetime": {"ttlSeconds": 120}
        }
    });
    let document = machines.place.file("networked.json", document.to_string());
    let output = machines
        .run(&[document.to_str().unwrap()])
        .output()
        .unwrap();
    let text = stdout(&output, 0);
    assert!(text.contains("reached\none\n"), "{output:?}");
    assert_eq!(text.matches("reached").count(), 1, "{output:?}");
    for word in ["two\n", "three\n", "four\n", "five\n", "six\n"] {
        assert!(text.contains(word), "{word} of {output:?}");
    }
    assert!(text.contains("REFUSED"), "{output:?}");

    let log = machines.log();
    let decisions: Vec<_> = log
        .events()
        .iter()
        .filter(|event| event.ty.ends_with("network_flow_decision"))
        .filter_map(|event| event.data.as_ref())
        .map(|flow| {
            let word = |field: &str| flow[field].as_str().unwrap_or_default().to_owned();
            (word("decision"), word("reasonCode"), word("dstAddr"))
        })
        .collect();
    for (decision, reason, address) in [
        ("allow", "egress_rule_match", "127.0.0.1"),
        ("deny", "l7_http_host_allowlist_miss", "198.18."),
        ("deny", "no_rule", "203.0.113.6"),
        ("deny", "undeclared_port", "203.0.113.7"),
    ] {
        let found = decisions
            .iter()
            .any(|(said, why, to)| said == decision && why == reason && to.starts_with(address));
        assert!(found, "{decision} {reason} {address}: {decisions:?}");
    }
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["egress"]["flowsAllowed"], 1, "{destroyed}");
    assert_eq!(
        destroyed["egress"]["exercisedRules"],
        serde_json::json!([0])
    );
    assert_eq!(destroyed["residue"]["found"], serde_json::json!([]));
    machines.assert_nothing_left();
}
