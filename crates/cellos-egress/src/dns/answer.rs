//! From a query to its answer, and to its place in the record.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use cellos_core::{
    document::DnsQueryType,
    event::{DnsQuery, NETWORK_SCHEMA_VERSION, NetworkVerdict, QueryReason},
};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, rdata},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    MAX_ALIASES, MAX_CONNECTIONS, MAX_OUTSIDE, MAX_RECORDS, OUTSIDE_LIMIT, POOL_TTL,
    decide::{Decision, decide, kind},
    wire::{self, Query, Unread},
};
use crate::{
    gateway::Cell,
    names::MAX_NAMES,
    report::Unrecorded,
    resolve::{Records, ResolveFailure},
};

/// What a query came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// The name server of one cell.
pub(crate) struct NameServer {
    pub(super) cell: Arc<Cell>,
    /// Names whose first query is in the record. At most [`MAX_NAMES`].
    asked: Mutex<HashSet<String>>,
    pub(super) outside: Semaphore,
    pub(super) connections: Semaphore,
}

/// What can be said of a query at once.
pub(super) enum Step {
    /// This is the answer, if there is any.
    Done(Option<Vec<u8>>),
    /// The resolver outside has to be asked.
    Ask(Box<Outside>),
}

/// A query that goes outside.
pub(super) struct Outside {
    query: Query,
    kind: DnsQueryType,
    name: String,
}

/// What the record says of a query.
struct Told {
    verdict: NetworkVerdict,
    reason: QueryReason,
    code: ResponseCode,
    records: usize,
}

impl NameServer {
    /// The name server of this cell.
    pub(crate) fn new(cell: Arc<Cell>) -> Arc<Self> {
        Arc::new(Self {
            cell,
            asked: Mutex::default(),
            outside: Semaphore::new(MAX_OUTSIDE),
            connections: Semaphore::new(MAX_CONNECTIONS),
        })
    }

    /// Answers one query; nothing is said to what is none.
    ///
    /// # Errors
    /// [`Unrecorded`] when the record takes no more; then there is no answer.
    pub(crate) async fn answer(
        &self,
        bytes: &[u8],
        transport: Transport,
    ) -> Result<Option<Vec<u8>>, Unrecorded> {
        match self.begin(bytes, transport).await? {
            Step::Done(answer) => Ok(answer),
            Step::Ask(outside) => self.ask(*outside, transport).await.map(Some),
        }
    }

    /// Answers what needs nobody outside.
    pub(super) async fn begin(
        &self,
        bytes: &[u8],
        transport: Transport,
    ) -> Result<Step, Unrecorded> {
        let query = match wire::read(bytes, transport) {
            Ok(query) => query,
            Err(unread) => {
                let answer = match unread {
                    Unread::Silence => None,
                    Unread::Code(answer) => Some(answer),
                };
                self.tell_malformed(answer.as_deref()).await?;
                return Ok(Step::Done(answer));
            }
        };
        let (code, records, told) = match decide(&self.cell, &query) {
            Decision::Outside(kind, name) => {
                self.cell.learned.asked(&name, kind);
                return Ok(Step::Ask(Box::new(Outside { query, kind, name })));
            }
            Decision::Refused(reason) => (ResponseCode::Refused, Vec::new(), Some(reason)),
            Decision::NothingAllowed => {
                let reason = Some(QueryReason::DeniedQueryType);
                (ResponseCode::NoError, Vec::new(), reason)
            }
            Decision::Local(address) => {
                let records = address.map(|address| address_record(query.name(), address));
                (ResponseCode::NoError, records.into_iter().collect(), None)
            }
            Decision::Pointer(name) => {
                let records = pointer_record(query.name(), &name);
                (ResponseCode::NoError, records.into_iter().collect(), None)
            }
            decision @ (Decision::Address(_) | Decision::Nothing) => {
                let records: Vec<Record> = match decision {
                    Decision::Address(address) => vec![address_record(query.name(), address)],
                    _ => Vec::new(),
                };
                if let (Some(name), Some(kind)) = (&query.plain_name, kind(query.kind)) {
                    self.cell.learned.asked(name, kind);
                }
                let first = self.is_first(&query.shown_name);
                let told = first.then_some(QueryReason::AllowedByAllowlist);
                (ResponseCode::NoError, records, told)
            }
        };
        if let Some(reason) = told {
            let verdict = match reason {
                QueryReason::AllowedByAllowlist => NetworkVerdict::Allow,
                _ => NetworkVerdict::Deny,
            };
            let told = Told {
                verdict,
                reason,
                code,
                records: records.len(),
            };
            self.tell(&query, told, None, None).await?;
        }
        Ok(Step::Done(Some(query.answer(code, records, transport))))
    }

    /// Asks outside.
    pub(super) async fn ask(
        &self,
        outside: Outside,
        transport: Transport,
    ) -> Result<Vec<u8>, Unrecorded> {
        let begun = Instant::now();
        let answered = match self.outside.try_acquire() {
            Ok(_permit) => {
                let records = self.cell.resolver.records(&outside.name, outside.kind);
                let limited = tokio::time::timeout(OUTSIDE_LIMIT, records).await;
                limited.unwrap_or_else(|_| Err(ResolveFailure::Unanswered("in time".into())))
            }
            Err(_) => Err(too_many()),
        };
        self.conclude(&outside, answered, begun, transport).await
    }

    /// Says that nobody can be asked now, since too many queries wait.
    pub(super) async fn ask_nobody(
        &self,
        outside: Outside,
        transport: Transport,
    ) -> Result<Vec<u8>, Unrecorded> {
        let answered = Err(too_many());
        let begun = Instant::now();
        self.conclude(&outside, answered, begun, transport).await
    }

    async fn conclude(
        &self,
        outside: &Outside,
        answered: Result<Records, ResolveFailure>,
        begun: Instant,
        transport: Transport,
    ) -> Result<Vec<u8>, Unrecorded> {
        let query = &outside.query;
        let (told, records, resolver) = match answered {
            Ok(found) => {
                let code = match found.rcode {
                    0 => ResponseCode::NoError,
                    3 => ResponseCode::NXDomain,
                    _ => ResponseCode::ServFail,
                };
                let resolver = found.resolver_id.clone();
                let records = match code {
                    ResponseCode::NoError => fitting(query, found),
                    _ => Vec::new(),
                };
                let told = Told {
                    verdict: NetworkVerdict::Allow,
                    reason: QueryReason::AllowedByAllowlist,
                    code,
                    records: records.len(),
                };
                (told, records, resolver)
            }
            Err(failure) => {
                let (reason, code, verdict) = match failure {
                    ResolveFailure::NoAddress => (
                        QueryReason::AllowedByAllowlist,
                        ResponseCode::NoError,
                        NetworkVerdict::Allow,
                    ),
                    ResolveFailure::Dnssec(_) => (
                        QueryReason::DeniedDnssec,
                        ResponseCode::ServFail,
                        NetworkVerdict::Deny,
                    ),
                    _ => (
                        QueryReason::UpstreamFailure,
                        ResponseCode::ServFail,
                        NetworkVerdict::Deny,
                    ),
                };
                let told = Told {
                    verdict,
                    reason,
                    code,
                    records: 0,
                };
                (told, Vec::new(), None)
            }
        };
        let code = told.code;
        let latency = u64::try_from(begun.elapsed().as_millis()).ok();
        self.tell(query, told, resolver, latency).await?;
        Ok(query.answer(code, records, transport))
    }

    /// Whether a name is asked for the first time, as far as that is remembered.
    fn is_first(&self, name: &str) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        !asked.contains(name) && asked.len() < MAX_NAMES && asked.insert(name.to_owned())
    }

    async fn tell(
        &self,
        query: &Query,
        told: Told,
        resolver: Option<String>,
        latency: Option<u64>,
    ) -> Result<(), Unrecorded> {
        let event = DnsQuery {
            query_name: query.shown_name.clone(),
            query_type: wire::kind_word(query.kind),
            decision: told.verdict,
            response_rcode: Some(u16::from(told.code)),
            upstream_resolver_id: resolver,
            upstream_latency_ms: latency,
            response_target_count: u32::try_from(told.records).ok(),
            ..blank(told.reason)
        };
        self.cell.reporter.query(event).await
    }

    async fn tell_malformed(&self, answer: Option<&[u8]>) -> Result<(), Unrecorded> {
        let event = DnsQuery {
            response_rcode: answer
                .and_then(|answer| answer.get(3))
                .map(|code| u16::from(code & 0x0f)),
            ..blank(QueryReason::MalformedQuery)
        };
        self.cell.reporter.query(event).await
    }
}

fn too_many() -> ResolveFailure {
    ResolveFailure::Unanswered("too many queries wait".into())
}

/// The record of a query that could not be read.
fn blank(reason: QueryReason) -> DnsQuery {
    DnsQuery {
        schema_version: NETWORK_SCHEMA_VERSION.into(),
        query_id: uuid::Uuid::new_v4().to_string(),
        query_name: "(unknown)".into(),
        query_type: "(unknown)".into(),
        decision: NetworkVerdict::Deny,
        reason_code: reason,
        response_rcode: None,
        upstream_resolver_id: None,
        upstream_latency_ms: None,
        response_target_count: None,
        observed_at: jiff::Timestamp::now().to_string(),
        count: None,
    }
}

fn address_record(name: Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(rdata::A(address)),
        IpAddr::V6(address) => RData::AAAA(rdata::AAAA(address)),
    };
    Record::from_rdata(name, POOL_TTL, data)
}

fn pointer_record(name: Name, target: &str) -> Option<Record> {
    let mut target = Name::from_ascii(target).ok()?;
    target.set_fqdn(true);
    let data = RData::PTR(rdata::PTR(target));
    Some(Record::from_rdata(name, POOL_TTL, data))
}

/// Of what came from outside, the records that were asked for. Aliases are followed within the answer
/// and not shown: the records are given as those of the name that was asked for.
fn fitting(query: &Query, found: Records) -> Vec<Record> {
    let asked = query.name();
    let mut owner = asked.clone();
    for _ in 0..MAX_ALIASES {
        let next = found.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner => Some(target.0.clone()),
            _ => None,
        });
        match next {
            Some(next) => owner = next,
            None => break,
        }
    }
    found
        .answers
        .into_iter()
        .filter(|record| record.record_type() == query.kind && record.name == owner)
        .take(MAX_RECORDS)
        .map(|mut record| {
            record.name = asked.clone();
            record
        })
        .collect()
}
