//! The flows of one cell.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use cellos_core::event::{
    FlowDirection, FlowEnd, FlowProtocol, FlowReason, NETWORK_SCHEMA_VERSION, NetworkFlowDecision,
    NetworkVerdict,
};
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    CellSocket, EVICT_AFTER, Letter, MAX_FLOWS, MAX_TASKS, REFUSED_FOR, RESOLVE_LIMIT,
    flow::{Flow, Sent},
};
use crate::{
    dial::Upstream,
    dns::BURST,
    gateway::Cell,
    names::Meaning,
    resolve::ResolveFailure,
    rules::{Permit, Rule},
};

/// Who speaks to whom.
type Pair = (SocketAddr, SocketAddr);

/// All UDP flows of one cell.
pub(crate) struct Flows {
    cell: Arc<Cell>,
    table: Mutex<HashMap<Pair, Arc<Flow>>>,
    tasks: Mutex<JoinSet<()>>,
    closed: AtomicBool,
}

/// What a flow's events have in common.
#[derive(Debug, Clone)]
struct Head {
    pair: Pair,
    meaning: Meaning,
    reason: FlowReason,
    rule: Option<String>,
}

/// Why a flow is refused.
struct Refusal {
    reason: FlowReason,
    detail: Option<String>,
    /// The address outside that was refused.
    address: Option<IpAddr>,
}

impl Refusal {
    fn new(reason: FlowReason, detail: Option<String>) -> Self {
        Self {
            reason,
            detail,
            address: None,
        }
    }
}

impl Flows {
    /// None yet.
    pub(crate) fn new(cell: Arc<Cell>) -> Arc<Self> {
        Arc::new(Self {
            cell,
            table: Mutex::default(),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Serves the socket of a declared port until it is aborted, or flows are no longer let through.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub(crate) async fn serve(
        self: Arc<Self>,
        port: u16,
        socket: Arc<CellSocket>,
    ) -> io::Result<()> {
        while !self.closed.load(SeqCst) {
            socket.readable().await?;
            for _ in 0..BURST {
                let Some(letter) = socket.receive()? else {
                    break;
                };
                self.letter(&socket, port, letter).await;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes one datagram of the cell.
    pub(crate) async fn letter(
        self: &Arc<Self>,
        socket: &Arc<CellSocket>,
        port: u16,
        letter: Letter,
    ) {
        if self.closed.load(SeqCst) {
            return;
        }
        let pair = (letter.from, SocketAddr::new(letter.to.ip(), port));
        let known = self.table().get(&pair).cloned();
        let meaning = self.cell.names.meaning(letter.to.ip());
        if let Some(flow) = known {
            if flow.send(letter.bytes) == Sent::TooLarge {
                self.too_large(pair, meaning).await;
            }
            return;
        }
        let mut head = Head {
            pair,
            meaning,
            reason: FlowReason::NoRule,
            rule: None,
        };
        match self.judge(&mut head) {
            Err(refusal) => self.refused(&head, refusal).await,
            Ok(()) => {
                if let Err(head) = self.begin(head, letter.bytes, socket) {
                    self.refused(&head, too_many()).await;
                }
            }
        }
    }

    /// Ends every flow, and reports each. None begins any more.
    pub(crate) async fn finish(&self) {
        self.close();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }

    /// How many tasks there are.
    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn close(&self) {
        self.closed.store(true, SeqCst);
        for flow in self.table().values() {
            flow.end();
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Pair, Arc<Flow>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a rule lets this through.
    fn judge(&self, head: &mut Head) -> Result<(), Refusal> {
        let (rules, port) = (&self.cell.rules, head.pair.1.port());
        let rule = match rules.decide(&head.meaning, port, FlowProtocol::Udp) {
            Ok(Permit::By(rule)) => {
                head.reason = FlowReason::EgressRuleMatch;
                Some(rule)
            }
            Ok(Permit::ToLearn(rule)) => {
                head.reason = FlowReason::Learned;
                rule
            }
            Err(denial) => {
                head.rule = denial.rule.map(Rule::reference);
                return Err(Refusal::new(denial.reason, denial.detail));
            }
        };
        head.rule = rule.map(Rule::reference);
        if self.cell.upstream != Upstream::Direct {
            let detail = Some("datagrams do not go through the proxy".into());
            return Err(Refusal::new(FlowReason::ProxyRefused, detail));
        }
        Ok(())
    }

    /// Begins a flow, if there is room for one more. Flows that have ended and wait for their reports
    /// to be taken count as well, so that a record that stalls is not waited for by any number.
    fn begin(
        self: &Arc<Self>,
        head: Head,
        first: Vec<u8>,
        socket: &Arc<CellSocket>,
    ) -> Result<(), Head> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MAX_TASKS {
            return Err(head);
        }
        let Some(flow) = self.insert(head.pair, first) else {
            return Err(head);
        };
        let (flows, socket) = (Arc::clone(self), Arc::clone(socket));
        tasks.spawn(async move {
            flows.run(&head, &flow, &socket).await;
            flows.forget(&head.pair, &flow);
        });
        Ok(())
    }

    /// Room for one more flow.
    fn insert(&self, pair: Pair, first: Vec<u8>) -> Option<Arc<Flow>> {
        let mut table = self.table();
        if table.len() >= MAX_FLOWS {
            let (stalest, flow) = table.iter().max_by_key(|(_, flow)| flow.silent())?;
            if flow.silent() < EVICT_AFTER {
                return None;
            }
            flow.end();
            let stalest = *stalest;
            table.remove(&stalest);
        }
        let flow = Arc::new(Flow::new(first));
        table.insert(pair, Arc::clone(&flow));
        Some(flow)
    }

    fn forget(&self, pair: &Pair, flow: &Arc<Flow>) {
        let mut table = self.table();
        // It may have given way to another flow of the same pair.
        if table
            .get(pair)
            .is_some_and(|known| Arc::ptr_eq(known, flow))
        {
            table.remove(pair);
        }
    }

    async fn run(&self, head: &Head, flow: &Flow, socket: &CellSocket) {
        let opened = tokio::select! {
            biased;
            () = flow.ended() => {
                self.refused(head, self.unfinished()).await;
                return;
            }
            opened = self.open(head) => opened,
        };
        let (outside, address) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                flow.refuse();
                self.refused(head, refusal).await;
                tokio::select! {
                    () = flow.ended() => {}
                    () = sleep(REFUSED_FOR) => {}
                }
                return;
            }
        };
        let outside = Arc::new(outside);
        if flow.open(&outside) == Sent::TooLarge {
            self.too_large(head.pair, head.meaning.clone()).await;
        }
        let (from, to) = head.pair;
        let ended = flow.carry(&outside, socket, to.ip(), from).await;
        let ended = match ended {
            FlowEnd::CellEnded if !self.closed.load(SeqCst) => FlowEnd::Idle,
            ended => ended,
        };
        let sum = |counter: &std::sync::atomic::AtomicU64| counter.load(SeqCst);
        let (bytes_out, bytes_in) = (sum(&flow.bytes_out), sum(&flow.bytes_in));
        let event = NetworkFlowDecision {
            decision: NetworkVerdict::Allow,
            dst_addr: Some(address.ip().to_string()),
            byte_count: Some(bytes_out.saturating_add(bytes_in)),
            bytes_out: Some(bytes_out),
            bytes_in: Some(bytes_in),
            duration_ms: u64::try_from(flow.begun.elapsed().as_millis()).ok(),
            ended_by: Some(ended),
            ..head.event()
        };
        self.report(event).await;
    }

    /// A socket that is connected to where the flow leads.
    async fn open(&self, head: &Head) -> Result<(UdpSocket, SocketAddr), Refusal> {
        let port = head.pair.1.port();
        let addresses = match &head.meaning {
            Meaning::Itself(address) => vec![*address],
            Meaning::Nothing => Vec::new(),
            Meaning::Name(name) => {
                let asked = self.cell.resolver.addresses(name, port);
                match timeout(RESOLVE_LIMIT, asked).await {
                    Ok(Ok(resolution)) => resolution.addresses,
                    Ok(Err(failure)) => return Err(unresolved(&failure)),
                    Err(_) => {
                        return Err(unresolved(&ResolveFailure::Unanswered("in time".into())));
                    }
                }
            }
        };
        let mut detail = None;
        for address in addresses {
            let address = SocketAddr::new(address, port);
            match connect(address).await {
                Ok(socket) => return Ok((socket, address)),
                Err(error) => detail = Some(format!("connect to {address}: {error}")),
            }
        }
        Err(Refusal::new(FlowReason::ConnectFailed, detail))
    }

    /// Why a flow ends before it leads anywhere.
    fn unfinished(&self) -> Refusal {
        match self.closed.load(SeqCst) {
            true => Refusal::new(
                FlowReason::ConnectFailed,
                Some("the cell ended before the address was known".into()),
            ),
            false => too_many(),
        }
    }

    async fn too_large(&self, pair: Pair, meaning: Meaning) {
        let head = Head {
            pair,
            meaning,
            reason: FlowReason::DatagramTooLarge,
            rule: None,
        };
        let detail = Some("the network outside does not carry datagrams of this size".into());
        let refusal = Refusal::new(FlowReason::DatagramTooLarge, detail);
        self.refused(&head, refusal).await;
    }

    async fn refused(&self, head: &Head, refusal: Refusal) {
        let mut event = NetworkFlowDecision {
            reason_code: refusal.reason,
            detail: refusal.detail,
            ..head.event()
        };
        if let Some(address) = refusal.address {
            event.dst_addr = Some(address.to_string());
        }
        self.report(event).await;
    }

    async fn report(&self, event: NetworkFlowDecision) {
        if self.cell.reporter.flow(event).await.is_err() {
            self.close();
        }
    }
}

impl Head {
    /// A refusal, to be made what it is.
    fn event(&self) -> NetworkFlowDecision {
        let (_, to) = self.pair;
        NetworkFlowDecision {
            schema_version: NETWORK_SCHEMA_VERSION.into(),
            decision_id: uuid::Uuid::new_v4().to_string(),
            direction: FlowDirection::Egress,
            decision: NetworkVerdict::Deny,
            reason_code: self.reason,
            nft_rule_ref: self.rule.clone(),
            dst_addr: Some(to.ip().to_string()),
            dst_port: Some(to.port()),
            protocol: Some(FlowProtocol::Udp),
            byte_count: None,
            observed_at: jiff::Timestamp::now().to_string(),
            requested_name: match &self.meaning {
                Meaning::Name(name) => Some(name.to_string()),
                Meaning::Itself(_) | Meaning::Nothing => None,
            },
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
}

fn too_many() -> Refusal {
    let detail = format!("a cell has at most {MAX_FLOWS} flows over UDP");
    Refusal::new(FlowReason::TooManyFlows, Some(detail))
}

fn unresolved(failure: &ResolveFailure) -> Refusal {
    let reason = match failure {
        ResolveFailure::Forbidden(..) => FlowReason::AddressForbidden,
        ResolveFailure::Rebind(_) => FlowReason::RebindRejected,
        ResolveFailure::Dnssec(_) => FlowReason::DnssecFailed,
        ResolveFailure::NoAddress | ResolveFailure::Unanswered(_) => FlowReason::ResolveFailed,
    };
    Refusal {
        reason,
        detail: Some(failure.to_string()),
        address: failure.address(),
    }
}

async fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    // Before the runtime knows that there is room, nothing is sent without waiting.
    socket.writable().await?;
    Ok(socket)
}
