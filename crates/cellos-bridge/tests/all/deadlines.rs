//! Time, which the tests make.

use std::time::{Duration, Instant};

use cellos_bridge::{
    BridgeError, DEFAULT_FRAME_TIMEOUT, DEFAULT_HELLO_TIMEOUT, DEFAULT_SILENT_HEARTBEATS, Fetch,
    GuestEnd, HostEnd, HostSilence, HostTimes, PARKED_HEARTBEAT_INTERVAL, Phase,
};

use crate::fixtures::{INTERVAL, Pair, TELEMETRY, config, drain_host, hello};

const NEARLY: Duration = Duration::from_millis(1);

/// Asserts that `error` is found at `at` and no moment before.
fn falls_due(host: &mut HostEnd, at: Instant, error: &BridgeError) {
    assert_eq!(host.next_deadline(), Some(at));
    assert_eq!(host.check(at - NEARLY), Ok(()));
    assert_eq!(host.check(at), Err(error.clone()));
    // Nothing is due any more, and the error stays.
    assert_eq!(host.next_deadline(), None);
    assert_eq!(host.check(at - NEARLY), Err(error.clone()));
}

#[test]
fn a_guest_that_says_nothing_at_all_is_noticed() {
    let mut pair = Pair::new();
    let waited = DEFAULT_HELLO_TIMEOUT;
    falls_due(
        &mut pair.host,
        pair.now + waited,
        &BridgeError::HelloTimeout { waited },
    );
}

#[test]
fn silence_is_noticed_in_each_phase() {
    let parked = PARKED_HEARTBEAT_INTERVAL;
    for (phase, interval) in [
        (Phase::Parked, parked),
        (Phase::Configured, parked.max(INTERVAL)),
        (Phase::Ready, INTERVAL),
        (Phase::Starting, INTERVAL),
        (Phase::Running, INTERVAL),
    ] {
        let mut pair = Pair::at(phase);
        let waited = interval * DEFAULT_SILENT_HEARTBEATS;
        let error = BridgeError::Silent { waited, phase };
        falls_due(&mut pair.host, pair.now + waited, &error);
    }
}

#[test]
fn heartbeats_keep_a_guest_parked_for_a_day() {
    let mut pair = Pair::at(Phase::Parked);
    let day = Duration::from_secs(24 * 3600);
    let begun = pair.now;
    while pair.now < begun + day {
        pair.now += PARKED_HEARTBEAT_INTERVAL * (DEFAULT_SILENT_HEARTBEATS - 1);
        pair.host.check(pair.now).unwrap();
        pair.guest.telemetry(TELEMETRY).unwrap();
        pair.carry_to_host().unwrap();
    }
    pair.host.configure(&config(), pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    assert_eq!(pair.guest.phase(), Phase::Configured);
}

#[test]
fn a_guest_that_is_paused_may_be_silent() {
    let mut pair = Pair::at(Phase::Parked);
    pair.host.paused();
    assert_eq!(pair.host.next_deadline(), None);
    pair.now += Duration::from_secs(3600);
    assert_eq!(pair.host.check(pair.now), Ok(()));
    pair.host.resumed(pair.now);
    let waited = PARKED_HEARTBEAT_INTERVAL * DEFAULT_SILENT_HEARTBEATS;
    let error = BridgeError::Silent {
        waited,
        phase: Phase::Parked,
    };
    falls_due(&mut pair.host, pair.now + waited, &error);
}

#[test]
fn a_frame_that_does_not_end_is_noticed_however_slowly_it_drips() {
    let now = Instant::now();
    let times = HostTimes {
        hello: Duration::from_secs(3600),
        ..HostTimes::default()
    };
    let mut host = HostEnd::new(times, now);
    let mut whole = Pair::new();
    whole.carry_to_host().unwrap();
    let mut at = now;
    for byte in &whole.from_guest[..9] {
        host.receive(&mut &[*byte][..], at).unwrap();
        at += Duration::from_secs(1);
        host.check(at).unwrap();
    }
    let waited = DEFAULT_FRAME_TIMEOUT;
    falls_due(
        &mut host,
        now + waited,
        &BridgeError::FrameTimeout { waited },
    );
}

#[test]
fn after_the_exit_only_a_file_on_its_way_has_a_deadline() {
    let mut pair = Pair::at(Phase::Exited);
    assert_eq!(pair.host.next_deadline(), None);
    pair.now += Duration::from_secs(3600);
    let fetch = Fetch {
        path: "a".into(),
        max_bytes: 10,
    };
    pair.host.fetch(&fetch, pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    pair.now += INTERVAL;
    pair.guest.file_chunk(b"x").unwrap();
    pair.carry_to_host().unwrap();
    let waited = INTERVAL * DEFAULT_SILENT_HEARTBEATS;
    let error = BridgeError::Silent {
        waited,
        phase: Phase::Exited,
    };
    falls_due(&mut pair.host, pair.now + waited, &error);
}

#[test]
fn no_deadline_is_left_when_a_dialogue_is_over() {
    let pair = Pair::at(Phase::Over);
    assert_eq!(pair.host.next_deadline(), None);
    assert_eq!(pair.guest.next_deadline(), None);
}

#[test]
fn a_guest_notices_a_silent_host_once_it_was_configured_and_if_it_was_told_to() {
    let waited = Duration::from_secs(20);
    let now = Instant::now();
    let mut guest = GuestEnd::new(&hello(), HostSilence::ErrorAfter(waited), now).unwrap();
    assert_eq!(guest.next_deadline(), None);
    let mut host = Pair::at(Phase::Parked).host;
    host.configure(&config(), now).unwrap();
    let bytes = drain_host(&mut host);
    guest.receive(&mut bytes.as_slice(), now).unwrap();
    assert_eq!(guest.heartbeat_interval(), INTERVAL);

    let later = now + waited / 2;
    host.heartbeat().unwrap();
    let bytes = drain_host(&mut host);
    guest.receive(&mut bytes.as_slice(), later).unwrap();
    assert_eq!(guest.check(now + waited), Ok(()));
    let phase = Phase::Configured;
    let error = BridgeError::Silent { waited, phase };
    assert_eq!(guest.next_deadline(), Some(later + waited));
    assert_eq!(guest.check(later + waited), Err(error));
}
