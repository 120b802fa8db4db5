use proptest::prelude::*;

use super::*;
use crate::peek::Fronting;

fn conversation(name: Option<&str>, port: u16) -> Conversation {
    Conversation::new(Expected {
        name: name.map(str::to_owned),
        address: "192.0.2.7".parse().unwrap(),
        port,
        fronting: Fronting::Refused,
    })
}

fn guard() -> Conversation {
    conversation(Some("a.example"), 80)
}

/// What goes on, and why no more does.
fn fed(guard: &mut Conversation, input: &[u8]) -> (Vec<u8>, Option<FlowReason>) {
    let mut out = Vec::new();
    let fault = guard.feed(input, &mut out).err().map(|fault| fault.reason);
    (out, fault)
}

fn passes(guard: &mut Conversation, input: &[u8]) {
    let (out, fault) = fed(guard, input);
    assert_eq!(fault, None, "{}", input.escape_ascii());
    assert_eq!(out, input);
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OTHER: &[u8] = b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET /w HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn clean_requests_pass_as_they_are() {
    for request in [
        GET,
        b"GET / HTTP/1.0\r\nhost:A.Example:80\r\n\r\n",
        b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
          5\r\nhello\r\n0a\r\n0123456789\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
          0\r\nChecksum: 1\r\n\r\n",
    ] {
        let mut guard = guard();
        passes(&mut guard, &[request, GET, request].concat());
        assert!(guard.is_between());
        assert_eq!(
            fed(&mut guard, OTHER),
            (vec![], Some(FlowReason::L7HttpHostAllowlistMiss))
        );
    }
}

#[test]
fn hosts_are_the_one_behind_the_address() {
    use FlowReason::{
        HttpMalformed as Odd, L7HttpHostAllowlistMiss as Miss, L7HttpHostMissing as Missing,
    };
    for (line, host, reason) in [
        ("/", "Host: b.example", Miss),
        ("/", "Host: a.example:8080", Miss),
        ("/", "Host: a.example:", Miss),
        ("/", "Host: a.example.", Miss),
        ("/", "Host: x@a.example", Miss),
        ("/", "Host: a.example, b.example", Miss),
        ("/", "Host: 192.0.2.7", Miss),
        ("/", "Host:", Missing),
        ("/", "X: y", Missing),
        ("/", "Host: a.example\r\nHost: a.example", Odd),
        ("http://b.example/", "Host: a.example", Miss),
        ("http://a.example:81/", "Host: a.example", Miss),
        ("http://a.example@b.example/", "Host: a.example", Miss),
        ("http://b.example\\.a.example/", "Host: a.example", Miss),
        ("http://a.example/", "Host: b.example", Miss),
        ("https://a.example/", "Host: a.example", Odd),
        ("a.example", "Host: a.example", Odd),
    ] {
        let request = format!("GET {line} HTTP/1.1\r\n{host}\r\n\r\n");
        let answer = fed(&mut guard(), request.as_bytes());
        assert_eq!(answer, (vec![], Some(reason)), "{request}");
    }
    let mut literal = conversation(None, 8080);
    passes(
        &mut literal,
        b"GET / HTTP/1.1\r\nHost: 192.0.2.7:8080\r\n\r\n",
    );
    assert_eq!(
        fed(&mut literal, GET),
        (vec![], Some(FlowReason::L7HttpHostAllowlistMiss))
    );
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for (what, request) in [
        (
            "both lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
        ),
        (
            "list of lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4, 4\r\n\r\n",
        ),
        (
            "signed",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +4\r\n\r\n",
        ),
        (
            "blank within",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4 4\r\n\r\n",
        ),
        (
            "too long",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        (
            "other coding",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ),
        (
            "odd coding",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n",
        ),
        (
            "two codings",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "old chunks",
            "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "fold",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\r\n b\r\n\r\n",
        ),
        (
            "blank before colon",
            "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
        ),
        (
            "disguise",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer_Encoding: chunked\r\n\r\n",
        ),
        ("bare lf", "GET / HTTP/1.1\nHost: a.example\n\n"),
        (
            "bare cr",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rb\r\n\r\n",
        ),
        (
            "nul",
            "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\0b\r\n\r\n",
        ),
        ("0.9", "GET /\r\n\r\n"),
        ("1.2", "GET / HTTP/1.2\r\nHost: a.example\r\n\r\n"),
        (
            "connect",
            "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ),
        (
            "connection",
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close, Host\r\n\r\n",
        ),
        (
            "expect",
            "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: y 100-continue\r\n\r\n",
        ),
        (
            "head upgrade",
            "HEAD / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("head", "head / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("empty lines", "\r\n\r\n\r\n\r\n\r\n\r\n"),
        ("tls", "\x16\x03\x01"),
    ] {
        let answer = fed(&mut guard(), request.as_bytes());
        assert_eq!(answer, (vec![], Some(FlowReason::HttpMalformed)), "{what}");
    }
    let preface = fed(&mut guard(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(preface, (vec![], Some(FlowReason::Http2Cleartext)));
}

#[test]
fn odd_chunks_are_refused() {
    let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, body) in [
        ("extension", "5;a=b\r\n"),
        ("blank", "5 \r\n"),
        ("sign", "-5\r\n"),
        ("prefix", "0x5\r\n"),
        ("none", "\r\n"),
        ("bare lf", "5\nhello"),
        ("overflow", "1000000000000000\r\n"),
        ("no end", "1\r\nab"),
        ("bare lf after", "1\r\na\n"),
        ("trailer host", "0\r\nHost: b.example\r\n\r\n"),
        (
            "trailer is request",
            "0\r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
        ),
    ] {
        let mut guard = guard();
        passes(&mut guard, head);
        let (out, fault) = fed(&mut guard, body.as_bytes());
        assert_eq!(fault, Some(FlowReason::HttpMalformed), "{what}");
        assert!(!out.windows(4).any(|part| part == b"Host"), "{what}");
    }
}

#[test]
fn a_head_has_a_bound() {
    let mut guard = guard();
    let mut out = Vec::new();
    guard.feed(b"GET / HTTP/1.1\r\nX: ", &mut out).unwrap();
    let fault = guard
        .feed(&vec![b'a'; lines::MAX_HEAD], &mut out)
        .unwrap_err();
    assert_eq!(fault.reason, FlowReason::HttpMalformed);
    assert!(out.is_empty());
    let many = "X: y\r\n".repeat(request::MAX_HEADERS);
    let many = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{many}\r\n");
    let answer = fed(&mut self::guard(), many.as_bytes());
    assert_eq!(answer, (vec![], Some(FlowReason::HttpMalformed)));
}

#[test]
fn large_bodies_may_pass_unseen_and_the_next_request_is_checked() {
    let mut guard = guard();
    passes(
        &mut guard,
        b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000000000\r\n\r\n",
    );
    assert_eq!(guard.client(), Client::Pass(100_000_000_000));
    guard.passed(99_999_999_999);
    assert_eq!(guard.client(), Client::Pass(1));
    passes(&mut guard, b"x");
    assert_eq!(guard.client(), Client::Read);
    passes(
        &mut guard,
        b"PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
    );
    assert_eq!(guard.client(), Client::Pass(255));
    guard.passed(255);
    passes(&mut guard, b"\r\n0\r\n\r\n");
    assert_eq!(
        fed(&mut guard, OTHER),
        (vec![], Some(FlowReason::L7HttpHostAllowlistMiss))
    );
}

#[test]
fn nothing_follows_an_upgrade_before_the_server_agrees() {
    let mut upgraded = guard();
    let (out, fault) = fed(&mut upgraded, &[UPGRADE, OTHER].concat());
    assert_eq!((out.as_slice(), fault), (UPGRADE, None));
    assert_eq!(upgraded.client(), Client::Wait);
    assert_eq!(fed(&mut upgraded, OTHER), (vec![], None));
    for part in SWITCH.chunks(7) {
        upgraded.watch(part).unwrap();
    }
    assert_eq!(fed(&mut upgraded, &[]), ([OTHER, OTHER].concat(), None));
    assert_eq!(
        (upgraded.client(), upgraded.server()),
        (Client::Opaque, Server::Opaque)
    );

    let mut declined = guard();
    let (out, _) = fed(&mut declined, &[UPGRADE, OTHER].concat());
    assert_eq!(out, UPGRADE);
    declined
        .watch(b"HTTP/1.1 400 No\r\nContent-Length: 200\r\n\r\n")
        .unwrap();
    assert_eq!(declined.server(), Server::Pass(200));
    // An answer's content is no answer.
    declined.watch(SWITCH).unwrap();
    assert_eq!(
        fed(&mut declined, &[]),
        (vec![], Some(FlowReason::L7HttpHostAllowlistMiss))
    );
}

#[test]
fn only_the_answer_to_the_upgrade_upgrades() {
    let mut guard = guard();
    let head = b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let (out, fault) = fed(&mut guard, &[GET, head, GET, UPGRADE, OTHER].concat());
    assert_eq!((out, fault), ([GET, head, GET, UPGRADE].concat(), None));
    let body = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4d\r\n",
        SWITCH,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    assert_eq!(SWITCH.len(), 0x4d);
    guard.watch(&body).unwrap();
    guard
        .watch(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n")
        .unwrap();
    guard
        .watch(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 304 Same\r\n\r\n")
        .unwrap();
    assert_eq!(guard.client(), Client::Wait);
    guard.watch(SWITCH).unwrap();
    assert_eq!(fed(&mut guard, &[]), (OTHER.to_vec(), None));
}

#[test]
fn an_upgrade_whose_answer_cannot_be_told_is_refused() {
    for answers in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        SWITCH,
        b"hello\r\n\r\n",
    ] {
        let mut before = guard();
        passes(&mut before, GET);
        before.watch(answers).unwrap();
        assert_eq!(before.server(), Server::Opaque);
        passes(&mut before, GET);
        assert_eq!(
            fed(&mut before, UPGRADE),
            (vec![], Some(FlowReason::HttpMalformed))
        );
        let mut after = guard();
        passes(&mut after, &[GET, UPGRADE].concat());
        assert_eq!(
            after.watch(answers).unwrap_err().reason,
            FlowReason::HttpMalformed
        );
    }
}

#[test]
fn an_upgrade_to_where_hosts_are_named_again_is_refused() {
    for protocol in ["h2c", "H2C", "websocket, h2c", "TLS/1.0", "HTTP/2.0"] {
        let mut guard = guard();
        let ask = format!("GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: {protocol}\r\n\r\n");
        passes(&mut guard, ask.as_bytes());
        let switch = format!("HTTP/1.1 101 Yes\r\nUpgrade: {protocol}\r\n\r\n");
        let fault = guard.watch(switch.as_bytes()).unwrap_err();
        assert_eq!(fault.reason, FlowReason::Http2Cleartext, "{protocol}");
    }
}

#[test]
fn a_client_with_many_requests_waits_for_answers() {
    let mut guard = guard();
    let many = GET.repeat(answers::MAX_UNANSWERED + 2);
    let (out, fault) = fed(&mut guard, &many);
    assert_eq!(
        (out.len(), fault),
        (answers::MAX_UNANSWERED * GET.len(), None)
    );
    assert_eq!(guard.client(), Client::Wait);
    guard.watch(b"HTTP/1.1 204 None\r\n\r\n").unwrap();
    assert_eq!(guard.client(), Client::Read);
    assert_eq!(fed(&mut guard, &[]).0, GET);
    assert_eq!(guard.client(), Client::Wait);
}

#[test]
fn a_declined_body_is_the_last_thing_said() {
    let ask =
        b"PUT / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n";
    let mut declined = guard();
    passes(&mut declined, ask);
    declined
        .watch(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(
        fed(&mut declined, OTHER),
        (vec![], Some(FlowReason::HttpMalformed))
    );
    let mut accepted = guard();
    passes(&mut accepted, ask);
    accepted.watch(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    assert_eq!(accepted.client(), Client::Pass(99));
    passes(&mut accepted, &[b'x'; 99]);
    passes(&mut accepted, GET);
}

#[test]
fn a_refusal_can_be_answered() {
    let fault = guard().feed(OTHER, &mut Vec::new()).unwrap_err();
    assert_eq!(fault.presented.as_deref(), Some("b.example"));
    let answer = String::from_utf8(fault.answer()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("Connection: close"));
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert!(body.contains("b.example"));
}

/// Pieces that requests are made of, good and bad.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(GET.to_vec()),
        Just(OTHER.to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 36\r\n\r\n".to_vec()),
        Just(b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just(b"24\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(UPGRADE.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn how_it_is_cut_changes_nothing(
        pieces in proptest::collection::vec(piece(), 0..8),
        sizes in proptest::collection::vec(1usize..60, 1..12),
    ) {
        let input = pieces.concat();
        let whole = fed(&mut guard(), &input);
        let mut guard = guard();
        let mut out = Vec::new();
        let mut fault = None;
        let mut rest = &input[..];
        let mut index = 0;
        while !rest.is_empty() && fault.is_none() {
            let size = sizes[index % sizes.len()].min(rest.len());
            index += 1;
            fault = guard.feed(&rest[..size], &mut out).err().map(|fault| fault.reason);
            rest = &rest[size..];
        }
        prop_assert_eq!(fault, whole.1);
        // Of a body that turns out odd, what was sent before it may have gone on.
        match fault {
            None => prop_assert_eq!(out, whole.0),
            Some(_) => prop_assert!(out.starts_with(&whole.0)),
        }
    }

    #[test]
    fn nothing_makes_it_panic(
        ours in proptest::collection::vec(piece(), 0..6),
        theirs in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            Just(SWITCH.to_vec()),
            Just(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".to_vec()),
        ], 0..6),
    ) {
        let mut guard = guard();
        let mut out = Vec::new();
        for index in 0..6 {
            if let Some(bytes) = theirs.get(index) && guard.watch(bytes).is_err() {
                break;
            }
            if guard.feed(ours.get(index).map_or(&[][..], |bytes| bytes), &mut out).is_err() {
                break;
            }
        }
    }
}
