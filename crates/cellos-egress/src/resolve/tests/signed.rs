//! Answers of a root zone that is signed here, with its own trust anchor.

use std::time::Duration;

use cellos_core::event::DnssecFailure;
use cellos_testkit::dns::{DnsQuestion, fqdn};
use hickory_proto::{
    dnssec::{
        DnssecSigner, SigningKey as _,
        crypto::Ed25519SigningKey,
        rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG},
    },
    op::Message,
    rr::{
        DNSClass, Name, RecordSet,
        rdata::{NS, SOA},
    },
};
use time::OffsetDateTime;

use super::*;

const TTL: u32 = 60;
/// A name in the signed zone.
const SIGNED: &str = "signed.example";
/// A zone that is provably not signed.
const UNSIGNED: &str = "plain.example";

struct Zone {
    signer: DnssecSigner,
    key: DNSKEY,
}

impl Zone {
    fn new() -> Self {
        let pkcs8 = Ed25519SigningKey::generate_pkcs8().unwrap();
        let key = Ed25519SigningKey::from_pkcs8(&pkcs8).unwrap();
        let dnskey = DNSKEY::from_key(&key.to_public_key().unwrap());
        let valid = Duration::from_secs(3600);
        let signer = DnssecSigner::new(dnskey.clone(), Box::new(key), Name::root(), valid);
        Self {
            signer,
            key: dnskey,
        }
    }

    /// A record and its signature.
    fn signed(&self, record: Record) -> [Record; 2] {
        let name = record.name.clone();
        let set = RecordSet::from(record.clone());
        let since = OffsetDateTime::now_utc() - Duration::from_secs(60);
        let rrsig = RRSIG::from_rrset(&set, DNSClass::IN, since, &self.signer).unwrap();
        let rrsig = RData::DNSSEC(DNSSECRData::RRSIG(rrsig));
        [record, Record::from_rdata(name, TTL, rrsig)]
    }

    fn anchors(&self) -> String {
        format!(". IN DNSKEY {}\n", self.key)
    }

    /// What belongs to validation itself.
    fn chain(&self, question: &DnsQuestion) -> Option<Message> {
        let name = fqdn(&question.name);
        match question.kind {
            RecordType::DNSKEY if question.name.is_empty() => {
                let key = RData::DNSSEC(DNSSECRData::DNSKEY(self.key.clone()));
                Some(question.answer(self.signed(Record::from_rdata(name, TTL, key))))
            }
            RecordType::NS if question.name == UNSIGNED => {
                let server = RData::NS(NS(fqdn("ns.plain.example")));
                Some(question.answer([Record::from_rdata(name, TTL, server)]))
            }
            RecordType::DS if question.name == UNSIGNED => {
                let nsec = NSEC::new_cover_self(fqdn("z.example"), [RecordType::NS]);
                let nsec = RData::DNSSEC(DNSSECRData::NSEC(nsec));
                let soa = SOA::new(fqdn("ns.example"), fqdn("root.example"), 1, 2, 3, 4, 5);
                let soa = Record::from_rdata(Name::root(), TTL, RData::SOA(soa));
                let mut message = question.answer([]);
                message.add_authorities(self.signed(soa));
                message.add_authorities(self.signed(Record::from_rdata(name, TTL, nsec)));
                Some(message)
            }
            RecordType::A | RecordType::AAAA => None,
            _ => Some(question.answer([])),
        }
    }
}

fn right(question: &DnsQuestion) -> Record {
    match question.kind {
        RecordType::A => address(&question.name, "93.184.216.34".parse().unwrap()),
        _ => address(&question.name, "2606:2800:220:1::1".parse().unwrap()),
    }
}

/// A resolver that validates, before a server that answers like this.
fn validating(
    fail_closed: bool,
    answer: impl Fn(&Zone, &DnsQuestion) -> Vec<Record> + Send + 'static,
) -> (Arc<dyn Resolve>, Arc<Told>, DnsServer) {
    let (zone, server) = (Zone::new(), DnsServer::start());
    let anchors = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchors.path(), zone.anchors()).unwrap();
    let mut one = declared("one", server.address());
    one["dnssec"] = json!({"failClosed": fail_closed, "trustAnchorsPath": anchors.path()});
    server.behave(move |question| {
        let message = zone.chain(question);
        let message = message.unwrap_or_else(|| question.answer(answer(&zone, question)));
        DnsAnswer::Message(Box::new(message))
    });
    let rules = json!([{"host": SIGNED, "port": 443}, {"host": UNSIGNED, "port": 443}]);
    let (resolver, told) = resolver(json!({"resolvers": [one]}), rules);
    (resolver, told, server)
}

fn reasons(told: &Told) -> Vec<(DnssecFailure, bool)> {
    let reason = |report: &NetworkReport| match report {
        NetworkReport::DnssecFailed(failed) => Some((failed.reason, failed.fail_closed)),
        _ => None,
    };
    told.all().iter().filter_map(reason).collect()
}

#[tokio::test]
async fn signatures_that_hold_are_taken() {
    for fail_closed in [false, true] {
        let answer = |zone: &Zone, question: &DnsQuestion| zone.signed(right(question)).to_vec();
        let (resolver, told, _server) = validating(fail_closed, answer);
        let expected = found(&["93.184.216.34", "2606:2800:220:1::1"]);
        assert_eq!(resolver.addresses(SIGNED, 443).await, expected);
        assert_eq!(reasons(&told), []);
    }
}

#[tokio::test]
async fn signatures_that_do_not_hold_are_always_refused() {
    for fail_closed in [false, true] {
        let (resolver, told, _server) = validating(fail_closed, |zone, question| {
            let other = address(
                &question.name,
                match question.kind {
                    RecordType::A => "93.184.216.66".parse().unwrap(),
                    _ => "2606:2800:220:1::66".parse().unwrap(),
                },
            );
            let [_, signature] = zone.signed(right(question));
            vec![other, signature]
        });
        let bogus = resolver.addresses(SIGNED, 443).await;
        assert!(matches!(bogus, Err(ResolveFailure::Dnssec(_))), "{bogus:?}");
        assert_eq!(
            reasons(&told),
            [(DnssecFailure::ValidationFailed, fail_closed)]
        );
    }
}

#[tokio::test]
async fn signatures_that_were_taken_away_are_always_refused() {
    for fail_closed in [false, true] {
        let (resolver, told, _server) =
            validating(fail_closed, |_, question| vec![right(question)]);
        let stripped = resolver.addresses(SIGNED, 443).await;
        assert!(
            matches!(stripped, Err(ResolveFailure::Dnssec(_))),
            "{stripped:?}"
        );
        assert_eq!(reasons(&told).len(), 1);
    }
}

#[tokio::test]
async fn zones_without_signatures_are_refused_where_that_is_asked_for() {
    let answer = |_: &Zone, question: &DnsQuestion| vec![right(question)];
    let (resolver, told, _server) = validating(false, answer);
    let expected = found(&["93.184.216.34", "2606:2800:220:1::1"]);
    assert_eq!(resolver.addresses(UNSIGNED, 443).await, expected);
    assert_eq!(reasons(&told), []);
    let (resolver, told, _server) = validating(true, answer);
    let refused = resolver.addresses(UNSIGNED, 443).await;
    assert!(
        matches!(refused, Err(ResolveFailure::Dnssec(_))),
        "{refused:?}"
    );
    assert_eq!(reasons(&told), [(DnssecFailure::UnsignedZone, true)]);
}
