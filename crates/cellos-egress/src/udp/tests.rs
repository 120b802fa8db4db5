//! Flows over UDP on the loopback device of this host, with time that the tests turn.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    document::{AuthorityBundle, DnsQueryType},
    event::{FlowEnd, FlowReason, NetworkFlowDecision, NetworkVerdict},
    ports::network::{NetworkReport, NetworkReports},
};
use tokio::{
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant, advance, timeout},
};

use super::*;
use crate::{
    Mode,
    dial::Upstream,
    gateway::Cell,
    names::Names,
    report::Reporter,
    resolve::{Records, Resolution, Resolve, ResolveFailure},
    rules::Rules,
};

/// Keeps reports while it has room.
struct Slow {
    told: Mutex<Vec<NetworkFlowDecision>>,
    room: Semaphore,
}

#[async_trait]
impl NetworkReports for Slow {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        self.room.acquire().await.unwrap().forget();
        if let NetworkReport::Flow(flow) = report {
            self.told.lock().unwrap().push(*flow);
        }
        Ok(())
    }
}

impl Slow {
    fn told(&self) -> Vec<NetworkFlowDecision> {
        self.told.lock().unwrap().clone()
    }

    fn count(&self, reason: FlowReason) -> u64 {
        let told = self.told();
        let such = told.iter().filter(|flow| flow.reason_code == reason);
        such.map(|flow| flow.count.unwrap_or(1)).sum()
    }
}

/// Names are this host, as soon as there is an answer; `nowhere.test` is not.
#[derive(Default)]
struct Asked {
    asked: AtomicUsize,
    answers: Option<Semaphore>,
}

#[async_trait]
impl Resolve for Asked {
    async fn addresses(&self, name: &str, _port: u16) -> Result<Resolution, ResolveFailure> {
        self.asked.fetch_add(1, SeqCst);
        if let Some(answers) = &self.answers {
            answers.acquire().await.unwrap().forget();
        }
        match name {
            "nowhere.test" => Err(ResolveFailure::NoAddress),
            _ => Ok(Resolution {
                addresses: vec!["127.0.0.1".parse().unwrap()],
                resolver_id: None,
            }),
        }
    }

    async fn records(&self, _name: &str, _kind: DnsQueryType) -> Result<Records, ResolveFailure> {
        Err(ResolveFailure::NoAddress)
    }
}

struct Stage {
    flows: Arc<Flows>,
    reports: Arc<Slow>,
    reporter: Arc<Reporter>,
    resolver: Arc<Asked>,
    socket: Arc<CellSocket>,
    outside: UdpSocket,
    port: u16,
    to: IpAddr,
}

impl Stage {
    /// A cell with a rule for this name.
    async fn new(name: &str, room: usize, answers: Option<usize>) -> Self {
        let outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = outside.local_addr().unwrap().port();
        let authority: AuthorityBundle = serde_json::from_value(serde_json::json!({
            "egressRules": [{"host": name, "port": port, "protocol": "udp"}],
        }))
        .unwrap();
        let reports = Arc::new(Slow {
            told: Mutex::default(),
            room: Semaphore::new(room),
        });
        let reporter = Arc::new(Reporter::new(reports.clone()));
        let resolver = Arc::new(Asked {
            asked: AtomicUsize::new(0),
            answers: answers.map(Semaphore::new),
        });
        let cell = Cell {
            mode: Mode::Enforce,
            rules: Rules::of(&authority).unwrap(),
            names: Names::default(),
            resolver: resolver.clone(),
            upstream: Upstream::Direct,
            reporter: Arc::clone(&reporter),
            learned: Arc::default(),
        };
        let to = cell.names.stand_for(name).unwrap().v4.into();
        let bound = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        Self {
            flows: Flows::new(Arc::new(cell)),
            reports,
            reporter,
            resolver,
            socket: Arc::new(CellSocket::new(bound.into()).unwrap()),
            outside,
            port,
            to,
        }
    }

    /// The cell says this, from the port with this number.
    async fn say(&self, from: u16, bytes: Vec<u8>) {
        let letter = Letter {
            from: SocketAddr::from(([127, 0, 0, 9], from)),
            to: SocketAddr::new(self.to, self.port),
            bytes,
        };
        self.flows.letter(&self.socket, self.port, letter).await;
    }

    /// What arrives outside at once.
    async fn arrived(&self) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        let mut bytes = [0; 2048];
        while let Ok(received) =
            timeout(Duration::from_millis(200), self.outside.recv(&mut bytes)).await
        {
            arrived.push(bytes[..received.unwrap()].to_vec());
        }
        arrived
    }
}

const PLENTY: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_silent_ends_and_is_told() {
    let stage = Stage::new("example.test", PLENTY, None).await;
    stage.say(1000, b"one".to_vec()).await;
    assert_eq!(stage.arrived().await, [b"one"]);
    tokio::time::sleep(IDLE / 2).await;
    stage.say(1000, b"more".to_vec()).await;
    tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
    assert!(stage.reports.told().is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let told = stage.reports.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].decision, NetworkVerdict::Allow);
    assert_eq!(told[0].ended_by, Some(FlowEnd::Idle));
    assert_eq!((told[0].bytes_out, told[0].bytes_in), (Some(7), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn the_stalest_flow_gives_way_but_no_flow_that_has_just_begun() {
    let stage = Stage::new("example.test", PLENTY, None).await;
    stage.say(1, b"stale".to_vec()).await;
    assert_eq!(stage.arrived().await.len(), 1);
    for from in 2..=512 {
        stage.say(from, b".".to_vec()).await;
    }
    stage.say(600, b"too early".to_vec()).await;
    assert_eq!(stage.reports.count(FlowReason::TooManyFlows), 1);
    tokio::task::yield_now().await;
    advance(EVICT_AFTER).await;
    stage.say(601, b"late".to_vec()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let told = stage.reports.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1].decision, NetworkVerdict::Allow);
    assert_eq!(told[1].bytes_out, Some(5), "the stalest");
    stage.flows.finish().await;
    let record = stage.reporter.record();
    assert_eq!((record.flows_allowed, record.flows_refused), (513, 1));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_stalls_is_not_waited_for_by_any_number_of_flows() {
    let stage = Stage::new("example.test", 0, None).await;
    let said = 5 * MAX_FLOWS;
    for from in 0..said {
        // Waiting for room in the record takes the second that makes older flows give way.
        let say = stage.say(u16::try_from(from).unwrap() + 1, b".".to_vec());
        if timeout(EVICT_AFTER, say).await.is_ok() {
            advance(EVICT_AFTER / 64).await;
        }
        let tasks = stage.flows.tasks();
        assert!(tasks <= MAX_TASKS, "{tasks} tasks");
    }
    assert_eq!(stage.flows.tasks(), MAX_TASKS);
    stage.reports.room.add_permits(PLENTY);
    stage.flows.finish().await;
    let record = stage.reporter.record();
    assert_eq!(
        record.flows_allowed + record.flows_refused,
        u64::try_from(said).unwrap(),
        "{record:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_leads_nowhere_is_remembered_for_a_while() {
    let stage = Stage::new("nowhere.test", PLENTY, None).await;
    for _ in 0..10 {
        stage.say(1000, b"anybody?".to_vec()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.resolver.asked.load(SeqCst), 1);
    assert_eq!(stage.reports.count(FlowReason::ResolveFailed), 1);
    tokio::time::sleep(REFUSED_FOR).await;
    stage.say(1000, b"now?".to_vec()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(stage.resolver.asked.load(SeqCst), 2);
    assert_eq!(stage.reports.count(FlowReason::ResolveFailed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_few_datagrams_wait_for_the_name_and_no_more() {
    let stage = Stage::new("example.test", PLENTY, Some(0)).await;
    for number in 0..20 {
        stage.say(1000, vec![number]).await;
    }
    stage.resolver.answers.as_ref().unwrap().add_permits(1);
    let first: Vec<_> = (0..8).map(|number| vec![number]).collect();
    assert_eq!(stage.arrived().await, first);
    stage.say(1000, b"later".to_vec()).await;
    assert_eq!(stage.arrived().await, [b"later"]);

    for _ in 0..4 {
        stage.say(1001, vec![0; MAX_WAITING_BYTES / 3]).await;
    }
    stage.resolver.answers.as_ref().unwrap().add_permits(1);
    let mut bytes = vec![0; MAX_WAITING_BYTES];
    for _ in 0..3 {
        let size = stage.outside.recv(&mut bytes).await.unwrap();
        assert_eq!(size, MAX_WAITING_BYTES / 3);
    }
    assert!(stage.arrived().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_ends_before_its_name_is_known_is_told() {
    let stage = Stage::new("example.test", PLENTY, Some(0)).await;
    stage.say(1000, b"question".to_vec()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    stage.flows.finish().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let told = stage.reports.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].decision, NetworkVerdict::Deny);
    assert_eq!(told[0].reason_code, FlowReason::ConnectFailed);
    assert!(told[0].detail.as_deref().unwrap().contains("ended before"));
}

#[tokio::test(start_paused = true)]
async fn datagrams_that_the_way_does_not_carry_are_told_once() {
    let stage = Stage::new("example.test", PLENTY, None).await;
    stage.say(1000, b"small".to_vec()).await;
    assert_eq!(stage.arrived().await, [b"small"]);
    for _ in 0..5 {
        // IPv4 carries 65,507 bytes.
        stage.say(1000, vec![0; 65_520]).await;
    }
    stage.say(1000, b"small again".to_vec()).await;
    assert_eq!(stage.arrived().await, [b"small again"]);
    assert_eq!(stage.reports.count(FlowReason::DatagramTooLarge), 1);
    // Also when the first datagram is one.
    stage.say(1001, vec![0; 65_520]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(stage.reports.count(FlowReason::DatagramTooLarge), 2);
}
