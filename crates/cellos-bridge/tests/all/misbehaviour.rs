//! Each way in which an end may misbehave has its own error.

use cellos_bridge::{
    BodyProblem, BridgeError, Direction, FrameKind, HostEnd, HostTimes, MAX_CHUNK_BYTES,
    MAX_CONFIG_BYTES, MAX_CONTROL_BYTES, Phase,
};

use crate::fixtures::{
    Pair, drain_guest, exit, frame, frames, full_dialogue, guest_receives, host_receives,
};

const ALL_PHASES: [Phase; 8] = [
    Phase::AwaitingHello,
    Phase::Parked,
    Phase::Configured,
    Phase::Ready,
    Phase::Starting,
    Phase::Running,
    Phase::Exited,
    Phase::Over,
];

#[test]
fn a_header_that_is_not_of_this_protocol_is_refused() {
    let cases: [(usize, u8, BridgeError); 4] = [
        (4, 2, BridgeError::Version { found: 2 }),
        (5, 99, BridgeError::UnknownKind { kind: 99 }),
        // A kind of the other direction.
        (5, 130, BridgeError::UnknownKind { kind: 130 }),
        (7, 1, BridgeError::Reserved { found: 256 }),
    ];
    for (at, value, error) in cases {
        let mut pair = Pair::new();
        let mut bytes = drain_guest(&mut pair.guest);
        bytes[at] = value;
        assert_eq!(host_receives(&mut pair.host, &bytes, pair.now), Err(error));
    }
}

#[test]
fn every_kind_has_its_bound_and_is_refused_before_its_body_comes() {
    for &kind in FrameKind::ALL {
        let bound = match kind {
            FrameKind::Config => MAX_CONFIG_BYTES,
            FrameKind::Output => MAX_CHUNK_BYTES + 1,
            FrameKind::Input | FrameKind::FileChunk => MAX_CHUNK_BYTES,
            FrameKind::Start
            | FrameKind::InputEnd
            | FrameKind::Heartbeat
            | FrameKind::Acknowledge
            | FrameKind::FileAbsent => 0,
            _ => MAX_CONTROL_BYTES,
        };
        assert_eq!(kind.bound(), bound, "{kind}");
        for length in [u32::try_from(bound + 1).unwrap(), u32::MAX] {
            let mut header = frame(kind, 0, b"");
            header[..4].copy_from_slice(&length.to_le_bytes());
            let error = Err(BridgeError::Oversized {
                kind,
                length,
                bound,
            });
            let mut pair = Pair::new();
            match kind.direction() {
                Direction::GuestToHost => {
                    assert_eq!(
                        host_receives(&mut pair.host, &header, pair.now),
                        error.map(|()| vec![])
                    );
                }
                Direction::HostToGuest => {
                    assert_eq!(
                        guest_receives(&mut pair.guest, &header, pair.now),
                        error.map(|()| vec![])
                    );
                }
            }
        }
    }
}

#[test]
fn the_largest_chunk_passes() {
    let mut pair = Pair::at(Phase::Exited);
    let fetch = cellos_bridge::Fetch {
        path: "a".into(),
        max_bytes: u64::MAX,
    };
    pair.host.fetch(&fetch, pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.file_chunk(&vec![1; MAX_CHUNK_BYTES]).unwrap();
    assert!(
        pair.guest
            .file_chunk(&vec![1; MAX_CHUNK_BYTES + 1])
            .is_err()
    );
    assert_eq!(pair.carry_to_host().unwrap().len(), 1);
}

#[test]
fn what_may_come_depends_on_the_phase() {
    use FrameKind as Kind;
    for phase in ALL_PHASES {
        let allowed: &[Kind] = match phase {
            Phase::AwaitingHello => &[Kind::Hello],
            Phase::Parked => &[Kind::Telemetry, Kind::Refused],
            Phase::Configured => &[Kind::Telemetry, Kind::Refused, Kind::Ready],
            Phase::Ready => &[Kind::Telemetry, Kind::Refused],
            Phase::Starting => &[
                Kind::Telemetry,
                Kind::Refused,
                Kind::Started,
                Kind::NotStarted,
            ],
            Phase::Running => &[
                Kind::Telemetry,
                Kind::Refused,
                Kind::Output,
                Kind::InputCredit,
                Kind::Exit,
            ],
            Phase::Exited | Phase::Failed | Phase::Over => &[],
        };
        for &kind in FrameKind::ALL {
            if kind.direction() == Direction::GuestToHost {
                let heard = Pair::at(phase).inject(kind, b"");
                let unexpected = Err(BridgeError::Unexpected { kind, phase });
                assert_eq!(
                    heard == unexpected,
                    !allowed.contains(&kind),
                    "{kind} {phase}: {heard:?}"
                );
            }
        }
    }
}

#[test]
fn what_a_host_may_say_depends_on_the_phase() {
    use FrameKind as Kind;
    for phase in &ALL_PHASES[1..] {
        let phase = *phase;
        let allowed: &[Kind] = match phase {
            Phase::Parked => &[Kind::Heartbeat, Kind::Config],
            Phase::Configured => &[Kind::Heartbeat, Kind::OutputCredit, Kind::Terminate],
            Phase::Ready => &[
                Kind::Heartbeat,
                Kind::OutputCredit,
                Kind::Terminate,
                Kind::Start,
            ],
            Phase::Starting => &[Kind::Heartbeat, Kind::OutputCredit, Kind::Terminate],
            Phase::Running | Phase::Exited => &[
                Kind::Heartbeat,
                Kind::OutputCredit,
                Kind::OutputClosed,
                Kind::Terminate,
                Kind::Input,
                Kind::InputEnd,
            ],
            Phase::AwaitingHello | Phase::Failed | Phase::Over => &[],
        };
        let ends: &[Kind] = match phase {
            Phase::Exited => &[Kind::Fetch, Kind::Acknowledge],
            _ => &[],
        };
        for &kind in FrameKind::ALL {
            if kind.direction() == Direction::HostToGuest {
                let heard = Pair::at(phase).inject_to_guest(kind, b"");
                let unexpected = Err(BridgeError::Unexpected { kind, phase });
                let expected = allowed.contains(&kind) || ends.contains(&kind);
                assert_eq!(heard != unexpected, expected, "{kind} {phase}: {heard:?}");
            }
        }
    }
}

#[test]
fn a_frame_that_is_repeated_left_out_or_moved_is_out_of_sequence() {
    let dialogue = full_dialogue();
    let ranges = frames(&dialogue.from_guest);
    let piece = |index: usize| &dialogue.from_guest[ranges[index].clone()];
    let first_two = [piece(0), piece(1)].concat();
    let parked = |now| {
        let mut host = HostEnd::new(HostTimes::default(), now);
        assert_eq!(host_receives(&mut host, &first_two, now).unwrap().len(), 2);
        host
    };
    let expected = 2;
    for (found, index) in [(0, 0), (1, 1), (3, 3)] {
        let mut host = parked(dialogue.now);
        assert_eq!(
            host_receives(&mut host, piece(index), dialogue.now),
            Err(BridgeError::OutOfSequence { expected, found })
        );
    }
}

#[test]
fn an_end_that_found_an_error_keeps_it() {
    let mut pair = Pair::at(Phase::Running);
    let error = BridgeError::Unexpected {
        kind: FrameKind::Hello,
        phase: Phase::Running,
    };
    assert_eq!(pair.inject(FrameKind::Hello, b"{}"), Err(error.clone()));
    pair.guest.exit(&exit(0)).unwrap();
    assert_eq!(pair.carry_to_host(), Err(error.clone()));
    assert_eq!(pair.host.closed(), Err(error.clone()));
    assert_eq!(pair.host.check(pair.now), Err(error.clone()));
    assert_eq!(pair.host.heartbeat(), Err(error.into()));
}

#[test]
fn a_malformed_body_says_where() {
    let json = |line, column, reason: &str| BodyProblem::Json {
        line,
        column,
        reason: reason.into(),
    };
    let field = |field, rule| BodyProblem::Field { field, rule };
    let long = format!(
        r#"{{"commandNotFound":{{"program":"{}"}}}}"#,
        "x".repeat(4097)
    );
    let cases: Vec<(Phase, FrameKind, Vec<u8>, BodyProblem)> = vec![
        (
            Phase::AwaitingHello,
            FrameKind::Hello,
            b"{\n\"guest\":".to_vec(),
            json(
                2,
                7,
                "unknown field `guest`, expected one of `guestVersion`, `kernelRelease`, `architecture`, `bootNonce`, `bootMs`",
            ),
        ),
        (
            Phase::Starting,
            FrameKind::Started,
            br#"{"pid":1,"pid":2}"#.to_vec(),
            json(1, 14, "duplicate field `pid`"),
        ),
        (
            Phase::Starting,
            FrameKind::Started,
            br#"{"pid":-1}"#.to_vec(),
            json(1, 9, "invalid value: integer `-1`, expected u32"),
        ),
        (
            Phase::Starting,
            FrameKind::Started,
            br#"{"pid":1} "#.to_vec(),
            BodyProblem::NotCanonical,
        ),
        (
            Phase::Starting,
            FrameKind::Started,
            b"[1]".to_vec(),
            BodyProblem::NotCanonical,
        ),
        (
            Phase::Starting,
            FrameKind::NotStarted,
            long.into_bytes(),
            field("program", "must be at most 4096 bytes"),
        ),
        (
            Phase::Running,
            FrameKind::Output,
            vec![1],
            BodyProblem::TooShort { found: 1, least: 2 },
        ),
        (
            Phase::Running,
            FrameKind::Output,
            vec![3, 1],
            BodyProblem::UnknownStream { number: 3 },
        ),
        (
            Phase::Running,
            FrameKind::Exit,
            vec![0; 31],
            BodyProblem::TooShort {
                found: 31,
                least: 32,
            },
        ),
    ];
    for (phase, kind, body, problem) in cases {
        let error = BridgeError::Malformed { kind, problem };
        assert_eq!(Pair::at(phase).inject(kind, &body), Err(error));
    }
}

#[test]
fn a_hostile_text_in_an_error_is_escaped_and_short() {
    let body = format!(r#"{{"\u001b[2J{}":1}}"#, "x".repeat(10_000));
    let error = Pair::at(Phase::Starting)
        .inject(FrameKind::Started, body.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
    assert!(error.len() < 400, "{}", error.len());
}

#[test]
fn an_unknown_field_of_a_nested_type_is_refused() {
    let mut pair = Pair::at(Phase::Configured);
    pair.guest.ready(&crate::fixtures::ready()).unwrap();
    let bytes = drain_guest(&mut pair.guest);
    let text = String::from_utf8(bytes[12..].to_vec()).unwrap();
    let altered = text.replace(r#""posture":{"#, r#""posture":{"extra":1,"#);
    assert_ne!(text, altered);
    let error = BridgeError::Malformed {
        kind: FrameKind::Ready,
        problem: BodyProblem::NotCanonical,
    };
    assert_eq!(
        pair.inject(FrameKind::Ready, altered.as_bytes()),
        Err(error)
    );
}

#[test]
fn a_file_is_no_larger_than_asked_for_and_as_large_as_said() {
    let fetch = cellos_bridge::Fetch {
        path: "a".into(),
        max_bytes: 3,
    };
    let fetching = || {
        let mut pair = Pair::at(Phase::Exited);
        pair.host.fetch(&fetch, pair.now).unwrap();
        pair.inject(FrameKind::FileChunk, b"12").unwrap();
        pair
    };
    assert_eq!(
        fetching().inject(FrameKind::FileChunk, b"34"),
        Err(BridgeError::FileTooLarge { max_bytes: 3 })
    );
    assert_eq!(
        fetching().inject(FrameKind::FileEnd, br#"{"sizeBytes":3}"#),
        Err(BridgeError::FileSize {
            claimed: 3,
            received: 2
        })
    );
    let mut pair = fetching();
    pair.inject(FrameKind::FileEnd, br#"{"sizeBytes":2}"#)
        .unwrap();
    // Nobody asked for another one.
    assert_eq!(
        pair.inject(FrameKind::FileChunk, b"5"),
        Err(BridgeError::Unexpected {
            kind: FrameKind::FileChunk,
            phase: Phase::Exited
        })
    );
}

#[test]
fn an_exit_without_the_key_is_forged() {
    let mut pair = Pair::at(Phase::Running);
    let mut body = vec![0; 32];
    body.extend(serde_json::to_vec(&exit(0)).unwrap());
    assert_eq!(
        pair.inject(FrameKind::Exit, &body),
        Err(BridgeError::ForgedExit)
    );
}

#[test]
fn an_exit_of_another_dialogue_is_forged() {
    // Same key, ids and frames; only the nonce of the boot, then only that of the host, differs.
    for alter in [0, 1] {
        let mut pair = Pair::at(Phase::Running);
        pair.guest.exit(&exit(0)).unwrap();
        let sequence = pair.next_from_guest();
        let exit_frame = drain_guest(&mut pair.guest);

        let mut other = Pair::new();
        let mut config = crate::fixtures::config();
        if alter == 0 {
            let mut hello = crate::fixtures::hello();
            hello.boot_nonce.0[31] ^= 1;
            let silence = cellos_bridge::HostSilence::Tolerated;
            other.guest = cellos_bridge::GuestEnd::new(&hello, silence, other.now).unwrap();
        } else {
            config.host_nonce.0[31] ^= 1;
        }
        other.carry_to_host().unwrap();
        other.host.configure(&config, other.now).unwrap();
        other.carry_to_guest().unwrap();
        other.guest.ready(&crate::fixtures::ready()).unwrap();
        other.carry_to_host().unwrap();
        other.host.start().unwrap();
        other.carry_to_guest().unwrap();
        other
            .guest
            .started(cellos_bridge::Started { pid: 12 })
            .unwrap();
        other.carry_to_host().unwrap();
        assert_eq!(other.next_from_guest(), sequence);
        assert_eq!(
            host_receives(&mut other.host, &exit_frame, other.now),
            Err(BridgeError::ForgedExit)
        );
    }
}

#[test]
fn output_that_was_put_in_or_altered_on_the_way_makes_the_exit_forged() {
    let mut pair = Pair::at(Phase::Running);
    pair.guest
        .output(cellos_bridge::StandardStream::Stdout, b"true")
        .unwrap();
    pair.guest.exit(&exit(0)).unwrap();
    let mut bytes = drain_guest(&mut pair.guest);
    let altered = bytes.windows(4).position(|four| four == b"true").unwrap();
    bytes[altered] = b'T';
    assert_eq!(
        host_receives(&mut pair.host, &bytes, pair.now),
        Err(BridgeError::ForgedExit)
    );
}
