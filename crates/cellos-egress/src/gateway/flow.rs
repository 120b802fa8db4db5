//! One connection of a cell, from its acceptance to its event.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use cellos_core::event::{
    FlowDirection, FlowEnd, FlowProtocol, FlowReason, NETWORK_SCHEMA_VERSION, NetworkFlowDecision,
    NetworkVerdict,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    Cell, Serving,
    opening::{self, OPENING_TIME, Refused},
};
use crate::{
    dial::{Dialled, Target},
    learn::Content,
    names::Meaning,
    peek::{Expected, Fault, Fronting, Kind},
    ranges::special,
    relay::{Guard, relay, reset},
    resolve::ResolveFailure,
    rules::{Check, Permit},
};

/// How long a run that learns waits for a client to speak first, to see what it speaks.
const LEARNING_TIME: Duration = Duration::from_millis(500);
/// How long a destination may take to be found and to answer, whatever its resolvers and addresses
/// are. Each step has narrower bounds.
pub(crate) const OUTSIDE_TIME: Duration = Duration::from_secs(60);
/// How long a client that was told why it is refused may take to read it.
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// A fatal alert `access_denied` of TLS, RFC 8446 section 6.
const TLS_ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// What a cell tried to connect to.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) meaning: Meaning,
    address: IpAddr,
    port: u16,
    begun: Instant,
}

/// What was decided about it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The rule, as events name it.
    pub(super) rule: Option<String>,
    reason: FlowReason,
    check: Check,
    /// The declared resolver that said where the name leads, once it has.
    resolver: Option<String>,
}

/// Why a connection leads nowhere after all.
struct Failure {
    reason: FlowReason,
    detail: String,
    /// The address outside that was refused.
    refused: Option<IpAddr>,
    /// The address that was not right, for a run that learns.
    forbidden: Option<(IpAddr, &'static str)>,
}

impl Plan {
    pub(super) fn of(permit: Permit<'_>) -> Self {
        match permit {
            Permit::By(rule) => Self {
                rule: Some(rule.reference()),
                reason: FlowReason::EgressRuleMatch,
                check: rule.check,
                resolver: None,
            },
            Permit::ToLearn(rule) => Self {
                rule: rule.map(crate::Rule::reference),
                reason: FlowReason::Learned,
                check: Check::TlsOrHttp,
                resolver: None,
            },
        }
    }
}

impl Attempt {
    pub(super) fn new(meaning: Meaning, intended: SocketAddr) -> Self {
        Self {
            meaning,
            address: intended.ip().to_canonical(),
            port: intended.port(),
            begun: Instant::now(),
        }
    }

    fn name(&self) -> Option<&str> {
        match &self.meaning {
            Meaning::Name(name) => Some(name),
            Meaning::Itself(_) | Meaning::Nothing => None,
        }
    }

    fn event(&self, decision: NetworkVerdict, reason_code: FlowReason) -> NetworkFlowDecision {
        NetworkFlowDecision {
            schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
            decision_id: uuid::Uuid::new_v4().to_string(),
            direction: FlowDirection::Egress,
            decision,
            reason_code,
            nft_rule_ref: None,
            dst_addr: Some(self.address.to_string()),
            dst_port: Some(self.port),
            protocol: Some(FlowProtocol::Tcp),
            byte_count: None,
            observed_at: now(),
            requested_name: self.name().map(str::to_owned),
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

    /// The event of a refusal.
    pub(super) fn refused(
        &self,
        reason: FlowReason,
        rule: Option<String>,
        detail: Option<String>,
    ) -> NetworkFlowDecision {
        NetworkFlowDecision {
            nft_rule_ref: rule,
            detail,
            ..self.event(NetworkVerdict::Deny, reason)
        }
    }

    fn refused_for(&self, rule: Option<String>, fault: Fault) -> NetworkFlowDecision {
        NetworkFlowDecision {
            presented_name: fault.presented,
            ..self.refused(fault.reason, rule, Some(fault.detail))
        }
    }

    /// Has a run that learns know that this address has to be named.
    pub(super) fn note_forbidden(&self, cell: &Cell, reason: FlowReason) {
        if let (FlowReason::AddressForbidden, Some(what)) = (reason, special(self.address)) {
            self.note(cell, self.address, what);
        }
    }

    fn note(&self, cell: &Cell, address: IpAddr, what: &'static str) {
        let (to, port) = (&self.meaning, self.port);
        cell.learned
            .forbidden(to, port, FlowProtocol::Tcp, address, what);
    }

    fn learn_used(&self, cell: &Cell, content: Content) {
        cell.learned
            .used(&self.meaning, self.port, FlowProtocol::Tcp, content);
    }

    fn expected(&self, cell: &Cell) -> Expected {
        Expected {
            name: self.name().map(str::to_owned),
            address: self.address,
            port: self.port,
            fronting: match self
                .name()
                .is_some_and(|name| cell.rules.accepts_fronting(name))
            {
                true => Fronting::Accepted,
                false => Fronting::Refused,
            },
        }
    }
}

/// Serves one connection to its end, and tells it.
pub(super) async fn serve(serving: &Arc<Serving>, client: TcpStream, attempt: Attempt, plan: Plan) {
    let cell = &serving.cell;
    let _ = client.set_nodelay(true);
    let setup = async {
        let guard = match plan.reason {
            FlowReason::Learned => learn(cell, &client, &attempt).await,
            _ => opening::listen(&client, plan.check, attempt.expected(cell), OPENING_TIME)
                .await
                .map_err(Setback::Refused)?,
        };
        match timeout(OUTSIDE_TIME, connect(cell, &attempt)).await {
            Ok(Ok((dialled, resolver))) => Ok((guard, dialled, resolver)),
            Ok(Err(failure)) => Err(Setback::Failed(failure)),
            Err(_) => Err(Setback::Failed(Failure::timed_out())),
        }
    };
    let set_up = tokio::select! {
        () = serving.ended() => Err(Setback::Ended),
        set_up = setup => set_up,
    };
    let told = match set_up {
        Ok((guard, dialled, resolver)) => {
            let plan = Plan { resolver, ..plan };
            carry(serving, client, guard, dialled, &attempt, plan).await
        }
        Err(Setback::Refused(refused)) => {
            farewell(client, &refused).await;
            let event = attempt.refused_for(plan.rule, refused.fault);
            cell.reporter.flow(event).await
        }
        Err(Setback::Failed(failure)) => {
            reset(&client);
            drop(client);
            if let Some((address, what)) = failure.forbidden {
                attempt.note(cell, address, what);
            }
            let mut event = attempt.refused(failure.reason, plan.rule, Some(failure.detail));
            if let Some(refused) = failure.refused {
                event.dst_addr = Some(refused.to_string());
            }
            cell.reporter.flow(event).await
        }
        Err(Setback::Ended) => {
            reset(&client);
            drop(client);
            let detail = "the cell ended before the connection was made".to_owned();
            let event = attempt.refused(FlowReason::ConnectFailed, plan.rule, Some(detail));
            cell.reporter.flow(event).await
        }
    };
    // The reporter has halted the gateway, which is all that can be done.
    let _ = told;
}

/// Why a connection is not carried.
enum Setback {
    Refused(Refused),
    Failed(Failure),
    Ended,
}

/// Sees what a client speaks, and lets it through whatever that is.
async fn learn(cell: &Cell, client: &TcpStream, attempt: &Attempt) -> Guard {
    let expected = attempt.expected(cell);
    let heard = opening::listen(client, Check::TlsOrHttp, expected, LEARNING_TIME).await;
    let (content, guard) = match heard {
        Ok(Guard::Http(conversation, released) | Guard::Overheard(conversation, released, _)) => {
            // A later request may be for another host.
            let guard = Guard::Overheard(conversation, released, Arc::default());
            (Content::Http, guard)
        }
        Ok(Guard::Opaque(released) | Guard::Tls(_, released)) => {
            (Content::Tls, Guard::Opaque(released))
        }
        Err(refused) => (Content::Opaque, Guard::Opaque(refused.said)),
    };
    attempt.learn_used(cell, content);
    guard
}

/// Connects to where the attempt leads: what was judged is what is dialled. With the declared resolver
/// that said so.
async fn connect(cell: &Cell, attempt: &Attempt) -> Result<(Dialled, Option<String>), Failure> {
    let port = attempt.port;
    let (found, resolver) = match &attempt.meaning {
        Meaning::Name(name) if cell.upstream.resolves_names() => {
            return Ok((cell.upstream.dial(Target::Name(name), port).await?, None));
        }
        Meaning::Name(name) => {
            let found = cell.resolver.addresses(name, port).await?;
            (found.addresses, found.resolver_id)
        }
        Meaning::Itself(address) => (vec![*address], None),
        Meaning::Nothing => (Vec::new(), None),
    };
    let dialled = cell.upstream.dial(Target::Addresses(&found), port).await?;
    Ok((dialled, resolver))
}

/// Carries a connection to its end, and tells it.
async fn carry(
    serving: &Arc<Serving>,
    client: TcpStream,
    guard: Guard,
    dialled: Dialled,
    attempt: &Attempt,
    plan: Plan,
) -> Result<(), crate::report::Unrecorded> {
    let cell = &serving.cell;
    let server = dialled.stream;
    let _ = server.set_nodelay(true);
    let stop = async {
        serving.ended().await;
        FlowEnd::CellEnded
    };
    let amiss = match &guard {
        Guard::Overheard(_, _, amiss) => Some(Arc::clone(amiss)),
        _ => None,
    };
    let relayed = relay(
        &client,
        &server,
        guard,
        &serving.pipes,
        serving.patience,
        stop,
    )
    .await;
    drop((client, server));
    if amiss.is_some_and(|amiss| amiss.load(Ordering::Relaxed)) {
        attempt.learn_used(cell, Content::Opaque);
    }
    if let Some(fault) = relayed.fault.clone() {
        let event = attempt.refused_for(plan.rule.clone(), fault);
        cell.reporter.flow(event).await?;
    }
    let duration = attempt.begun.elapsed().as_millis();
    let event = NetworkFlowDecision {
        nft_rule_ref: plan.rule,
        dst_addr: dialled.address.map(|address| address.ip().to_string()),
        byte_count: Some(relayed.out.saturating_add(relayed.back)),
        bytes_out: Some(relayed.out),
        bytes_in: Some(relayed.back),
        duration_ms: Some(u64::try_from(duration).unwrap_or(u64::MAX)),
        ended_by: Some(relayed.end),
        upstream_resolver_id: plan.resolver,
        ..attempt.event(NetworkVerdict::Allow, plan.reason)
    };
    cell.reporter.flow(event).await
}

/// Tells a client in its own protocol that it is refused, so that its user sees that, and waits a
/// moment for it to have read that.
async fn farewell(mut client: TcpStream, refused: &Refused) {
    let answer = match refused.kind {
        Kind::Tls => TLS_ACCESS_DENIED.to_vec(),
        Kind::Http => refused.fault.answer(),
        Kind::NeedMore | Kind::Http2Preface | Kind::Unknown => {
            reset(&client);
            return;
        }
    };
    // What the client goes on to say would make the kernel take the answer back.
    let _ = timeout(FAREWELL_TIME, async {
        client.write_all(&answer).await?;
        client.shutdown().await?;
        let mut ignored = [0; 1024];
        let mut left: usize = 64 * 1024;
        while left > 0 {
            client.readable().await?;
            match client.try_read(&mut ignored) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<_, std::io::Error>(())
    })
    .await;
}

impl Failure {
    fn timed_out() -> Self {
        Self {
            reason: FlowReason::ConnectTimeout,
            detail: format!(
                "not found and connected within {} s",
                OUTSIDE_TIME.as_secs()
            ),
            refused: None,
            forbidden: None,
        }
    }
}

impl From<ResolveFailure> for Failure {
    fn from(failure: ResolveFailure) -> Self {
        let detail = failure.to_string();
        let refused = failure.address();
        let (reason, forbidden) = match failure {
            ResolveFailure::NoAddress | ResolveFailure::Unanswered(_) => {
                (FlowReason::ResolveFailed, None)
            }
            ResolveFailure::Forbidden(address, what) => {
                (FlowReason::AddressForbidden, Some((address, what)))
            }
            ResolveFailure::Rebind(_) => (FlowReason::RebindRejected, None),
            ResolveFailure::Dnssec(_) => (FlowReason::DnssecFailed, None),
        };
        Self {
            reason,
            detail,
            refused,
            forbidden,
        }
    }
}

impl From<crate::dial::DialError> for Failure {
    fn from(error: crate::dial::DialError) -> Self {
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            refused: None,
            forbidden: None,
        }
    }
}

/// Now, as events say it.
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}
