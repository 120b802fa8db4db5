//! The resolver of one cell: asks, keeps for as long as it may, judges, and tells.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    canonical,
    document::{DnsQueryType, DnsResolver},
    event::{
        DnsAuthorityDnssecFailed, DnsAuthorityDrift, DnssecFailure, DnssecSource, FlowProtocol,
        NETWORK_SCHEMA_VERSION,
    },
    ports::network::{NetworkReport, NetworkReports},
};
use hickory_proto::rr::RecordType;
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};

use super::{
    Records, Resolution, Resolve, ResolveFailure,
    answer::{Answer, AskError, Unvalidated},
    host,
    keep::{KEEP_FAILURE, Keep},
    now,
    rebind::{Rebinding, Seen},
    server::{Server, absolute},
};
use crate::{names::MAX_NAMES, rules::Rules};

/// Lookups that one cell can have under way at once; more wait.
const CELL_LOOKUPS: usize = 32;
/// How long all resolvers together have for a name.
const LOOKUP_TIME: Duration = Duration::from_secs(10);
/// How events call the host's own resolver.
const HOST_RESOLVER: &str = "host";

/// Who is asked.
pub(super) enum Source {
    /// The host's own resolver; for records that are no addresses its name servers.
    Host(Box<Server>),
    /// Declared ones, in order.
    Declared(Vec<Server>),
}

/// Whether moves of a name are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drift {
    /// They are: the document has a policy about it.
    Told,
    /// They are not.
    Ignored,
}

/// The resolver of one cell.
pub(super) struct CellResolver {
    pub(super) source: Source,
    pub(super) rules: Rules,
    pub(super) keep: Keep,
    pub(super) drift: Drift,
    pub(super) rebinding: Option<Rebinding>,
    pub(super) reports: Arc<dyn NetworkReports>,
    pub(super) known: SyncMutex<HashMap<Arc<str>, Arc<Mutex<Known>>>>,
    pub(super) lookups: Semaphore,
    /// `trustKid` of the declared resolvers that have one, by their ids.
    kids: HashMap<String, String>,
}

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Known {
    kept: Option<Kept>,
    /// Where it led the last time, sorted; and since when.
    targets: Option<(Vec<IpAddr>, Instant)>,
    seen: Seen,
}

#[derive(Debug)]
struct Kept {
    asked: Instant,
    /// Nothing stands for ever.
    until: Option<Instant>,
    result: Result<Answer, ResolveFailure>,
}

impl CellResolver {
    pub(super) fn new(
        source: Source,
        rules: Rules,
        (keep, drift): (Keep, Drift),
        rebinding: Option<Rebinding>,
        reports: Arc<dyn NetworkReports>,
    ) -> Self {
        Self {
            source,
            rules,
            keep,
            drift,
            rebinding,
            reports,
            known: SyncMutex::default(),
            lookups: Semaphore::new(CELL_LOOKUPS),
            kids: HashMap::new(),
        }
    }

    /// The same, with the keys that the document names for its resolvers.
    pub(super) fn with_kids(mut self, resolvers: &[DnsResolver]) -> Self {
        let named = resolvers.iter().filter_map(|resolver| {
            let kid = resolver.trust_kid.clone()?;
            Some((resolver.resolver_id.clone(), kid))
        });
        self.kids = named.collect();
        self
    }

    /// The entry of a name; nothing when the cell has asked for too many.
    fn entry(&self, name: &str) -> Option<Arc<Mutex<Known>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get(name) {
            return Some(Arc::clone(entry));
        }
        (known.len() < MAX_NAMES).then(|| Arc::clone(known.entry(name.into()).or_default()))
    }

    /// What there is for a name: kept, or asked for now. Whoever waits for the same question gets
    /// the same answer.
    async fn answer(&self, name: &str) -> Result<Answer, ResolveFailure> {
        let came = Instant::now();
        let entry = self.entry(name).ok_or_else(|| {
            ResolveFailure::Unanswered(format!("the cell has asked for {MAX_NAMES} names already"))
        })?;
        let mut known = entry.lock().await;
        if let Some(kept) = &known.kept
            && (kept.asked >= came || kept.until.is_none_or(|until| Instant::now() < until))
        {
            return kept.result.clone();
        }
        let asked = Instant::now();
        let said = timeout(LOOKUP_TIME, self.ask(name))
            .await
            .unwrap_or_else(|_| Err(AskError::Failed("nobody answered in time".to_owned())));
        let result = self.weigh(name, said, &mut known).await?;
        let time = match &result {
            Ok(answer) => self.keep.time(answer.ttl),
            Err(_) => Some(KEEP_FAILURE),
        };
        known.kept = Some(Kept {
            asked,
            until: time.map(|time| Instant::now() + time),
            result: result.clone(),
        });
        result
    }

    async fn ask(&self, name: &str) -> Result<Answer, AskError> {
        let _turn = self.turn().await?;
        match &self.source {
            Source::Host(_) => host::addresses(name).await,
            Source::Declared(servers) => {
                let mut failures = Vec::new();
                for server in servers {
                    match server.addresses(name).await {
                        Err(AskError::Failed(what)) => failures.push(what),
                        said => return said,
                    }
                }
                Err(AskError::Failed(failures.join("; ")))
            }
        }
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, AskError> {
        let turn = self.lookups.acquire().await;
        turn.map_err(|_| AskError::Failed("closed".to_owned()))
    }

    /// Tells what there is to tell of an answer, and takes away what the rebinding policy refuses.
    /// Fails when it cannot be told: nothing is remembered then.
    async fn weigh(
        &self,
        name: &str,
        said: Result<Answer, AskError>,
        known: &mut Known,
    ) -> Result<Result<Answer, ResolveFailure>, ResolveFailure> {
        let mut answer = match said {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(self.failure(name, error).await?)),
        };
        if self.drift == Drift::Told {
            self.tell_drift(name, &answer, known).await?;
        }
        if let Some(rebinding) = &self.rebinding {
            let ruling = rebinding.judge(name, &answer, &self.rules, &mut known.seen);
            for report in ruling.reports {
                self.tell(report).await?;
            }
            answer.addresses = ruling.allowed;
            if let (true, Some(refused)) = (answer.addresses.is_empty(), ruling.refused) {
                return Ok(Err(ResolveFailure::Rebind(refused)));
            }
        }
        Ok(Ok(answer))
    }

    async fn failure(&self, name: &str, error: AskError) -> Result<ResolveFailure, ResolveFailure> {
        Ok(match error {
            AskError::NoAddress => ResolveFailure::NoAddress,
            AskError::Failed(what) => ResolveFailure::Unanswered(what),
            AskError::Dnssec(what) => {
                let failure = ResolveFailure::Dnssec(in_words(&what));
                self.tell_unvalidated(name, what).await?;
                failure
            }
        })
    }

    async fn tell_unvalidated(&self, name: &str, what: Unvalidated) -> Result<(), ResolveFailure> {
        let report = DnsAuthorityDnssecFailed {
            schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
            resolver_id: what.resolver_id,
            hostname: name.to_owned(),
            reason: what.reason,
            fail_closed: what.fail_closed,
            trust_anchor_source: what.anchors,
            source: Some(DnssecSource::Dataplane),
            issuer_kid: None,
            observed_at: now(),
        };
        self.tell(NetworkReport::DnssecFailed(Box::new(report)))
            .await
    }

    async fn tell_drift(
        &self,
        name: &str,
        answer: &Answer,
        known: &mut Known,
    ) -> Result<(), ResolveFailure> {
        let mut targets = answer.addresses.clone();
        targets.sort_unstable();
        let before = known.targets.take();
        let since = Instant::now();
        let (previous, stale) = match &before {
            Some((previous, since)) => (previous.as_slice(), since.elapsed().as_secs()),
            None => (&[][..], 0),
        };
        if before.is_some() && previous == targets {
            known.targets = Some((targets, since));
            return Ok(());
        }
        let only = |these: &[IpAddr], those: &[IpAddr]| -> Vec<IpAddr> {
            these
                .iter()
                .copied()
                .filter(|it| !those.contains(it))
                .collect()
        };
        let report = DnsAuthorityDrift {
            schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
            resolver_id: answer
                .resolver_id
                .clone()
                .unwrap_or(HOST_RESOLVER.to_owned()),
            hostname: name.to_owned(),
            previous_targets: words(previous),
            current_targets: words(&targets),
            added_targets: words(&only(&targets, previous)),
            removed_targets: words(&only(previous, &targets)),
            previous_digest: match before {
                Some(_) => digest(previous),
                None => "empty".to_owned(),
            },
            current_digest: digest(&targets),
            ttl_seconds: answer.ttl.unwrap_or(0),
            stale_seconds: u32::try_from(stale).unwrap_or(u32::MAX),
            dnssec_status: Some(answer.dnssec),
            issuer_kid: None,
            observed_at: now(),
        };
        self.tell(NetworkReport::Drift(Box::new(report))).await?;
        known.targets = Some((targets, since));
        Ok(())
    }

    async fn tell(&self, mut report: NetworkReport) -> Result<(), ResolveFailure> {
        let (resolver, kid) = match &mut report {
            NetworkReport::Drift(it) => (Some(&it.resolver_id), &mut it.issuer_kid),
            NetworkReport::RebindThreshold(it) => (it.resolver_id.as_ref(), &mut it.issuer_kid),
            NetworkReport::RebindRejected(it) => (it.resolver_id.as_ref(), &mut it.issuer_kid),
            NetworkReport::DnssecFailed(it) => (Some(&it.resolver_id), &mut it.issuer_kid),
            NetworkReport::Flow(_) | NetworkReport::Query(_) => (None, &mut None),
        };
        *kid = resolver.and_then(|id| self.kids.get(id)).cloned();
        self.reports.report(report).await.map_err(|_| {
            ResolveFailure::Unanswered("what happens can no longer be recorded".to_owned())
        })
    }

    /// Only the addresses that this name may lead to on this port.
    fn judged(&self, name: &str, port: u16, answer: Answer) -> Result<Resolution, ResolveFailure> {
        // The rule that the connection needs decides which networks are named; TCP where both
        // transports have one.
        let transport = match self.rules.for_name(name, port, FlowProtocol::Tcp) {
            Some(_) => FlowProtocol::Tcp,
            None => FlowProtocol::Udp,
        };
        let mut forbidden = None;
        let mut addresses = Vec::new();
        for address in answer.addresses {
            match self.rules.forbidden(name, address, port, transport) {
                None => addresses.push(address),
                Some(what) => {
                    forbidden.get_or_insert((address, what));
                }
            }
        }
        match (addresses.is_empty(), forbidden) {
            (false, _) => Ok(Resolution {
                addresses,
                resolver_id: answer.resolver_id,
            }),
            (true, Some((address, what))) => Err(ResolveFailure::Forbidden(address, what)),
            (true, None) => Err(ResolveFailure::NoAddress),
        }
    }
}

#[async_trait]
impl Resolve for CellResolver {
    async fn addresses(&self, name: &str, port: u16) -> Result<Resolution, ResolveFailure> {
        let name = normal(name);
        let answer = self.answer(&name).await?;
        self.judged(&name, port, answer)
    }

    async fn records(&self, name: &str, kind: DnsQueryType) -> Result<Records, ResolveFailure> {
        let name = normal(name);
        let said = timeout(LOOKUP_TIME, self.ask_records(&name, kind)).await;
        match said.unwrap_or_else(|_| Err(AskError::Failed("nobody answered in time".to_owned()))) {
            Ok(records) => Ok(records),
            Err(error) => Err(self.failure(&name, error).await?),
        }
    }
}

impl CellResolver {
    async fn ask_records(&self, name: &str, kind: DnsQueryType) -> Result<Records, AskError> {
        let _turn = self.turn().await?;
        let servers = match &self.source {
            Source::Host(server) => std::slice::from_ref(&**server),
            Source::Declared(servers) => servers,
        };
        let fqdn = absolute(name)?;
        let mut failures = Vec::new();
        for server in servers {
            match server.records(&fqdn, record_type(kind)).await {
                Ok(found) => {
                    // Real addresses are not for the cell.
                    let mut answers = found.records;
                    answers.retain(|record| !record.record_type().is_ip_addr());
                    return Ok(Records {
                        rcode: found.rcode,
                        answers,
                        resolver_id: server.id().map(str::to_owned),
                    });
                }
                Err(AskError::Failed(what)) => failures.push(what),
                Err(error) => return Err(error),
            }
        }
        Err(AskError::Failed(failures.join("; ")))
    }
}

fn record_type(kind: DnsQueryType) -> RecordType {
    match kind {
        DnsQueryType::A => RecordType::A,
        DnsQueryType::Aaaa => RecordType::AAAA,
        DnsQueryType::Cname => RecordType::CNAME,
        DnsQueryType::Txt => RecordType::TXT,
        DnsQueryType::Mx => RecordType::MX,
        DnsQueryType::Srv => RecordType::SRV,
        DnsQueryType::Ns => RecordType::NS,
        DnsQueryType::Ptr => RecordType::PTR,
        DnsQueryType::Https => RecordType::HTTPS,
        DnsQueryType::Svcb => RecordType::SVCB,
    }
}

fn in_words(what: &Unvalidated) -> String {
    let reason = match what.reason {
        DnssecFailure::ValidationFailed => "a signature does not hold or is missing",
        DnssecFailure::UnsignedZone => "the zone is not signed, and failClosed asks for signatures",
        DnssecFailure::TrustAnchorMissing => "there is no trust anchor",
        DnssecFailure::ValidatorInternal => "it could not be told whether it is signed",
    };
    format!("{}: {reason}", what.resolver_id)
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn words(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn digest(addresses: &[IpAddr]) -> String {
    // As the contract has it: over the words in their own order.
    let mut words = words(addresses);
    words.sort_unstable();
    canonical::sha256_ref(words.join("\n").as_bytes())
}
