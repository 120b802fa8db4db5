//! Flow control: what is under way is bounded, and nothing else waits for it.

use cellos_bridge::{
    BridgeError, FrameKind, GuestMessage, HostMessage, MAX_BULK_BACKLOG_BYTES, MAX_CREDIT_BYTES,
    Phase, SendError, StandardStream,
};
use cellos_core::ports::workload::StopSignal;

use crate::fixtures::{CREDIT, Pair, TELEMETRY, exit};

const CREDIT_BYTES: usize = CREDIT as usize;

#[test]
fn a_guest_sends_no_more_output_than_it_has_credit_for() {
    let mut pair = Pair::at(Phase::Running);
    let much = vec![b'x'; CREDIT_BYTES * 2];
    assert_eq!(
        pair.guest.output(StandardStream::Stdout, &much),
        Ok(CREDIT_BYTES)
    );
    assert_eq!(pair.guest.output(StandardStream::Stdout, &much), Ok(0));
    assert_eq!(pair.guest.output_credit(StandardStream::Stdout), 0);
    // The other stream has its own.
    assert_eq!(pair.guest.output(StandardStream::Stderr, b"e"), Ok(1));
    pair.carry_to_host().unwrap();
    pair.host.grant_output(StandardStream::Stdout, 5).unwrap();
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::OutputCredit {
            stream: StandardStream::Stdout,
            bytes: 5
        }])
    );
    assert_eq!(pair.guest.output(StandardStream::Stdout, &much), Ok(5));
    pair.carry_to_host().unwrap();
}

#[test]
fn a_consumer_that_takes_nothing_holds_up_neither_heartbeat_nor_terminate_nor_exit() {
    let mut pair = Pair::at(Phase::Running);
    let much = vec![b'x'; CREDIT_BYTES * 2];
    pair.guest.output(StandardStream::Stdout, &much).unwrap();
    pair.guest.output(StandardStream::Stderr, &much).unwrap();
    pair.carry_to_host().unwrap();

    pair.guest.telemetry(TELEMETRY).unwrap();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![GuestMessage::Telemetry(TELEMETRY)])
    );
    pair.host.terminate(StopSignal::Terminate).unwrap();
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::Terminate(StopSignal::Terminate)])
    );
    pair.guest.exit(&exit(1)).unwrap();
    assert!(matches!(
        pair.carry_to_host().unwrap()[..],
        [GuestMessage::Exit(_)]
    ));
}

#[test]
fn a_stream_that_takes_nothing_leaves_room_for_the_exit() {
    let mut pair = Pair::at(Phase::Running);
    let mut beats = 0;
    let refused = loop {
        match pair.guest.telemetry(TELEMETRY) {
            Ok(()) => beats += 1,
            Err(error) => break error,
        }
    };
    let SendError::Backlog { pending } = refused else {
        panic!("{refused}")
    };
    assert!((MAX_BULK_BACKLOG_BYTES..MAX_BULK_BACKLOG_BYTES + 1024).contains(&pending));
    assert_eq!(pair.guest.output(StandardStream::Stdout, b"x"), Ok(0));
    pair.guest.exit(&exit(1)).unwrap();
    assert_eq!(pair.carry_to_host().unwrap().len(), beats + 1);
}

#[test]
fn output_beyond_the_credit_is_an_error_to_the_byte() {
    for (stream, number) in [(StandardStream::Stdout, 1), (StandardStream::Stderr, 2)] {
        let mut body = vec![b'x'; CREDIT_BYTES + 1];
        body[0] = number;
        let mut pair = Pair::at(Phase::Running);
        assert_eq!(pair.inject(FrameKind::Output, &body).unwrap().len(), 1);
        let error = BridgeError::CreditExceeded {
            stream,
            bytes: 1,
            credit: 0,
        };
        assert_eq!(pair.inject(FrameKind::Output, &[number, b'x']), Err(error));
    }
}

#[test]
fn a_host_sends_no_more_input_than_it_has_credit_for() {
    let mut pair = Pair::at(Phase::Running);
    assert_eq!(pair.host.input(b"abc"), Ok(0));
    pair.guest.grant_input(2).unwrap();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![GuestMessage::InputCredit { bytes: 2 }])
    );
    assert_eq!(pair.host.input_credit(), 2);
    assert_eq!(pair.host.input(b"abc"), Ok(2));
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::Input(b"ab".to_vec())])
    );
    pair.host.end_input().unwrap();
    assert_eq!(pair.host.input(b"c"), Err(SendError::InputEnded));
    assert_eq!(pair.host.end_input(), Err(SendError::InputEnded));
}

#[test]
fn a_guest_cannot_give_credit_of_nothing_for_ever() {
    let mut pair = Pair::at(Phase::Running);
    let Err(BridgeError::Malformed { kind, problem }) =
        pair.inject(FrameKind::InputCredit, br#"{"bytes":0}"#)
    else {
        panic!("taken");
    };
    assert_eq!(kind, FrameKind::InputCredit);
    assert!(problem.to_string().contains("at least 1"), "{problem}");
}

#[test]
fn input_beyond_the_credit_is_an_error_of_the_host() {
    let mut pair = Pair::at(Phase::Running);
    let error = BridgeError::CreditExceeded {
        stream: StandardStream::Stdin,
        bytes: 1,
        credit: 0,
    };
    assert_eq!(pair.inject_to_guest(FrameKind::Input, b"x"), Err(error));
}

#[test]
fn credit_that_adds_up_to_more_than_may_be_under_way_is_refused_by_both_ends() {
    let mut pair = Pair::at(Phase::Running);
    let (stream, bytes) = (StandardStream::Stdin, 1);
    pair.guest.grant_input(MAX_CREDIT_BYTES).unwrap();
    assert_eq!(
        pair.guest.grant_input(bytes),
        Err(SendError::CreditOverflow { stream, bytes })
    );
    pair.carry_to_host().unwrap();
    assert_eq!(
        pair.inject(FrameKind::InputCredit, br#"{"bytes":1}"#),
        Err(BridgeError::CreditOverflow { stream, bytes })
    );

    let mut pair = Pair::at(Phase::Running);
    let (stream, bytes) = (StandardStream::Stdout, MAX_CREDIT_BYTES);
    assert_eq!(
        pair.host.grant_output(stream, bytes),
        Err(SendError::CreditOverflow { stream, bytes })
    );
    assert_eq!(
        pair.inject_to_guest(
            FrameKind::OutputCredit,
            br#"{"stream":"stdout","bytes":1048576}"#
        ),
        Err(BridgeError::CreditOverflow { stream, bytes })
    );
}

#[test]
fn a_stream_that_the_host_closed_takes_nothing_and_what_was_under_way_still_counts() {
    let (stream, other) = (StandardStream::Stdout, StandardStream::Stderr);
    let mut pair = Pair::at(Phase::Running);
    assert_eq!(pair.guest.output(stream, b"on its way"), Ok(10));
    pair.host.close_output(stream).unwrap();
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::OutputClosed { stream }])
    );
    assert_eq!(pair.guest.output_credit(stream), 0);
    assert_eq!(pair.guest.output(stream, b"late"), Ok(0));
    assert_eq!(pair.guest.output(other, b"e"), Ok(1));
    assert_eq!(pair.carry_to_host().unwrap().len(), 2);
    pair.guest.exit(&exit(1)).unwrap();
    let messages = pair.carry_to_host().unwrap();
    let [GuestMessage::Exit(exit)] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!((exit.stdout.sent_bytes, exit.stderr.sent_bytes), (10, 1));
}

#[test]
fn a_stream_is_closed_once_and_gets_no_credit_afterwards() {
    let (stream, phase) = (StandardStream::Stderr, Phase::Running);
    let mut pair = Pair::at(phase);
    pair.host.close_output(stream).unwrap();
    pair.carry_to_guest().unwrap();
    let closed = SendError::OutputClosed { stream };
    assert_eq!(pair.host.close_output(stream), Err(closed.clone()));
    assert_eq!(pair.host.grant_output(stream, 1), Err(closed));
    for (kind, body) in [
        (FrameKind::OutputClosed, &br#"{"stream":"stderr"}"#[..]),
        (FrameKind::OutputCredit, br#"{"stream":"stderr","bytes":1}"#),
    ] {
        let mut pair = Pair::at(phase);
        pair.host.close_output(stream).unwrap();
        pair.carry_to_guest().unwrap();
        assert_eq!(
            pair.inject_to_guest(kind, body),
            Err(BridgeError::Unexpected { kind, phase })
        );
    }
}

#[test]
fn only_output_streams_of_a_workload_that_runs_are_closed() {
    let mut pair = Pair::at(Phase::Running);
    let refused = pair.host.close_output(StandardStream::Stdin);
    assert!(
        matches!(refused, Err(SendError::Invalid { .. })),
        "{refused:?}"
    );
    let refused = pair.inject_to_guest(FrameKind::OutputClosed, br#"{"stream":"stdin"}"#);
    assert!(
        matches!(refused, Err(BridgeError::Malformed { .. })),
        "{refused:?}"
    );
    for phase in [Phase::Parked, Phase::Ready, Phase::Starting, Phase::Exited] {
        let kind = FrameKind::OutputClosed;
        assert_eq!(
            Pair::at(phase).host.close_output(StandardStream::Stdout),
            Err(SendError::NotNow { kind, phase })
        );
    }
}
