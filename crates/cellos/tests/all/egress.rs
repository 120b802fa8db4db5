//! Destinations that a document declares, through the gateway, and no others.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Output,
    thread,
};

use cellos_testkit::require;
use serde_json::{Value, json};

use crate::program::Place;

/// A server on a port of this host's, that answers every request with a word.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached",
            );
        }
    });
    port
}

/// Asks this port of 127.0.0.1 for something.
fn ask(port: u16) -> String {
    format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} || exit 7; \
         printf 'GET / HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
         cat <&3"
    )
}

fn run(place: &Place, flags: &[&str], script: &str) -> Output {
    let events = place.path().join("log.jsonl");
    let mut arguments = vec!["run", "--quiet", "--events", events.to_str().unwrap()];
    arguments.extend(flags);
    arguments.extend(["--", "bash", "-c", script]);
    place.cellos(&arguments).output().unwrap()
}

fn data(place: &Place, kind: &str) -> Vec<Value> {
    std::fs::read_to_string(place.path().join("log.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].take())
        .filter(|event| event["type"].as_str().is_some_and(|it| it.ends_with(kind)))
        .map(|mut event| event["data"].take())
        .collect()
}

#[test]
fn a_declared_destination_is_reached_and_recorded() {
    require!("userns");
    let (place, port) = (Place::new(), server());
    let ran = run(
        &place,
        &["--allow", &format!("127.0.0.1:{port}")],
        &ask(port),
    );
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.ends_with("reached"), "{ran:?}");
    let flows = data(&place, "network_flow_decision");
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["decision"], "allow");
    assert_eq!(flows[0]["nftRuleRef"], "authority.egressRules[0]");
    let destroyed = &data(&place, "lifecycle.v1.destroyed")[0];
    assert_eq!(destroyed["egress"]["exercisedRules"], json!([0]));
    assert_eq!(data(&place, "homeostasis")[0]["authorityEfficiency"], 1.0);
    assert_eq!(
        data(&place, "lifecycle.v1.started")[0]["declared"]["networkMode"],
        "enforce"
    );
    let log = place.path().join("log.jsonl");
    let verified = place
        .cellos(&["verify", log.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn another_port_of_the_same_host_is_not() {
    require!("userns");
    let (place, port, other) = (Place::new(), server(), server());
    let ran = run(
        &place,
        &["--allow", &format!("127.0.0.1:{port}")],
        &ask(other),
    );
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let destroyed = &data(&place, "lifecycle.v1.destroyed")[0];
    assert_eq!(destroyed["egress"]["flowsAllowed"], 0);
    assert_eq!(data(&place, "homeostasis")[0]["authorityEfficiency"], 0.0);
}

#[test]
fn a_cell_without_rules_has_no_network() {
    require!("userns");
    let (place, port) = (Place::new(), server());
    let ran = run(&place, &[], &ask(port));
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert_eq!(
        data(&place, "lifecycle.v1.destroyed")[0].get("egress"),
        None
    );
}

#[test]
fn rules_stay_refused_where_no_gateway_reaches() {
    let place = Place::new();
    let ran = run(
        &place,
        &["--backend", "stub", "--allow", "a.example:443"],
        "true",
    );
    assert_eq!(ran.status.code(), Some(126), "{ran:?}");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        said.contains("backend `stub` does not enforce egress rules"),
        "{said}"
    );
    // On every Linux host there is one that can.
    assert!(said.contains("a backend that can: linux"), "{said}");
}

/// A document of the drop-in's with one rule for this port of 127.0.0.1.
fn drop_in(place: &Place, port: u16, script: &str) -> std::process::Command {
    let document = json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": {
        "id": "drop-in", "lifetime": {"ttlSeconds": 60},
        "authority": {"egressRules": [{"host": "127.0.0.1", "port": port}]},
        "run": {"argv": ["/bin/bash", "-c", script], "secretDelivery": "env"}}});
    place.file("cell.json", document.to_string());
    let mut command = place.supervisor(&["cell.json"]);
    command.env("CELLOS_CELL_BACKEND", "linux");
    command
}

#[test]
fn the_drop_in_has_the_same_gateway() {
    require!("userns");
    let (place, port, other) = (Place::new(), server(), server());
    let script = format!("( {} ) && ! ( {} )", ask(port), ask(other));
    let ran = drop_in(&place, port, &script).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout)
            .matches("reached")
            .count(),
        1,
        "{ran:?}"
    );
}

#[test]
fn the_drop_in_goes_through_the_proxy_that_its_variable_names() {
    require!("userns");
    let (place, port) = (Place::new(), server());
    // A proxy that asks what for, and refuses.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let mut stream = proxy.accept().unwrap().0;
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let ran = drop_in(&place, port, &ask(port))
        .env("CELLOS_EGRESS_PROXY", format!("http://{address}"))
        .output()
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&ran.stdout).contains("reached"),
        "{ran:?}"
    );
    let log = std::fs::read_to_string(place.events()).unwrap();
    assert!(log.contains("proxy_refused"), "{log} {ran:?}");
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with(&format!("CONNECT 127.0.0.1:{port} ")),
        "{asked}"
    );
}

#[test]
fn a_proxy_of_the_drop_in_that_cannot_be_read_is_an_error_without_its_password() {
    let place = Place::new();
    let ran = drop_in(&place, 1, "true")
        .env("CELLOS_EGRESS_PROXY", "http://me:hunter2@proxy")
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        said.contains("CELLOS_EGRESS_PROXY: ") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_log_with_many_flows_and_refusals_adds_up() {
    require!("userns");
    let (place, port, other) = (Place::new(), server(), server());
    let script = format!(
        "for n in $(seq 100); do exec 3<>/dev/tcp/127.0.0.1/{other}; \
         exec 3<>/dev/tcp/192.0.2.7/{port}; exec 3<>/dev/tcp/192.0.2.7/{other}; \
         exec 3<>/dev/tcp/no$n.example/{port}; done 2>/dev/null; \
         for n in 1 2 3 4 5; do ({}); done",
        ask(port)
    );
    let ran = run(&place, &["--allow", &format!("127.0.0.1:{port}")], &script);
    assert!(ran.status.success(), "{ran:?}");
    let flows = data(&place, "network_flow_decision");
    let refused: Vec<&Value> = flows.iter().filter(|it| it["decision"] == "deny").collect();
    let told: u64 = refused
        .iter()
        .map(|flow| flow["count"].as_u64().unwrap_or(1))
        .sum();
    let egress = &data(&place, "lifecycle.v1.destroyed")[0]["egress"];
    assert_eq!(egress["flowsAllowed"], 5, "{egress}");
    assert_eq!(egress["flowsRefused"], told, "{egress}");
    assert!(
        told >= 200 && refused.len() < 200,
        "{told} in {}",
        refused.len()
    );
    assert!(egress["queriesRefused"].as_u64() >= Some(100), "{egress}");
    let log = place.path().join("log.jsonl");
    let verified = place
        .cellos(&["verify", log.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(!said.contains("found "), "{said}");
}
