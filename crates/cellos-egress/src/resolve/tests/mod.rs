//! Names that lie, move, loop and stay silent, against a name server on this host.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    document::{AuthorityBundle, DnsQueryType},
    ports::network::{NetworkReport, NetworkReports},
};
use cellos_testkit::dns::{DnsAnswer, DnsServer, DnsTransport, address, alias};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::TXT},
};
use serde_json::{Value, json};

use super::{Resolution, Resolve, ResolveFailure, resolver_for};
use crate::rules::Rules;

mod signed;
mod tls;

/// A name that rules let through on port 443.
const NAME: &str = "a.example";

/// Keeps what is told.
#[derive(Default)]
struct Told(Mutex<Vec<NetworkReport>>);

#[async_trait]
impl NetworkReports for Told {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        self.0.lock().unwrap().push(report);
        Ok(())
    }
}

impl Told {
    fn all(&self) -> Vec<NetworkReport> {
        self.0.lock().unwrap().clone()
    }
}

/// Takes nothing.
struct Full;

#[async_trait]
impl NetworkReports for Full {
    async fn report(&self, _report: NetworkReport) -> Result<(), CellosError> {
        Err(CellosError::EventSink("full".to_owned()))
    }
}

/// A resolver as a document declares it.
fn declared(id: &str, at: impl ToString) -> Value {
    json!({"resolverId": id, "endpoint": at.to_string(), "protocol": "do53-udp"})
}

fn authority(dns: Value, rules: Value) -> AuthorityBundle {
    serde_json::from_value(json!({"dnsAuthority": dns, "egressRules": rules})).unwrap()
}

fn resolver(dns: Value, rules: Value) -> (Arc<dyn Resolve>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let authority = authority(dns, rules);
    let rules = Rules::of(&authority).unwrap();
    let reports = Arc::clone(&told) as Arc<dyn NetworkReports>;
    (resolver_for(&authority, &rules, reports).unwrap(), told)
}

fn web() -> Value {
    json!([{"host": NAME, "port": 443}])
}

/// A resolver that asks this server, and what it tells.
fn asking(server: &DnsServer) -> (Arc<dyn Resolve>, Arc<Told>) {
    resolver(
        json!({"resolvers": [declared("one", server.address())]}),
        web(),
    )
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn found(texts: &[&str]) -> Result<Resolution, ResolveFailure> {
    Ok(Resolution {
        addresses: ips(texts),
        resolver_id: Some("one".to_owned()),
    })
}

#[tokio::test]
async fn an_answer_is_used_with_the_resolver_that_gave_it() {
    let addresses = ips(&["93.184.216.34", "2606:2800:220:1::1"]);
    let server = DnsServer::with(&[(NAME, &addresses)]);
    let (resolver, _) = asking(&server);
    let expected = found(&["93.184.216.34", "2606:2800:220:1::1"]);
    assert_eq!(resolver.addresses("A.Example.", 443).await, expected);
    let none = resolver.addresses("b.example", 443).await;
    assert_eq!(none, Err(ResolveFailure::NoAddress));
}

#[tokio::test]
async fn special_addresses_are_refused_and_dropped_from_mixed_answers() {
    for special in [
        "127.0.0.1",
        "169.254.169.254",
        "::ffff:127.0.0.1",
        "10.1.2.3",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
    ] {
        let server = DnsServer::with(&[(NAME, &ips(&[special]))]);
        let (resolver, _) = asking(&server);
        let refused = resolver.addresses(NAME, 443).await;
        assert!(
            matches!(refused, Err(ResolveFailure::Forbidden(..))),
            "{special}: {refused:?}"
        );
        let server = DnsServer::with(&[(NAME, &ips(&[special, "93.184.216.34"]))]);
        let (resolver, _) = asking(&server);
        let mixed = resolver.addresses(NAME, 443).await;
        assert_eq!(mixed, found(&["93.184.216.34"]), "{special}");
    }
}

#[tokio::test]
async fn a_rule_for_the_network_lets_private_answers_through_on_its_port() {
    let server = DnsServer::with(&[(NAME, &ips(&["10.1.2.3"]))]);
    let (resolver, _) = resolver(
        json!({"resolvers": [declared("one", server.address())]}),
        json!([{"host": NAME, "port": 443}, {"host": NAME, "port": 80}, {"host": "10.1.0.0/16", "port": 443}]),
    );
    assert_eq!(resolver.addresses(NAME, 443).await, found(&["10.1.2.3"]));
    let other = resolver.addresses(NAME, 80).await;
    assert!(
        matches!(other, Err(ResolveFailure::Forbidden(..))),
        "{other:?}"
    );
}

#[tokio::test]
async fn a_name_that_moves_is_judged_anew() {
    let server = DnsServer::start();
    let mut answers = ips(&["127.0.0.1", "93.184.216.34"]);
    // Each answer holds for no time at all.
    server.behave(move |question| {
        if question.kind != RecordType::A {
            return DnsAnswer::Records(Vec::new());
        }
        let mut record = address(&question.name, answers.pop().unwrap());
        record.ttl = 0;
        DnsAnswer::Records(vec![record])
    });
    let (resolver, _) = asking(&server);
    assert_eq!(
        resolver.addresses(NAME, 443).await,
        found(&["93.184.216.34"])
    );
    let moved = resolver.addresses(NAME, 443).await;
    assert!(
        matches!(moved, Err(ResolveFailure::Forbidden(..))),
        "{moved:?}"
    );
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_asked_for_once() {
    let server = DnsServer::with(&[(NAME, &ips(&["93.184.216.34"]))]);
    let (resolver, _) = asking(&server);
    let asks = (0..50).map(|_| {
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move { resolver.addresses(NAME, 443).await })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert_eq!(ask.await.unwrap(), found(&["93.184.216.34"]));
    }
    assert_eq!(server.asked().len(), 2, "one question for each family");
}

#[tokio::test]
async fn huge_answers_are_bounded() {
    let server = DnsServer::start();
    server.behave(|question| match question.transport {
        DnsTransport::Udp => DnsAnswer::Truncated,
        DnsTransport::Tcp => {
            let all = (0..2000_u32).map(|n| IpAddr::from((0x5db8_0000 + n).to_be_bytes()));
            DnsAnswer::Addresses(all.collect())
        }
    });
    let (resolver, _) = asking(&server);
    let addresses = resolver.addresses(NAME, 443).await.unwrap().addresses;
    assert_eq!(addresses.len(), super::answer::ADDRESSES_MAX);
    assert!(
        server
            .asked()
            .iter()
            .any(|it| it.transport == DnsTransport::Tcp)
    );
}

#[tokio::test]
async fn aliases_are_followed_to_an_end_only() {
    let server = DnsServer::start();
    server.behave(|question| {
        DnsAnswer::Records(match question.name.as_str() {
            "a.example" => vec![
                alias("a.example", "b.example"),
                alias("b.example", "c.example"),
                address("c.example", [93, 184, 216, 34].into()),
                address("d.example", [93, 184, 216, 35].into()),
            ],
            "loop.example" => vec![alias("loop.example", "pool.example")],
            _ => vec![alias(&question.name, "loop.example")],
        })
    });
    let (resolver, _) = asking(&server);
    assert_eq!(
        resolver.addresses(NAME, 443).await,
        found(&["93.184.216.34"])
    );
    let began = Instant::now();
    assert!(resolver.addresses("loop.example", 443).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(server.asked().len() < 64, "{}", server.asked().len());
}

#[tokio::test]
async fn forged_datagrams_do_not_count() {
    let forged = || Box::new(DnsAnswer::Addresses(ips(&["93.184.216.66"])));
    let right = || Box::new(DnsAnswer::Addresses(ips(&["93.184.216.34"])));
    let server = DnsServer::start();
    let (resolver, _) = asking(&server);
    server.behave(move |_| DnsAnswer::WrongIdThen(forged(), right()));
    assert_eq!(
        resolver.addresses(NAME, 443).await,
        found(&["93.184.216.34"])
    );
    let server = DnsServer::start();
    let (resolver, _) = asking(&server);
    server.behave(move |_| DnsAnswer::WrongSourceThen(forged(), right()));
    assert_eq!(
        resolver.addresses(NAME, 443).await,
        found(&["93.184.216.34"])
    );
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_fails() {
    let (bad, good) = (DnsServer::start(), DnsServer::start());
    good.behave(|_| DnsAnswer::Addresses(ips(&["93.184.216.34"])));
    let (resolver, _) = resolver(
        json!({"resolvers": [declared("bad", bad.address()), declared("one", good.address())]}),
        web(),
    );
    bad.behave(|_| DnsAnswer::Code(ResponseCode::ServFail));
    assert_eq!(
        resolver.addresses(NAME, 443).await,
        found(&["93.184.216.34"])
    );
    bad.behave(|_| DnsAnswer::Code(ResponseCode::NXDomain));
    let none = resolver.addresses("b.example", 443).await;
    assert_eq!(none, Err(ResolveFailure::NoAddress), "the first one knows");
    bad.behave(|_| DnsAnswer::Bytes(vec![0xff; 40]));
    assert_eq!(
        resolver.addresses("c.example", 443).await,
        found(&["93.184.216.34"])
    );
}

#[tokio::test]
async fn a_silent_resolver_costs_a_bounded_time() {
    let server = DnsServer::start();
    server.behave(|_| DnsAnswer::Silence);
    let (resolver, _) = asking(&server);
    let began = Instant::now();
    let silent = resolver.addresses(NAME, 443).await;
    assert!(
        matches!(silent, Err(ResolveFailure::Unanswered(_))),
        "{silent:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn records_come_without_addresses() {
    let server = DnsServer::start();
    server.behave(|question| {
        let text = RData::TXT(TXT::new(vec!["v=1".to_owned()]));
        let name = cellos_testkit::dns::fqdn(&question.name);
        let private = address(&question.name, [10, 0, 0, 1].into());
        DnsAnswer::Records(vec![Record::from_rdata(name, 60, text), private])
    });
    let (resolver, _) = asking(&server);
    let records = resolver.records(NAME, DnsQueryType::Txt).await.unwrap();
    assert_eq!((records.rcode, records.answers.len()), (0, 1));
    assert_eq!(records.answers[0].record_type(), RecordType::TXT);
    assert_eq!(records.resolver_id.as_deref(), Some("one"));
}

#[tokio::test]
async fn the_hosts_own_resolver_is_judged_too() {
    let (resolver, _) = resolver(
        json!({}),
        json!([{"host": "localhost.example", "port": 443}]),
    );
    let local = resolver.addresses("localhost", 443).await;
    assert!(
        matches!(local, Err(ResolveFailure::Forbidden(..))),
        "{local:?}"
    );
}

fn moving(server: &DnsServer) {
    let mut last = 0;
    server.behave(move |question| {
        if question.kind != RecordType::A {
            return DnsAnswer::Records(Vec::new());
        }
        last += 1;
        let mut record = address(&question.name, [93, 184, 216, last].into());
        record.ttl = 0;
        DnsAnswer::Records(vec![record])
    });
}

#[tokio::test]
async fn a_name_that_moves_too_often_is_told_of_and_refused_where_that_is_asked_for() {
    for rejects in [false, true] {
        let server = DnsServer::start();
        moving(&server);
        let (resolver, told) = resolver(
            json!({"resolvers": [declared("one", server.address())],
                "rebindingPolicy": {"maxNovelIpsPerHostname": 2, "rejectOnRebind": rejects}}),
            web(),
        );
        for _ in 0..2 {
            resolver.addresses(NAME, 443).await.unwrap();
        }
        assert_eq!(told.all(), []);
        let third = resolver.addresses(NAME, 443).await;
        match rejects {
            true => assert_eq!(
                third,
                Err(ResolveFailure::Rebind(ips(&["93.184.216.3"])[0]))
            ),
            false => assert_eq!(third, found(&["93.184.216.3"])),
        }
        let reports = told.all();
        let [NetworkReport::RebindThreshold(report)] = reports.as_slice() else {
            panic!("{reports:?}");
        };
        assert_eq!(report.novel_ip, "93.184.216.3");
        assert_eq!(
            (report.previous_ip_count, report.cumulative_ip_count),
            (2, 3)
        );
        assert_eq!(report.rejected, rejects);
    }
}

#[tokio::test]
async fn listed_addresses_are_the_only_ones_of_a_name() {
    let both = ips(&["93.184.216.34", "10.1.2.3", "93.184.216.99"]);
    let server = DnsServer::with(&[(NAME, &both)]);
    let (resolver, told) = resolver(
        json!({"resolvers": [declared("one", server.address())], "rebindingPolicy": {
            "responseIpAllowlist": ["a.example:93.184.216.32/30", "a.example:10.1.2.3"],
            "maxNovelIpsPerHostname": 0, "rejectOnRebind": true}}),
        web(),
    );
    let expected = found(&["93.184.216.34", "10.1.2.3"]);
    assert_eq!(resolver.addresses(NAME, 443).await, expected);
    let reports = told.all();
    let [NetworkReport::RebindRejected(report)] = reports.as_slice() else {
        panic!("{reports:?}");
    };
    assert_eq!(report.novel_ip, "93.184.216.99");
    assert_eq!(report.response_ip_allowlist.len(), 2);
}

#[tokio::test]
async fn a_move_is_told_under_a_refresh_policy() {
    let server = DnsServer::start();
    moving(&server);
    let dns = json!({"resolvers": [declared("one", server.address())], "refreshPolicy": {}});
    let (resolver, told) = resolver(dns, web());
    for _ in 0..2 {
        resolver.addresses(NAME, 443).await.unwrap();
    }
    let reports = told.all();
    let [NetworkReport::Drift(first), NetworkReport::Drift(then)] = reports.as_slice() else {
        panic!("{reports:?}");
    };
    assert_eq!(first.previous_digest, "empty");
    assert_eq!(then.previous_digest, first.current_digest);
    assert_eq!(then.added_targets, ["93.184.216.2"]);
    assert_eq!(then.removed_targets, ["93.184.216.1"]);
}

#[tokio::test]
async fn manual_resolves_once() {
    let server = DnsServer::start();
    moving(&server);
    let (resolver, _) = resolver(
        json!({"resolvers": [declared("one", server.address())],
            "refreshPolicy": {"strategy": "manual"}}),
        web(),
    );
    for _ in 0..3 {
        assert_eq!(
            resolver.addresses(NAME, 443).await,
            found(&["93.184.216.1"])
        );
    }
}

#[tokio::test]
async fn what_cannot_be_told_leads_nowhere() {
    let server = DnsServer::with(&[(NAME, &ips(&["93.184.216.34"]))]);
    let dns = json!({"resolvers": [declared("one", server.address())], "refreshPolicy": {}});
    let authority = authority(dns, web());
    let rules = Rules::of(&authority).unwrap();
    let resolver = resolver_for(&authority, &rules, Arc::new(Full)).unwrap();
    for _ in 0..2 {
        let untold = resolver.addresses(NAME, 443).await;
        assert!(
            matches!(untold, Err(ResolveFailure::Unanswered(_))),
            "{untold:?}"
        );
    }
}

#[test]
fn problems_name_the_field() {
    let problem = |resolvers: Value| {
        let authority = authority(json!({"resolvers": resolvers}), web());
        let rules = Rules::default();
        let made = resolver_for(&authority, &rules, Arc::new(Full));
        made.err().unwrap().to_string()
    };
    let quic = json!({"resolverId": "q", "endpoint": "a.example", "protocol": "doq"});
    let said = problem(json!([declared("one", "192.0.2.1"), quic]));
    assert!(
        said.starts_with("spec.authority.dnsAuthority.resolvers[1].endpoint: DNS over QUIC"),
        "{said}"
    );
    let anchors = json!({"resolverId": "a", "endpoint": "192.0.2.1", "protocol": "do53-tcp",
        "dnssec": {"trustAnchorsPath": "/nonexistent/anchors"}});
    let said = problem(json!([anchors]));
    assert!(
        said.contains("resolvers[0].dnssec.trustAnchorsPath: read /nonexistent/anchors"),
        "{said}"
    );
}
