use std::sync::Arc;

use proptest::prelude::*;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName, version,
};

use super::*;
use crate::peek::Fronting;

fn expected(name: Option<&str>) -> Expected {
    Expected {
        name: name.map(str::to_owned),
        address: "192.0.2.7".parse().unwrap(),
        port: 443,
        fronting: Fronting::Refused,
    }
}

/// What rustls sends first.
fn real(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    flight
}

/// A message around these extensions.
fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend(*content);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut message = vec![1, length[1], length[2], length[3]];
    message.extend(body);
    message
}

fn sni(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let mut content = (length + 3).to_be_bytes().to_vec();
    content.push(0);
    content.extend(length.to_be_bytes());
    content.extend(name.as_bytes());
    content
}

/// In records of these sizes, the last of which repeats.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = message;
    let mut index = 0;
    while !rest.is_empty() {
        let size = sizes[index.min(sizes.len() - 1)].min(rest.len());
        index += 1;
        wire.extend(record(HANDSHAKE, &rest[..size]));
        rest = &rest[size..];
    }
    wire
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 1];
    record.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
    record.extend(content);
    record
}

fn verdict(name: Option<&str>, wire: &[u8]) -> Result<Hold, FlowReason> {
    TlsGuard::new(expected(name))
        .feed(wire)
        .map_err(|fault| fault.reason)
}

#[test]
fn real_hellos_pass_for_their_name_only() {
    let flight = real("api.example.com");
    assert_eq!(verdict(Some("api.example.com"), &flight), Ok(Hold::Release));
    assert_eq!(
        verdict(Some("example.com"), &flight),
        Err(FlowReason::L7SniAllowlistMiss)
    );
    assert_eq!(verdict(None, &flight), Err(FlowReason::L7SniAllowlistMiss));
    // A client of an address sends no name.
    let flight = real("192.0.2.7");
    assert_eq!(verdict(None, &flight), Ok(Hold::Release));
    assert_eq!(
        verdict(Some("example.com"), &flight),
        Err(FlowReason::L7SniMissing)
    );
}

#[test]
fn every_beginning_of_a_hello_is_kept() {
    let flight = real("api.example.com");
    let mut guard = TlsGuard::new(expected(Some("api.example.com")));
    let (last, beginning) = flight.split_last().unwrap();
    for byte in beginning {
        assert_eq!(guard.feed(&[*byte]), Ok(Hold::Keep));
    }
    assert_eq!(guard.feed(&[*last]), Ok(Hold::Release));
}

#[test]
fn a_large_hello_in_records_of_one_byte_passes() {
    let key = vec![9; 1216];
    let message = hello(&[(51, &key), (0, &sni("api.example.com"))]);
    let wire = records(&message, &[1]);
    assert_eq!(verdict(Some("api.example.com"), &wire), Ok(Hold::Release));
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let name = sni("a.example");
    let two_names = {
        let one = &sni("a.example")[2..];
        let both = [one, &sni("b.example")[2..]].concat();
        let mut content = u16::try_from(both.len()).unwrap().to_be_bytes().to_vec();
        content.extend(both);
        content
    };
    let mut too_much = hello(&[(0, &name)]);
    too_much.push(0);
    let mut wrong_length = hello(&[(0, &name)]);
    wrong_length[3] -= 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "duplicate",
            records(&hello(&[(0, &name), (0, &name)]), &[4096]),
        ),
        ("two names", records(&hello(&[(0, &two_names)]), &[4096])),
        (
            "last dot",
            records(&hello(&[(0, &sni("a.example."))]), &[4096]),
        ),
        ("empty name", records(&hello(&[(0, &sni(""))]), &[4096])),
        (
            "nul",
            records(&hello(&[(0, &sni("a.example\0b"))]), &[4096]),
        ),
        ("utf-8", records(&hello(&[(0, &sni("ä.example"))]), &[4096])),
        ("two messages", records(&too_much, &[4096])),
        ("wrong length", records(&wrong_length, &[4096])),
        ("ssl 2", vec![0x80, 0x2e, 1, 3, 1, 0, 0x15]),
        ("alert first", record(ALERT, &[1, 0])),
        ("empty record", record(HANDSHAKE, &[])),
        ("other message", record(HANDSHAKE, &[2, 0, 0, 0])),
        ("large record", vec![HANDSHAKE, 3, 1, 0x40, 1]),
        ("large hello", record(HANDSHAKE, &[1, 1, 0, 1])),
        ("version", vec![HANDSHAKE, 2]),
    ];
    for (what, wire) in cases {
        assert_eq!(
            verdict(Some("a.example"), &wire),
            Err(FlowReason::TlsMalformed),
            "{what}"
        );
    }
}

#[test]
fn names_compare_without_case_and_addresses_are_no_names() {
    let wire = |name: &str| records(&hello(&[(0, &sni(name))]), &[100]);
    assert_eq!(
        verdict(Some("a.example"), &wire("A.eXample")),
        Ok(Hold::Release)
    );
    assert_eq!(
        verdict(Some("a.example"), &wire("192.0.2.7")),
        Err(FlowReason::L7SniAllowlistMiss)
    );
    assert_eq!(verdict(None, &wire("192.0.2.7")), Ok(Hold::Release));
    assert_eq!(
        verdict(None, &wire("192.0.2.8")),
        Err(FlowReason::L7SniAllowlistMiss)
    );
}

#[test]
fn an_encrypted_hello_needs_fronting() {
    for kind in [0xfe0d, 0xffce, 0xfd00] {
        let wire = records(&hello(&[(0, &sni("a.example")), (kind, &[0; 40])]), &[4096]);
        let mut guard = TlsGuard::new(expected(Some("a.example")));
        let fault = guard.feed(&wire).unwrap_err();
        assert_eq!(fault.reason, FlowReason::TlsEncryptedHello);
        assert_eq!(fault.presented.as_deref(), Some("a.example"));
        let accepting = Expected {
            fronting: Fronting::Accepted,
            ..expected(Some("b.example"))
        };
        assert_eq!(TlsGuard::new(accepting).feed(&wire), Ok(Hold::Release));
    }
}

#[test]
fn a_second_hello_is_checked_like_the_first() {
    let hello_for = |name: &str| records(&hello(&[(0, &sni(name))]), &[50]);
    let early = |name: &str| records(&hello(&[(0, &sni(name)), (42, &[])]), &[50]);
    let compatible = record(CHANGE_CIPHER_SPEC, &[1]);
    let alert = record(ALERT, &[1, 90]);
    let data = record(APPLICATION_DATA, &[5; 3000]);
    let next = |first: Vec<u8>, then: &[&[u8]]| {
        let mut guard = TlsGuard::new(expected(Some("a.example")));
        assert_eq!(guard.feed(&first), Ok(Hold::Release));
        guard.feed(&then.concat()).map_err(|fault| fault.reason)
    };
    let (good, bad) = (hello_for("a.example"), hello_for("b.example"));
    assert_eq!(next(good.clone(), &[&compatible, &good]), Ok(Hold::Settled));
    let refused = Err(FlowReason::L7SniAllowlistMiss);
    assert_eq!(next(good.clone(), &[&bad]), refused);
    assert_eq!(next(good.clone(), &[&compatible, &alert, &bad]), refused);
    assert_eq!(
        next(early("a.example"), &[&compatible, &data, &data, &bad]),
        refused
    );
    // The common ends: TLS 1.3 goes on encrypted, TLS 1.2 with its key exchange.
    assert_eq!(next(good.clone(), &[&compatible, &data]), Ok(Hold::Settled));
    let exchange = record(HANDSHAKE, &[16, 0, 0, 1, 0]);
    assert_eq!(next(good.clone(), &[&exchange]), Ok(Hold::Settled));
    assert_eq!(
        next(good.clone(), &[b"GET / HTTP/1.1\r\n"]),
        Err(FlowReason::TlsMalformed)
    );
    // A resumed session of TLS 1.2, whose encrypted message begins like a hello by chance.
    for finished in [&[1, 9, 8, 7, 6, 5, 4, 3][..], &[1, 0, 8, 7, 6, 5, 4, 3]] {
        let finished = record(HANDSHAKE, finished);
        let resumed = [&compatible[..], &finished, &data];
        assert_eq!(next(good.clone(), &resumed), Ok(Hold::Settled));
    }
    let alerts = alert.repeat(65);
    assert_eq!(next(good, &[&alerts]), Err(FlowReason::TlsMalformed));
}

#[test]
fn a_hello_on_the_wire_has_a_bound() {
    let mut message = vec![1, 0, 0xff, 0xff];
    message.extend(vec![0; 0xffff]);
    let wire = records(&message, &[1]);
    let mut guard = TlsGuard::new(expected(None));
    let mut fed = 0;
    let fault = wire
        .chunks(100)
        .find_map(|part| {
            fed += part.len();
            guard.feed(part).err()
        })
        .unwrap();
    assert_eq!(fault.reason, FlowReason::TlsMalformed);
    assert!(fed <= MAX_FIRST_FLIGHT + 100);
}

proptest! {
    #[test]
    fn how_it_is_cut_changes_nothing(
        sizes in proptest::collection::vec(1usize..400, 1..8),
        parts in proptest::collection::vec(1usize..400, 1..20),
        presented in prop_oneof![Just("a.example"), Just("b.example")],
    ) {
        let message = &real(presented)[5..];
        let whole = verdict(Some("a.example"), &records(message, &[16384]));
        let wire = records(message, &sizes);
        let mut guard = TlsGuard::new(expected(Some("a.example")));
        let mut rest = &wire[..];
        let mut index = 0;
        let mut last = Ok(Hold::Keep);
        while !rest.is_empty() && last.is_ok() {
            let size = parts[index % parts.len()].min(rest.len());
            index += 1;
            prop_assert_eq!(&last, &Ok(Hold::Keep));
            last = guard.feed(&rest[..size]).map_err(|fault| fault.reason);
            rest = &rest[size..];
        }
        prop_assert_eq!(last, whole);
    }

    #[test]
    fn nothing_makes_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        at in any::<proptest::sample::Index>(),
        change in any::<u8>(),
    ) {
        let _ = verdict(None, &bytes);
        let _ = verdict(None, &[&[HANDSHAKE, 3, 1, 2, 0], &bytes[..]].concat());
        let mut flight = real("a.example");
        let at = at.index(flight.len());
        flight[at] ^= change;
        let _ = verdict(Some("a.example"), &[&flight[..], &bytes].concat());
    }
}
