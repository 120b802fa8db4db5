//! What is heard does not depend on how a stream is cut.

use std::time::Instant;

use cellos_bridge::{
    BridgeError, GuestEnd, GuestMessage, HostEnd, HostMessage, HostSilence, HostTimes, Phase,
    Started,
};

use crate::fixtures::{
    config, drain_guest, exit, full_dialogue, guest_receives, hello, host_receives, ready,
};

/// Feeds a host whose own part of the dialogue is played at the right moments.
fn replay_to_host(pieces: &[&[u8]]) -> Result<Vec<GuestMessage>, BridgeError> {
    let now = Instant::now();
    let mut host = HostEnd::new(HostTimes::default(), now);
    let mut heard = Vec::new();
    let mut telemetry = 0;
    for piece in pieces {
        let mut rest = *piece;
        while let Some(message) = host.receive(&mut rest, now)? {
            match &message {
                GuestMessage::Telemetry(_) if telemetry == 0 => {
                    telemetry = 1;
                    host.configure(&config(), now).unwrap();
                }
                GuestMessage::Ready(_) => host.start().unwrap(),
                _ => {}
            }
            heard.push(message);
        }
        assert!(rest.is_empty());
    }
    Ok(heard)
}

/// Feeds a guest whose own part of the dialogue is played at the right moments.
fn replay_to_guest(pieces: &[&[u8]]) -> Result<Vec<HostMessage>, BridgeError> {
    let now = Instant::now();
    let mut guest = GuestEnd::new(&hello(), HostSilence::Tolerated, now).unwrap();
    let mut heard = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(message) = guest.receive(&mut rest, now)? {
            match &message {
                HostMessage::Config(_) => guest.ready(&ready()).unwrap(),
                HostMessage::Start => {
                    guest.started(Started { pid: 12 }).unwrap();
                    guest.grant_input(100).unwrap();
                }
                _ => {}
            }
            heard.push(message);
        }
        assert!(rest.is_empty());
    }
    Ok(heard)
}

#[test]
fn a_host_hears_the_same_however_the_stream_is_cut() {
    let stream = full_dialogue().from_guest;
    let whole = replay_to_host(&[&stream]).unwrap();
    assert!(matches!(whole.last(), Some(GuestMessage::Exit(_))));
    assert_eq!(whole.len(), 9);
    for cut in 0..=stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(replay_to_host(&[first, second]).unwrap(), whole, "{cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(replay_to_host(&bytes).unwrap(), whole);
}

#[test]
fn a_guest_hears_the_same_however_the_stream_is_cut() {
    let stream = full_dialogue().from_host;
    let whole = replay_to_guest(&[&stream]).unwrap();
    assert_eq!(whole.len(), 8);
    for cut in 0..=stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(replay_to_guest(&[first, second]).unwrap(), whole, "{cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(replay_to_guest(&bytes).unwrap(), whole);
}

#[test]
fn a_stream_that_ends_within_a_frame_is_short() {
    let stream = full_dialogue().from_guest;
    let boundaries: Vec<usize> = crate::fixtures::frames(&stream)
        .iter()
        .map(|range| range.end)
        .collect();
    let now = Instant::now();
    let hello_end = boundaries[0];
    for cut in 1..hello_end {
        let mut host = HostEnd::new(HostTimes::default(), now);
        assert_eq!(host_receives(&mut host, &stream[..cut], now), Ok(vec![]));
        let error = BridgeError::Short { received: cut };
        assert_eq!(host.closed(), Err(error.clone()));
        // And so it stays.
        assert_eq!(host_receives(&mut host, b"x", now), Err(error));
    }
}

#[test]
fn bytes_of_an_outgoing_frame_may_be_written_in_any_pieces() {
    let now = Instant::now();
    let mut at_once = full_guest(now);
    let whole = drain_guest(&mut at_once);
    let mut slowly = full_guest(now);
    let mut bytes = Vec::new();
    while let Some(next) = slowly.outgoing() {
        bytes.push(next[0]);
        slowly.sent(1);
    }
    assert_eq!(bytes, whole);
    let mut past_the_first = full_guest(now);
    past_the_first.sent(whole.len());
    assert_eq!(past_the_first.outgoing(), None);
}

/// A guest that has a whole dialogue to send.
fn full_guest(now: Instant) -> GuestEnd {
    let mut guest = GuestEnd::new(&hello(), HostSilence::Tolerated, now).unwrap();
    let stream = full_dialogue().from_host;
    let frames = crate::fixtures::frames(&stream);
    guest_receives(&mut guest, &stream[frames[0].clone()], now).unwrap();
    guest.ready(&ready()).unwrap();
    guest_receives(&mut guest, &stream[frames[1].clone()], now).unwrap();
    guest.started(Started { pid: 1 }).unwrap();
    guest.exit(&exit(0)).unwrap();
    assert_eq!(guest.phase(), Phase::Exited);
    guest
}
