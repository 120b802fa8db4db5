use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    document::{AuthorityBundle, DnsQueryType},
    event::{DnsQuery, NetworkFlowDecision, NetworkVerdict, QueryReason},
    ports::network::{NetworkReport, NetworkReports},
};
use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

use super::*;
use crate::{
    dial::Upstream,
    gateway::{Cell, Mode},
    names::Names,
    report::Reporter,
    resolve::{Records, Resolution, Resolve, ResolveFailure},
    rules::Rules,
    udp::{CellSocket, Flows},
};

#[derive(Default)]
struct Reports(Mutex<Vec<NetworkReport>>);

impl Reports {
    fn queries(&self) -> Vec<DnsQuery> {
        let all = self.0.lock().unwrap();
        let queries = all.iter().filter_map(|report| match report {
            NetworkReport::Query(query) => Some((**query).clone()),
            _ => None,
        });
        queries.collect()
    }

    fn flows(&self) -> Vec<NetworkFlowDecision> {
        let all = self.0.lock().unwrap();
        let flows = all.iter().filter_map(|report| match report {
            NetworkReport::Flow(flow) => Some((**flow).clone()),
            _ => None,
        });
        flows.collect()
    }
}

#[async_trait]
impl NetworkReports for Reports {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        self.0.lock().unwrap().push(report);
        Ok(())
    }
}

/// Says 60 texts of 200 bytes for every name, and beside them what nobody asked for.
struct Outside;

#[async_trait]
impl Resolve for Outside {
    async fn addresses(&self, _: &str, _: u16) -> Result<Resolution, ResolveFailure> {
        Err(ResolveFailure::NoAddress)
    }

    async fn records(&self, name: &str, _: DnsQueryType) -> Result<Records, ResolveFailure> {
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        let alias = Name::from_ascii("alias.example.net.").unwrap();
        let other = Name::from_ascii("other.example.net.").unwrap();
        let text = |owner: &Name, text: String| {
            Record::from_rdata(owner.clone(), 9, RData::TXT(rdata::TXT::new(vec![text])))
        };
        let mut answers = vec![
            Record::from_rdata(name.clone(), 9, RData::CNAME(rdata::CNAME(alias.clone()))),
            Record::from_rdata(alias.clone(), 9, RData::A(rdata::A(Ipv4Addr::LOCALHOST))),
            text(&other, "not asked for".into()),
        ];
        answers.extend((0..60).map(|at| text(&alias, format!("{at:0200}"))));
        Ok(Records {
            rcode: 0,
            answers,
            resolver_id: Some("r1".into()),
        })
    }
}

fn cell_of(authority: serde_json::Value) -> (Arc<Cell>, Arc<Reports>) {
    let authority: AuthorityBundle = serde_json::from_value(authority).unwrap();
    let reports = Arc::new(Reports::default());
    let cell = Cell {
        mode: Mode::Enforce,
        rules: Rules::of(&authority).unwrap(),
        names: Names::default(),
        resolver: Arc::new(Outside),
        upstream: Upstream::Direct,
        reporter: Arc::new(Reporter::new(
            Arc::clone(&reports) as Arc<dyn NetworkReports>
        )),
        learned: Arc::default(),
    };
    (Arc::new(cell), reports)
}

fn server() -> (Arc<NameServer>, Arc<Reports>) {
    let (cell, reports) = cell_of(serde_json::json!({
        "egressRules": [
            {"host": "api.example.com", "port": 443},
            {"host": "*.wild.example.com", "port": 443},
        ],
        "dnsAuthority": {"allowedQueryTypes": ["A", "AAAA", "TXT", "HTTPS", "CNAME"]},
    }));
    (NameServer::new(cell), reports)
}

fn asks(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn said(server: &NameServer, query: &[u8], transport: Transport) -> Message {
    let answer = server.answer(query, transport).await.unwrap().unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn what_a_name_and_a_type_get() {
    let (server, reports) = server();
    let pool = "198.18.1.0".parse().unwrap();
    let cases = [
        (
            "api.example.com.",
            RecordType::A,
            ResponseCode::NoError,
            Some(RData::A(rdata::A(pool))),
        ),
        (
            "API.Example.com.",
            RecordType::A,
            ResponseCode::NoError,
            Some(RData::A(rdata::A(pool))),
        ),
        (
            "api.example.com.",
            RecordType::AAAA,
            ResponseCode::NoError,
            Some(RData::AAAA(rdata::AAAA(
                "fd63:656c:6c6f::c612:100".parse().unwrap(),
            ))),
        ),
        (
            "api.example.com.",
            RecordType::HTTPS,
            ResponseCode::NoError,
            None,
        ),
        (
            "api.example.com.",
            RecordType::CNAME,
            ResponseCode::NoError,
            None,
        ),
        (
            "api.example.com.",
            RecordType::MX,
            ResponseCode::Refused,
            None,
        ),
        (
            "api.example.com.",
            RecordType::ANY,
            ResponseCode::Refused,
            None,
        ),
        ("example.com.", RecordType::A, ResponseCode::Refused, None),
        (
            "wild.example.com.",
            RecordType::A,
            ResponseCode::Refused,
            None,
        ),
        (".", RecordType::NS, ResponseCode::Refused, None),
        (
            "localhost.",
            RecordType::A,
            ResponseCode::NoError,
            Some(RData::A(rdata::A(Ipv4Addr::LOCALHOST))),
        ),
        (
            "0.1.18.198.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NoError,
            Some(RData::PTR(rdata::PTR(
                Name::from_ascii("api.example.com.").unwrap(),
            ))),
        ),
        (
            "9.1.18.198.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::Refused,
            None,
        ),
    ];
    for (name, kind, code, data) in cases {
        let answer = said(&server, &asks(name, kind), Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert_eq!(answer.metadata.id, 77);
        let found = answer.answers.first().map(|record| record.data.clone());
        assert_eq!(found, data, "{name} {kind}");
        assert!(
            answer.queries[0]
                .name()
                .eq_case(&Name::from_ascii(name).unwrap())
        );
    }
    let queries = reports.queries();
    let allowed = |query: &&DnsQuery| query.decision == NetworkVerdict::Allow;
    assert_eq!(queries.iter().filter(allowed).count(), 1, "{queries:?}");
    assert_eq!(queries.len(), 1 + 6, "{queries:?}");
    let reason = |kind: &str| {
        let mut found = queries.iter().filter(|query| query.query_type == kind);
        found.next().map(|query| query.reason_code)
    };
    assert_eq!(reason("MX"), Some(QueryReason::DeniedQueryType));
    assert_eq!(reason("TYPE255"), Some(QueryReason::DeniedQueryType));
    assert_eq!(reason("NS"), Some(QueryReason::DeniedNotInAllowlist));
}

#[tokio::test]
async fn names_made_up_below_a_wildcard_come_to_an_end() {
    let (server, reports) = server();
    for at in 0..crate::names::MAX_NAMES {
        let query = asks(&format!("x{at}.wild.example.com."), RecordType::A);
        let answer = said(&server, &query, Transport::Udp).await;
        assert_eq!(answer.answers.len(), 1);
    }
    let more = asks("secret.wild.example.com.", RecordType::A);
    let answer = said(&server, &more, Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let last = reports.queries().pop().unwrap();
    assert_eq!(last.reason_code, QueryReason::TooManyNames);
}

#[tokio::test]
async fn records_from_outside_are_those_asked_for_and_fit() {
    let (server, reports) = server();
    let query = asks("api.example.com.", RecordType::TXT);
    let short = said(&server, &query, Transport::Udp).await;
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = said(&server, &query, Transport::Tcp).await;
    assert_eq!(whole.answers.len(), 60);
    for record in &whole.answers {
        assert_eq!(record.record_type(), RecordType::TXT);
        assert_eq!(record.name.to_string(), "api.example.com.");
    }
    let told = reports.queries().pop().unwrap();
    assert_eq!(told.response_target_count, Some(60));
    assert_eq!(told.upstream_resolver_id.as_deref(), Some("r1"));
}

#[tokio::test]
async fn malformed_queries_get_a_code_or_nothing() {
    let (server, reports) = server();
    let good = asks("api.example.com.", RecordType::A);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let options = |version: u8| {
        changed(&|bytes| {
            bytes[11] = 1;
            bytes.extend([0, 0, 41, 16, 0, 0, version, 0x80, 0, 0, 0]);
        })
    };
    let cases = [
        ("short", vec![0; 11], None),
        ("an answer", changed(&|bytes| bytes[2] |= 0x80), None),
        ("an update", changed(&|bytes| bytes[2] |= 5 << 3), Some(4)),
        ("no question", changed(&|bytes| bytes[5] = 0), Some(1)),
        ("two questions", changed(&|bytes| bytes[5] = 2), Some(1)),
        ("an answer count", changed(&|bytes| bytes[7] = 1), Some(1)),
        ("cut", good[..good.len() - 1].to_vec(), Some(1)),
        ("junk", [&good[..], &[0x55; 65000]].concat(), Some(1)),
        (
            "a loop",
            changed(&|bytes| bytes.splice(12..14, [0xc0, 12]).for_each(drop)),
            Some(1),
        ),
        (
            "another class",
            changed(&|bytes| *bytes.last_mut().unwrap() = 3),
            Some(5),
        ),
        ("other options", options(1), Some(0)),
    ];
    for (what, bytes, code) in &cases {
        let answer = server.answer(bytes, Transport::Udp).await.unwrap();
        assert_eq!(answer.map(|answer| answer[3] & 0x0f), *code, "{what}");
    }
    assert_eq!(reports.queries().len(), cases.len());
    let old = said(&server, &options(1), Transport::Udp).await;
    assert_eq!(
        old.metadata.response_code.low() | old.edns.unwrap().rcode_high() << 4,
        16
    );
    let with = said(&server, &options(0), Transport::Udp).await;
    assert_eq!(with.answers.len(), 1);
    assert!(with.edns.unwrap().flags().dnssec_ok);
}

#[tokio::test]
async fn a_connection_carries_queries_in_order_and_ends_at_junk() {
    let (server, _) = server();
    let (mut client, served) = tokio::io::duplex(256);
    let serving = tokio::spawn(server.serve_connection(served));
    let query = asks("api.example.com.", RecordType::A);
    let framed = [
        &u16::try_from(query.len()).unwrap().to_be_bytes()[..],
        &query,
    ]
    .concat();
    client
        .write_all(&[&framed[..], &framed].concat())
        .await
        .unwrap();
    for _ in 0..2 {
        let size = client.read_u16().await.unwrap();
        let mut answer = vec![0; size.into()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    client.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_connections_end_and_too_many_are_closed() {
    let (server, _) = server();
    let mut clients = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let (mut client, served) = tokio::io::duplex(256);
        client.write_all(&[0, 30, 1]).await.unwrap();
        tokio::spawn(Arc::clone(&server).serve_connection(served));
        clients.push(client);
    }
    while server.connections.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let (mut late, served) = tokio::io::duplex(256);
    Arc::clone(&server).serve_connection(served).await;
    assert_eq!(late.read(&mut [0; 9]).await.unwrap(), 0);
    let begun = tokio::time::Instant::now();
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
    }
    assert_eq!(begun.elapsed().as_secs(), MESSAGE_LIMIT.as_secs());
}

/// Names of port 53 cannot be had without privileges, but the socket does not care.
#[tokio::test]
async fn answers_over_udp_come_from_where_the_query_went() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let (server, reports) = server();
        let bound = std::net::UdpSocket::bind(any).unwrap();
        let port = bound.local_addr().unwrap().port();
        let socket = Arc::new(CellSocket::new(bound.into()).unwrap());
        let flows = Flows::new(Arc::clone(&server.cell));
        let serving = tokio::spawn(server.serve_udp(socket, flows));
        let client = UdpSocket::bind("127.0.0.9:0").await.unwrap();
        for last in [1, 77] {
            let to = SocketAddr::new(IpAddr::from([127, 0, 0, last]), port);
            client
                .send_to(&asks("api.example.com.", RecordType::A), to)
                .await
                .unwrap();
            let mut answer = [0; 512];
            let waited = client.recv_from(&mut answer);
            let waited = tokio::time::timeout(Duration::from_secs(5), waited).await;
            let (size, from) = waited.unwrap().unwrap();
            assert_eq!(from, to, "{any}");
            assert_eq!(Message::from_vec(&answer[..size]).unwrap().answers.len(), 1);
        }
        serving.abort();
        assert_eq!((reports.queries().len(), reports.flows().len()), (1, 0));
    }
}

#[tokio::test]
async fn a_flow_goes_where_its_rule_says_and_is_told_at_its_end() {
    let outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let there = outside.local_addr().unwrap();
    let (cell, reports) = cell_of(serde_json::json!({
        "egressRules": [{"host": "127.0.0.1", "port": there.port(), "protocol": "udp"}],
    }));
    let bound = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let socket = Arc::new(CellSocket::new(bound.into()).unwrap());
    let client = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    let flows = Flows::new(cell);
    let letter = |to: SocketAddr| crate::udp::Letter {
        from: client.local_addr().unwrap(),
        to,
        bytes: b"ask".to_vec(),
    };
    flows.letter(&socket, there.port(), letter(there)).await;
    let other = SocketAddr::from(([127, 0, 0, 2], there.port()));
    flows.letter(&socket, there.port(), letter(other)).await;
    let mut bytes = [0; 16];
    let limit = Duration::from_secs(5);
    let asked = tokio::time::timeout(limit, outside.recv_from(&mut bytes));
    let (size, from) = asked.await.unwrap().unwrap();
    assert_eq!(&bytes[..size], b"ask");
    outside.send_to(b"answer", from).await.unwrap();
    let answered = tokio::time::timeout(limit, client.recv_from(&mut bytes));
    let (size, from) = answered.await.unwrap().unwrap();
    assert_eq!((&bytes[..size], from.ip()), (&b"answer"[..], there.ip()));
    flows.finish().await;
    let told = reports.flows();
    let verdicts = told
        .iter()
        .map(|flow| (flow.decision, flow.bytes_out, flow.bytes_in));
    assert_eq!(
        verdicts.collect::<Vec<_>>(),
        [
            (NetworkVerdict::Deny, None, None),
            (NetworkVerdict::Allow, Some(3), Some(6))
        ]
    );
}

proptest! {
    #[test]
    fn no_bytes_disturb_the_name_server(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in 0usize..33,
        byte: u8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (server, _) = server();
        let mut near = asks("api.example.com.", RecordType::A);
        near[at] = byte;
        for (bytes, transport) in [(&bytes, Transport::Tcp), (&near, Transport::Udp)] {
            let answer = runtime.block_on(async {
                // No timer is needed: nothing waits.
                match server.begin(bytes, transport).await.unwrap() {
                    answer::Step::Done(answer) => answer,
                    answer::Step::Ask(_) => None,
                }
            });
            if let Some(answer) = answer {
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer[2] & 0x80 != 0 && answer.len() <= 512);
            }
        }
    }
}
