//! Whatever bytes come: no panic, no end without an error or a message, and no exit but the guest's.
//!
//! These stand in for a coverage-guided fuzzer: the generators start from a valid dialogue, so that
//! they get past the header, and the seed is fixed, so that a failure is the same everywhere.

use std::time::Instant;

use cellos_bridge::{
    BridgeError, Fetch, GuestEnd, GuestMessage, HostEnd, HostSilence, HostTimes, Phase,
    published::{BootTokens, verify_exit_frame},
};
use proptest::{
    prelude::*, test_runner::RngAlgorithm, test_runner::TestRng, test_runner::TestRunner,
};

use crate::fixtures::{
    KEY, Pair, config, frames, full_dialogue, guest_receives, hello, host_receives,
};

/// Runs a property on the same cases each time.
fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&strategy, |value| {
            property(value);
            Ok(())
        })
        .unwrap();
}

/// What a host hears of a stream, its own part of the dialogue played at the right moments.
fn hear(stream: &[u8]) -> (Vec<GuestMessage>, Option<BridgeError>) {
    let now = Instant::now();
    let mut host = HostEnd::new(HostTimes::default(), now);
    let mut heard = Vec::new();
    let mut rest = stream;
    loop {
        let before = rest.len();
        match host.receive(&mut rest, now) {
            Ok(Some(message)) => {
                assert!(rest.len() < before, "a message out of nothing");
                match (&message, host.phase()) {
                    (GuestMessage::Telemetry(_), Phase::Parked) => {
                        host.configure(&config(), now).unwrap();
                    }
                    (GuestMessage::Ready(_), _) => host.start().unwrap(),
                    (GuestMessage::Exit(_), _) => {
                        let path = "a".into();
                        let fetch = Fetch { path, max_bytes: 9 };
                        host.fetch(&fetch, now).unwrap();
                    }
                    _ => {}
                }
                heard.push(message);
            }
            Ok(None) => {
                assert!(rest.is_empty());
                return (heard, host.closed().err());
            }
            Err(error) => {
                assert_eq!(host.check(now), Err(error.clone()));
                return (heard, Some(error));
            }
        }
    }
}

fn has_exit(heard: &[GuestMessage]) -> bool {
    heard
        .iter()
        .any(|message| matches!(message, GuestMessage::Exit(_)))
}

#[test]
fn an_unaltered_dialogue_is_accepted() {
    let (heard, _) = hear(&full_dialogue().from_guest);
    assert!(has_exit(&heard));
}

#[test]
fn a_bit_altered_in_any_byte_lets_no_exit_pass() {
    let stream = full_dialogue().from_guest;
    for byte in 0..stream.len() {
        let mut altered = stream.clone();
        altered[byte] ^= 1 << (byte % 8);
        let (heard, error) = hear(&altered);
        assert!(!has_exit(&heard), "byte {byte}: {heard:?}");
        assert!(error.is_some(), "byte {byte}");
    }
}

#[test]
fn no_altered_dialogue_lets_an_exit_pass() {
    let stream = full_dialogue().from_guest;
    let length = stream.len();
    let edits = prop::collection::vec((0..length, any::<u8>(), 0_u8..4, 1_usize..40), 1..4);
    check(2000, edits, |edits| {
        let mut altered = stream.clone();
        for (at, value, how, many) in edits {
            let at = at.min(altered.len());
            let end = (at + many).min(altered.len());
            match how {
                0 => altered[at..end].fill(value),
                1 => altered.insert(at, value),
                2 => drop(altered.drain(at..end)),
                _ => {
                    let copy = altered[at..end].to_vec();
                    altered.splice(at..at, copy);
                }
            }
        }
        let (heard, error) = hear(&altered);
        // What follows the exit cannot alter it.
        if !altered.starts_with(&stream) {
            assert!(!has_exit(&heard));
            assert!(error.is_some());
        }
    });
}

#[test]
fn no_reordered_repeated_or_left_out_frames_let_an_exit_pass() {
    let stream = full_dialogue().from_guest;
    let ranges = frames(&stream);
    let count = ranges.len();
    let renumber = any::<bool>();
    let order = prop::collection::vec(0..count, 1..count + 3);
    check(4000, (order, renumber), |(order, renumber)| {
        let mut altered = Vec::new();
        for (sequence, &index) in order.iter().enumerate() {
            let mut frame = stream[ranges[index].clone()].to_vec();
            if renumber {
                frame[8..12].copy_from_slice(&u32::try_from(sequence).unwrap().to_le_bytes());
            }
            altered.extend(frame);
        }
        if !altered.starts_with(&stream) {
            assert!(!has_exit(&hear(&altered).0), "{order:?}");
        }
    });
}

#[test]
fn random_bytes_and_random_bodies_never_panic() {
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let kinds = prop::sample::select(cellos_bridge::FrameKind::ALL);
    let phases = prop::sample::select(vec![
        Phase::AwaitingHello,
        Phase::Parked,
        Phase::Configured,
        Phase::Ready,
        Phase::Starting,
        Phase::Running,
        Phase::Exited,
    ]);
    check(500, (bytes, kinds, phases), |(bytes, kind, phase)| {
        let mut pair = Pair::at(phase);
        let _ = host_receives(&mut pair.host, &bytes, pair.now);
        let _ = pair.host.closed();
        let mut pair = Pair::at(phase);
        if let Ok(messages) = pair.inject(kind, &bytes) {
            assert!(!has_exit(&messages));
        }
        let _ = pair.host.next_deadline();
        let mut pair = Pair::at(phase);
        let _ = pair.inject_to_guest(kind, &bytes);
        let _ = pair.guest.closed();
    });
}

#[test]
fn random_bytes_from_the_host_never_panic_in_the_guest() {
    let stream = full_dialogue().from_host;
    let edit = (0..stream.len(), any::<u8>());
    check(2000, edit, |(at, value)| {
        let mut altered = stream.clone();
        altered[at] ^= value;
        let now = Instant::now();
        let mut guest = GuestEnd::new(&hello(), HostSilence::Tolerated, now).unwrap();
        let _ = guest_receives(&mut guest, &altered, now);
        let _ = guest.closed();
    });
}

#[test]
fn the_published_readers_take_anything_without_a_panic() {
    let key = cellos_bridge::SessionKey::new(KEY);
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    check(1000, (bytes, "[ -~]{0,200}"), |(bytes, text)| {
        assert!(verify_exit_frame(&bytes, "cell-1", &key).is_err());
        let line = format!("cellos.cell_id=a {text} cellos.vsock_port=1");
        assert!(BootTokens::parse(&line).is_err());
    });
}
