//! The gateway on the loopback device of this host: the listener says where the cell "wanted to go".

use std::{io, net::SocketAddr, sync::Mutex, time::Instant};

use cellos_core::{
    document::{AuthorityBundle, DnsQueryType},
    event::{
        FlowDirection, FlowEnd, FlowProtocol, FlowReason, NETWORK_SCHEMA_VERSION,
        NetworkFlowDecision, NetworkVerdict,
    },
    ports::network::NetworkReport,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::resolve::{Records, Resolution, ResolveFailure};

/// Keeps reports; takes no more from `full` on.
#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) reports: Mutex<Vec<NetworkReport>>,
    full: std::sync::atomic::AtomicBool,
    stalled: std::sync::atomic::AtomicBool,
}

impl Recorded {
    pub(crate) fn flows(&self) -> Vec<NetworkFlowDecision> {
        let reports = self.reports.lock().unwrap();
        let flows = reports.iter().filter_map(|report| match report {
            NetworkReport::Flow(flow) => Some(*flow.clone()),
            _ => None,
        });
        flows.collect()
    }

    fn stall(&self) {
        self.stalled
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn fill(&self) {
        self.full.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[async_trait]
impl NetworkReports for Recorded {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(CellosError::EventSink("full".into()));
        }
        if self.stalled.load(std::sync::atomic::Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.reports.lock().unwrap().push(report);
        Ok(())
    }
}

/// A refusal as any.
pub(crate) fn refusal(reason: FlowReason) -> NetworkFlowDecision {
    NetworkFlowDecision {
        schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
        decision_id: "1".to_owned(),
        direction: FlowDirection::Egress,
        decision: NetworkVerdict::Deny,
        reason_code: reason,
        nft_rule_ref: None,
        dst_addr: Some("192.0.2.1".to_owned()),
        dst_port: Some(443),
        protocol: Some(FlowProtocol::Tcp),
        byte_count: None,
        observed_at: "2026-01-01T00:00:00Z".to_owned(),
        requested_name: None,
        presented_name: None,
        bytes_out: None,
        bytes_in: None,
        duration_ms: None,
        ended_by: None,
        upstream_resolver_id: None,
        detail: None,
        count: None,
    }
}

/// Every name is this host.
struct Here;

#[async_trait]
impl Resolve for Here {
    async fn addresses(&self, _name: &str, _port: u16) -> Result<Resolution, ResolveFailure> {
        Ok(Resolution {
            addresses: vec!["127.0.0.1".parse().unwrap()],
            resolver_id: None,
        })
    }

    async fn records(&self, _name: &str, _kind: DnsQueryType) -> Result<Records, ResolveFailure> {
        Err(ResolveFailure::NoAddress)
    }
}

/// A gateway of which one port is served; clients get to "`name`, port of `server`".
struct Stage {
    open: Box<Open>,
    recorded: Arc<Recorded>,
    door: SocketAddr,
    server: TcpListener,
}

impl Stage {
    async fn new(protocol: &str) -> Self {
        let slots = ProcessSlots::of_this_process().for_cell();
        Self::with(protocol, slots, Patience::default()).await
    }

    /// A rule for example.test with this `protocol` (an absent one when empty).
    async fn with(protocol: &str, slots: CellSlots, patience: Patience) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let mut rule = serde_json::json!({"host": "example.test", "port": port});
        if !protocol.is_empty() {
            rule["protocol"] = protocol.into();
        }
        let authority: AuthorityBundle =
            serde_json::from_value(serde_json::json!({"egressRules": [rule]})).unwrap();
        let recorded = Arc::new(Recorded::default());
        let cell = Cell {
            mode: Mode::Enforce,
            rules: Rules::of(&authority).unwrap(),
            names: Names::default(),
            resolver: Arc::new(Here),
            upstream: Upstream::Direct,
            reporter: Arc::new(Reporter::new(recorded.clone())),
            learned: Arc::default(),
        };
        let stand = cell.names.stand_for("example.test").unwrap();
        let mut serving = Serving::new(cell, slots, Arc::default());
        serving.patience = patience;
        let mut stage = Self {
            open: Box::new(Open {
                serving: Arc::new(serving),
                tasks: JoinSet::new(),
                published: None,
            }),
            recorded,
            door: server.local_addr().unwrap(),
            server,
        };
        stage.door = stage.door_to((stand.v4, port).into()).await;
        stage
    }

    /// Where a client connects to that wants to go there.
    async fn door_to(&mut self, intended: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let serving = Arc::clone(&self.open.serving);
        let task = accept::serve(serving, listener, move |_| Ok(intended));
        self.open.tasks.spawn(task);
        door
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.door).await.unwrap()
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.client().await;
        let (server, _) = self.server.accept().await.unwrap();
        (client, server)
    }

    /// A pair that has exchanged its first byte, so that both halves are known to the gateway.
    async fn talking_pair(&self) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = self.pair().await;
        server.write_all(b".").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        (client, server)
    }

    async fn flows(&self, count: usize) -> Vec<NetworkFlowDecision> {
        let begun = Instant::now();
        while self.recorded.flows().len() < count {
            assert!(begun.elapsed() < Duration::from_secs(10), "no event");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.recorded.flows()
    }
}

async fn all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    Ok(said)
}

#[tokio::test]
async fn half_closed_connections_carry_on_and_are_told_when_both_sides_are_done() {
    let stage = Stage::new("tcp").await;
    let (mut client, mut server) = stage.pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await.unwrap(), b"question");
    assert!(stage.recorded.flows().is_empty());
    server.write_all(b"a long answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await.unwrap(), b"a long answer");

    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.decision, NetworkVerdict::Allow);
    assert_eq!(flow.reason_code, FlowReason::EgressRuleMatch);
    assert_eq!(
        flow.nft_rule_ref.as_deref(),
        Some("authority.egressRules[0]")
    );
    assert_eq!(flow.requested_name.as_deref(), Some("example.test"));
    assert_eq!(flow.dst_addr.as_deref(), Some("127.0.0.1"));
    assert_eq!((flow.bytes_out, flow.bytes_in), (Some(8), Some(13)));
    assert_eq!(flow.ended_by, Some(FlowEnd::Closed));
    let record = stage.open.close().await.unwrap();
    assert_eq!(record.exercised_rules, [0]);
    assert_eq!((record.flows_allowed, record.flows_refused), (1, 0));
    assert_eq!((record.bytes_out, record.bytes_in), (8, 13));
}

#[tokio::test]
async fn servers_that_speak_first_are_heard() {
    let stage = Stage::new("tcp").await;
    let (mut client, mut server) = stage.pair().await;
    server.write_all(b"220 welcome").await.unwrap();
    let mut said = [0; 11];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"220 welcome");
}

#[tokio::test]
async fn a_reset_is_passed_on_and_told() {
    let stage = Stage::new("tcp").await;
    let (mut client, server) = stage.talking_pair().await;
    crate::relay::reset(&server);
    drop(server);
    let error = all(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.ended_by, Some(FlowEnd::Reset));
}

#[tokio::test]
async fn silent_flows_end() {
    let slots = ProcessSlots::of_this_process().for_cell();
    let patience = Patience {
        idle: Duration::from_millis(200),
        after_server: Duration::from_millis(50),
    };
    let stage = Stage::with("tcp", slots, patience).await;
    let (mut client, mut server) = stage.pair().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.write_all(b".").await.unwrap();
    }
    let mut said = [0; 4];
    client.read_exact(&mut said).await.unwrap();
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.ended_by, Some(FlowEnd::Idle));
    assert!(flow.duration_ms.unwrap() >= 600, "{flow:?}");
    assert!(all(&mut client).await.is_err());
}

#[tokio::test]
async fn bulk_data_arrives_as_it_was_both_ways_at_once() {
    const BYTES: usize = 24 * 1024 * 1024;
    let stage = Stage::new("tcp").await;
    let (client, server) = stage.pair().await;
    let data: Arc<Vec<u8>> = Arc::new(
        (0..BYTES)
            .map(|at| (((at * 7919) >> 5) % 251).try_into().unwrap())
            .collect(),
    );
    let exchange = |stream: TcpStream| {
        let data = Arc::clone(&data);
        async move {
            let (mut from, mut to) = stream.into_split();
            let writing = tokio::spawn({
                let data = Arc::clone(&data);
                async move {
                    to.write_all(&data).await.unwrap();
                    to.shutdown().await.unwrap();
                }
            });
            let mut said = Vec::new();
            from.read_to_end(&mut said).await.unwrap();
            writing.await.unwrap();
            assert!(said == *data);
        }
    };
    tokio::join!(exchange(client), exchange(server));
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.byte_count, Some(2 * BYTES as u64));
}

#[tokio::test]
async fn who_does_not_read_holds_the_other_side_back() {
    let stage = Stage::new("tcp").await;
    let (client, server) = stage.pair().await;
    let written = async {
        let mut written = 0;
        loop {
            server.writable().await.unwrap();
            match server.try_write(&[7; 65536]) {
                Ok(more) => written += more,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(written < 512 * 1024 * 1024, "it goes on and on");
        }
    };
    let stuck: Result<(), _> = timeout(Duration::from_secs(1), written).await;
    assert!(stuck.is_err());
    let record = stage.open.close().await.unwrap();
    assert!(record.bytes_in < 64 * 1024 * 1024, "{record:?}");
    drop(client);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_counted_and_room_comes_back() {
    let slots = ProcessSlots::for_descriptors(256).for_cell();
    let stage = Stage::with("tcp", slots, Patience::default()).await;
    let most = slots::RESERVED_FLOWS + 16;
    let mut pairs = Vec::new();
    for _ in 0..most {
        pairs.push(stage.talking_pair().await);
    }
    for _ in 0..1000 {
        let _ = all(&mut stage.client().await).await;
    }
    drop(pairs);
    stage.flows(report_limit() + most).await;
    let _again = stage.talking_pair().await;
    let recorded = Arc::clone(&stage.recorded);
    let record = stage.open.close().await.unwrap();
    assert_eq!(record.flows_refused, 1000);
    assert_eq!(record.flows_allowed, most as u64 + 1);
    let refused: u64 = recorded
        .flows()
        .iter()
        .filter(|flow| flow.reason_code == FlowReason::TooManyFlows)
        .map(|flow| flow.count.unwrap_or(1))
        .sum();
    assert_eq!(refused, 1000);
}

fn report_limit() -> usize {
    crate::report::OWN_EVENTS as usize
}

#[tokio::test]
async fn what_no_rule_covers_is_reset_at_once_and_goes_nowhere() {
    let mut stage = Stage::new("tcp").await;
    let port = stage.server.local_addr().unwrap().port();
    let mut told = 0;
    for (intended, reason) in [
        ("192.0.2.7", FlowReason::NoRule),
        ("198.18.200.1", FlowReason::UnknownAddress),
    ] {
        let door = stage
            .door_to((intended.parse::<std::net::IpAddr>().unwrap(), port).into())
            .await;
        let mut client = TcpStream::connect(door).await.unwrap();
        assert!(all(&mut client).await.is_err());
        told += 1;
        let flow = stage.flows(told).await.pop().unwrap();
        assert_eq!(flow.dst_addr.as_deref(), Some(intended));
        assert_eq!(flow.reason_code, reason);
        assert_eq!(flow.decision, NetworkVerdict::Deny);
    }
    assert_nobody_dialled(&stage).await;
}

async fn assert_nobody_dialled(stage: &Stage) {
    let dialled = timeout(Duration::from_millis(50), stage.server.accept()).await;
    assert!(dialled.is_err(), "the destination was dialled");
}

/// The hello of a client that wants to speak with `name`.
async fn hello(name: &'static str) -> Vec<u8> {
    use tokio_rustls::{TlsConnector, rustls};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let client = tokio::spawn(connector.connect(name.try_into().unwrap(), ours));
    let mut said = vec![0; 16 * 1024];
    let read = theirs.read(&mut said).await.unwrap();
    client.abort();
    said.truncate(read);
    said
}

#[tokio::test]
async fn tls_for_another_name_is_told_so_and_nothing_is_dialled() {
    let stage = Stage::new("").await;
    let mut client = stage.client().await;
    client.write_all(&hello("other.test").await).await.unwrap();
    let said = all(&mut client).await.unwrap();
    assert_eq!(said, [21, 3, 3, 0, 2, 2, 49]);
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.reason_code, FlowReason::L7SniAllowlistMiss);
    assert_eq!(flow.presented_name.as_deref(), Some("other.test"));
    assert_eq!(flow.requested_name.as_deref(), Some("example.test"));
    assert_nobody_dialled(&stage).await;
}

#[tokio::test]
async fn tls_for_the_name_goes_through_byte_by_byte_too() {
    let stage = Stage::new("tls").await;
    let hello = hello("example.test").await;
    let mut client = stage.client().await;
    client.set_nodelay(true).unwrap();
    for byte in &hello {
        client.write_all(std::slice::from_ref(byte)).await.unwrap();
    }
    let (mut server, _) = stage.server.accept().await.unwrap();
    let mut said = vec![0; hello.len()];
    server.read_exact(&mut said).await.unwrap();
    assert!(said == hello);
}

#[tokio::test]
async fn silent_and_dripping_clients_are_cut_off_in_time_and_nothing_is_dialled() {
    tokio::time::pause();
    for drip in [false, true] {
        let stage = Stage::new("").await;
        let mut client = stage.client().await;
        if drip {
            client
                .write_all(b"GET / HTTP/1.1\r\nX-Drip: ")
                .await
                .unwrap();
        }
        let end = all(&mut client).await;
        assert_eq!(end.is_ok(), drip, "HTTP clients are told");
        let flow = stage.flows(1).await.remove(0);
        assert_eq!(flow.reason_code, FlowReason::L7PeekTimeout);
    }
}

#[tokio::test]
async fn a_client_cannot_have_more_held_than_the_bound() {
    let stage = Stage::new("").await;
    let mut client = stage.client().await;
    let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
    head.resize(2 * opening::OPENING_BYTES, b'x');
    let _ = client.write_all(&head).await;
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.decision, NetworkVerdict::Deny);
    assert_nobody_dialled(&stage).await;
}

#[tokio::test]
async fn protocols_that_no_check_knows_are_closed_with_advice() {
    let stage = Stage::new("").await;
    let mut client = stage.client().await;
    client.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    assert!(all(&mut client).await.is_err());
    let flow = stage.flows(1).await.remove(0);
    assert_eq!(flow.reason_code, FlowReason::L7UnknownProtocol);
    assert!(flow.detail.unwrap().contains("declare `protocol: tcp`"));
    assert_nobody_dialled(&stage).await;
}

#[tokio::test]
async fn a_later_request_for_another_host_never_arrives_and_ends_the_flow() {
    let stage = Stage::new("http").await;
    let port = stage.server.local_addr().unwrap().port();
    let mut client = stage.client().await;
    let good = format!("GET /1 HTTP/1.1\r\nHost: example.test:{port}\r\n\r\n");
    client.write_all(good.as_bytes()).await.unwrap();
    let (mut server, _) = stage.server.accept().await.unwrap();
    let mut said = vec![0; good.len()];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(said, good.as_bytes());
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer).await.unwrap();
    let mut heard = vec![0; answer.len()];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, answer);

    let pipelined = format!("{good}GET /2 HTTP/1.1\r\nHost: other.test\r\n\r\n");
    client.write_all(pipelined.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    assert!(good.as_bytes().starts_with(&rest), "only the good request");
    let flows = stage.flows(2).await;
    assert_eq!(flows[0].reason_code, FlowReason::L7HttpHostAllowlistMiss);
    assert_eq!(flows[0].decision, NetworkVerdict::Deny);
    assert_eq!(flows[0].presented_name.as_deref(), Some("other.test"));
    assert_eq!(flows[1].decision, NetworkVerdict::Allow);
    assert_eq!(flows[1].ended_by, Some(FlowEnd::Refused));
}

#[tokio::test]
async fn closing_cuts_open_flows_and_tells_each() {
    let stage = Stage::new("tcp").await;
    let (mut client, _server) = stage.pair().await;
    let (_second, _other) = stage.talking_pair().await;
    client.write_all(b"1234").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let recorded = Arc::clone(&stage.recorded);
    let door = stage.door;
    let record = stage.open.close().await.unwrap();
    assert_eq!((record.flows_allowed, record.declared_rules), (2, 1));
    assert_eq!(record.bytes_out, 4);
    for flow in recorded.flows() {
        assert_eq!(flow.ended_by, Some(FlowEnd::CellEnded));
    }
    assert!(all(&mut client).await.is_err());
    assert!(TcpStream::connect(door).await.is_err());
}

#[tokio::test]
async fn dropping_a_gateway_ends_every_flow() {
    let stage = Stage::new("tcp").await;
    let (mut client, mut server) = stage.pair().await;
    drop(stage.open);
    let ended = timeout(Duration::from_secs(5), async {
        let _ = all(&mut client).await;
        let _ = all(&mut server).await;
    });
    ended.await.unwrap();
}

#[tokio::test]
async fn nothing_goes_through_any_more_once_the_record_is_full() {
    let stage = Stage::new("tcp").await;
    let (mut first, first_server) = stage.talking_pair().await;
    let (mut second, mut second_server) = stage.talking_pair().await;
    stage.recorded.fill();
    crate::relay::reset(&first_server);
    drop(first_server);
    let _ = all(&mut first).await;
    // The first flow could not be told, so the second one is cut, and there is no third.
    assert!(all(&mut second).await.is_err());
    assert!(all(&mut second_server).await.is_err());
    let begun = Instant::now();
    while TcpStream::connect(stage.door).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn closing_while_the_record_has_no_room_ends_in_time_and_is_no_success() {
    let stage = Stage::new("tcp").await;
    let (mut client, _server) = stage.talking_pair().await;
    stage.recorded.stall();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let closed = stage.open.close().await;
    assert!(
        matches!(closed, Err(CellosError::EventSink(_))),
        "{closed:?}"
    );
    assert_eq!(begun.elapsed().as_secs(), CLOSE_TIME.as_secs());
    tokio::time::resume();
    assert!(all(&mut client).await.is_err());
}
