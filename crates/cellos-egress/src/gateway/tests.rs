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
    reports: Mutex<Vec<NetworkReport>>,
    full: std::sync::atomic::AtomicBool,
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
    let record = stage.open.close().await;
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
