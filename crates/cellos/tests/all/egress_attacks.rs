//! Ways out of a cell's network. Each is really tried, by a program in the cell, and has to be closed
//! and recorded; afterwards the gateway still lets through what is declared.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use cellos_testkit::require;
use serde_json::{Value, json};

use crate::egress_stage::{LIARS, NAME, Stage, assert_held, system_python};

#[test]
fn no_address_and_no_other_port_leads_out() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let evidence = stage.try_all(
        None,
        &[
            "before_resolution",
            "literals",
            "other_ports",
            "host_loopback",
            "spellings",
            "synthetic_not_given",
            "source_routes",
            "device_and_marks",
            "self_connect",
            "quic",
        ],
    );
    evidence.assert_refused(&[
        ("no_rule/tcp", 30),
        ("unknown_address/tcp", 3 + 10),
        ("undeclared_port/tcp", 6),
        ("undeclared_port/udp", 4),
    ]);
    let names_address = |address: &str| evidence.flows.iter().any(|it| it["dstAddr"] == address);
    for address in [
        "169.254.169.254",
        "8.8.8.8",
        "2001:4860:4860::8888",
        "127.0.0.1",
        "::1",
    ] {
        assert!(names_address(address), "{address} is not told of");
    }
}

#[test]
fn a_declared_name_opens_no_other_and_forges_no_evidence() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let evidence = stage.try_all(
        None,
        &[
            "other_hosts_behind_address",
            "smuggled",
            "urgent_data",
            "dns_over_declared_port",
            "forged_hosts",
        ],
    );
    evidence.assert_refused(&[
        ("l7_http_host_allowlist_miss/tcp", 15),
        ("http_malformed/tcp", 5),
        ("http2_cleartext/tcp", 1),
        ("l7_unknown_protocol/tcp", 3),
        ("tls_malformed/tcp", 4),
    ]);
    // Nothing of what the cell said passes for something else, or fills the log.
    for flow in &evidence.flows {
        for field in ["presentedName", "requestedName", "detail"] {
            let text = flow[field].as_str().unwrap_or_default();
            assert!(text.chars().all(|it| (' '..='~').contains(&it)), "{text:?}");
            assert!(text.len() <= 512, "{} bytes of {field}", text.len());
        }
    }
    let cut = evidence
        .flows
        .iter()
        .filter_map(|it| it["presentedName"].as_str());
    assert!(
        cut.clone().any(|name| name.starts_with("aaaaaaaa")),
        "{cut:?}"
    );
    assert!(
        cut.clone()
            .any(|name| name.contains("\"decision\":\"allow")),
        "{cut:?}"
    );
    // Neither does what is shown of it.
    let path = stage.place.path().join("log.jsonl");
    let why = stage
        .place
        .cellos(&["why", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(
        !why.stdout.contains(&0x1b) && !why.stderr.contains(&0x1b),
        "{why:?}"
    );
}

const NAMESPACE: &[&str] = &[
    "other_families",
    "abstract_socket",
    "netlink_changes",
    "interface_changes",
    "nested_namespaces",
    "take_ports",
    "find_sockets",
    "destroy_sockets",
    "hosts_file",
];

#[test]
fn the_network_cannot_be_changed_from_inside() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    stage
        .try_all(None, NAMESPACE)
        .assert_refused(&[("no_rule/tcp", 2)]);
}

#[test]
fn nor_by_the_cells_root() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    stage
        .try_all(Some(0), NAMESPACE)
        .assert_refused(&[("no_rule/tcp", 2)]);
}

#[test]
fn no_name_leaves_the_host_that_is_not_connected_to() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let evidence = stage.try_all(
        None,
        &[
            "own_name_server",
            "other_name_servers",
            "odd_names",
            "long_labels",
            "same_name_spelled_otherwise",
        ],
    );
    // A tunnel through names would be seen by the name server outside.
    let asked: Vec<String> = stage.names.asked().into_iter().map(|it| it.name).collect();
    assert!(
        !asked.is_empty() && asked.iter().all(|name| name == NAME),
        "{asked:?}"
    );
    for query in &evidence.queries {
        let name = query["queryName"].as_str().unwrap();
        assert!(name.chars().all(|it| (' '..='~').contains(&it)), "{name:?}");
        assert!(name.len() <= 1024, "{} bytes", name.len());
    }
    let refused = |name: &str| {
        let deny = evidence
            .queries
            .iter()
            .filter(|it| it["decision"] == "deny");
        deny.filter(|it| it["queryName"] == name).count()
    };
    assert!(refused("evil.test.example") > 0);
}

#[test]
fn no_declared_name_leads_to_the_host_or_its_neighbours() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let document = stage.document(
        "cell.json",
        "attack",
        None,
        (NAME, stage.port),
        &["lying_names", "changing_name"],
    );
    let ran = stage.command(&document, "log.jsonl").output().unwrap();
    assert_held(&ran, &["lying_names", "changing_name"]);
    let evidence = stage.evidence("log.jsonl");
    let liars = u64::try_from(LIARS.len()).unwrap();
    evidence.assert_refused(&[("address_forbidden/tcp", liars)]);
    // The changing name led to the right place each time it led anywhere.
    let seen = stage.seen.lock().unwrap();
    let (fine, bait): (Vec<_>, Vec<_>) = seen
        .iter()
        .partition(|(_, address, _)| address.to_string() == "127.0.0.9");
    assert_eq!((fine.is_empty(), bait.len()), (false, 1), "{seen:?}");
    let told = |decision| {
        let changed = evidence
            .flows
            .iter()
            .filter(|it| it["requestedName"] == "changing.test.example");
        let of_decision = changed.filter(move |it| it["decision"] == decision);
        of_decision.map(|it| &it["dstAddr"]).collect::<Vec<_>>()
    };
    let led = told("allow");
    assert!(
        led.len() == fine.len() && led.iter().all(|it| *it == "127.0.0.9"),
        "{led:?}"
    );
    // And it did try to lead elsewhere.
    assert!(!told("deny").is_empty(), "{:?}", evidence.flows);
}

#[test]
fn one_cell_does_not_reach_the_gateway_of_another() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let next = stage.port + 1;
    let beside = stage.document(
        "beside.json",
        "beside",
        None,
        ("other.test.example", next),
        &["waits_beside"],
    );
    let mut beside = stage
        .command(&beside, "beside.jsonl")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = String::new();
    let mut output = BufReader::new(beside.stdout.take().unwrap());
    output.read_line(&mut word).unwrap();
    assert_eq!(word, "beside\n");
    stage
        .try_all(None, &["other_cell"])
        .assert_refused(&[("no_rule/tcp", 2)]);
    drop(beside.stdin.take());
    assert!(beside.wait().unwrap().success());
    // Nothing of it came to the other one.
    let evidence = stage.evidence("beside.jsonl");
    assert_eq!(evidence.egress["flowsAllowed"], 0, "{:?}", evidence.flows);
}

#[test]
fn no_process_and_no_connection_outlives_the_cell() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let begun = Instant::now();
    stage.try_all(None, &["leaves_a_process"]);
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}

/// That the tries are worth something: they find what a document leaves open.
#[test]
fn the_same_tries_find_what_is_left_open() {
    require!("userns");
    require!("python3", system_python());
    let stage = Stage::set();
    let tries = ["host_loopback", "other_hosts_behind_address", "urgent_data"];
    let document = stage.document("cell.json", "open", None, (NAME, stage.port), &tries);
    let mut document: Value = serde_json::from_slice(&std::fs::read(document).unwrap()).unwrap();
    document["spec"]["authority"]["egressRules"] = json!([
        {"host": NAME, "port": stage.port, "protocol": "tcp"},
        {"host": "127.0.0.0/8", "port": stage.port + 1, "protocol": "tcp"}]);
    let document = stage.place.file("open.json", document.to_string());
    let document = document.to_str().unwrap();
    let ran = stage.command(document, "log.jsonl").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    for name in tries {
        assert!(said.contains(&format!("{name} open: ")), "{ran:?}");
    }
    assert!(stage.seen.lock().unwrap().len() > tries.len());
    stage.evidence("log.jsonl");
}
