//! Dialogues as they should be.

use cellos_bridge::{
    BridgeError, Fetch, FileEnd, FrameKind, GuestMessage, HostMessage, MAX_TEXT_BYTES, NotStarted,
    Phase, Refused, SendError, StandardStream, StreamTotals, cut_text,
};
use cellos_core::ports::workload::StopSignal;

use crate::fixtures::{Pair, TELEMETRY, config, exit, full_dialogue, hello, ready};

#[test]
fn what_one_end_says_the_other_hears() {
    let mut pair = Pair::new();
    assert_eq!(pair.carry_to_host(), Ok(vec![GuestMessage::Hello(hello())]));
    pair.host.configure(&config(), pair.now).unwrap();
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::Config(Box::new(config()))])
    );
    pair.guest.ready(&ready()).unwrap();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![GuestMessage::Ready(Box::new(ready()))])
    );
    for how in [StopSignal::Terminate, StopSignal::Kill] {
        pair.host.terminate(how).unwrap();
        assert_eq!(pair.carry_to_guest(), Ok(vec![HostMessage::Terminate(how)]));
    }
}

#[test]
fn an_exit_counts_what_was_sent_and_what_was_not() {
    let mut pair = Pair::at(Phase::Running);
    assert_eq!(pair.guest.output(StandardStream::Stdout, b"abc"), Ok(3));
    let mut said = exit(3);
    said.stdout.dropped_bytes = 10;
    pair.guest.exit(&said).unwrap();
    let messages = pair.carry_to_host().unwrap();
    let Some(GuestMessage::Exit(heard)) = messages.last() else {
        panic!("{messages:?}")
    };
    said.stdout = StreamTotals {
        sent_bytes: 3,
        dropped_bytes: 10,
    };
    assert_eq!(**heard, said);
}

#[test]
fn files_are_fetched_after_the_exit() {
    let mut pair = Pair::at(Phase::Exited);
    let fetch = Fetch {
        path: "out/report.txt".into(),
        max_bytes: 5,
    };
    pair.host.fetch(&fetch, pair.now).unwrap();
    assert_eq!(pair.host.fetch(&fetch, pair.now), Err(SendError::Fetching));
    assert_eq!(pair.host.acknowledge(), Err(SendError::Fetching));
    assert_eq!(
        pair.carry_to_guest(),
        Ok(vec![HostMessage::Fetch(fetch.clone())])
    );
    pair.guest.file_chunk(b"12").unwrap();
    pair.guest.file_chunk(b"345").unwrap();
    assert_eq!(
        pair.guest.file_chunk(b"6"),
        Err(SendError::FileTooLarge { max_bytes: 5 })
    );
    pair.guest.file_end().unwrap();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![
            GuestMessage::FileChunk(b"12".to_vec()),
            GuestMessage::FileChunk(b"345".to_vec()),
            GuestMessage::FileEnd(FileEnd { size_bytes: 5 }),
        ])
    );

    pair.host.fetch(&fetch, pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.file_absent().unwrap();
    assert_eq!(pair.carry_to_host(), Ok(vec![GuestMessage::FileAbsent]));

    pair.host.fetch(&fetch, pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.file_refused("a device").unwrap();
    let reason = "a device".to_owned();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![GuestMessage::FileRefused { reason }])
    );

    pair.host.acknowledge().unwrap();
    assert_eq!(pair.carry_to_guest(), Ok(vec![HostMessage::Acknowledge]));
    assert_eq!((pair.host.closed(), pair.guest.closed()), (Ok(()), Ok(())));
}

#[test]
fn a_path_that_leads_out_of_the_folder_is_not_asked_for() {
    let mut pair = Pair::at(Phase::Exited);
    for path in [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\0b",
    ] {
        let fetch = Fetch {
            path: path.into(),
            max_bytes: 1,
        };
        let sent = pair.host.fetch(&fetch, pair.now);
        assert!(
            matches!(
                sent,
                Err(SendError::Invalid {
                    kind: FrameKind::Fetch,
                    ..
                })
            ),
            "{path:?}: {sent:?}"
        );
    }
}

#[test]
fn a_program_that_cannot_be_executed_ends_the_dialogue_without_an_exit() {
    let mut pair = Pair::at(Phase::Starting);
    let why = NotStarted::NotExecutable {
        program: "/bin/x".into(),
        reason: "exec format error".into(),
    };
    pair.guest.not_started(&why).unwrap();
    assert_eq!(
        pair.carry_to_host(),
        Ok(vec![GuestMessage::NotStarted(why)])
    );
    assert_eq!(pair.host.phase(), Phase::Failed);
    pair.host.acknowledge().unwrap();
    assert_eq!(pair.carry_to_guest(), Ok(vec![HostMessage::Acknowledge]));
    assert_eq!(pair.host.closed(), Ok(()));
}

#[test]
fn a_guest_may_give_up_at_any_time_before_the_exit() {
    for phase in [
        Phase::Parked,
        Phase::Configured,
        Phase::Ready,
        Phase::Starting,
        Phase::Running,
    ] {
        let mut pair = Pair::at(phase);
        let why = Refused::GuestFailure {
            operation: "mount /proc".into(),
            reason: "no such device".into(),
        };
        pair.guest.refuse(&why).unwrap();
        assert_eq!(pair.carry_to_host(), Ok(vec![GuestMessage::Refused(why)]));
        assert_eq!(pair.host.closed(), Ok(()), "{phase:?}");
    }
}

#[test]
fn a_guest_passes_over_what_was_under_way_when_it_ended() {
    let mut pair = Pair::at(Phase::Running);
    pair.guest.grant_input(10).unwrap();
    pair.carry_to_host().unwrap();
    pair.host.input(b"late").unwrap();
    pair.host.end_input().unwrap();
    pair.host.grant_output(StandardStream::Stderr, 1).unwrap();
    pair.host.terminate(StopSignal::Kill).unwrap();
    pair.guest.exit(&exit(0)).unwrap();
    assert_eq!(pair.carry_to_guest(), Ok(vec![]));

    let mut pair = Pair::at(Phase::Parked);
    pair.host.configure(&config(), pair.now).unwrap();
    let why = Refused::InvalidDocument { reason: "x".into() };
    pair.guest.refuse(&why).unwrap();
    assert_eq!(pair.carry_to_guest(), Ok(vec![]));
}

#[test]
fn nothing_is_sent_out_of_its_phase() {
    let mut pair = Pair::at(Phase::Parked);
    let not_now = |kind| {
        Err(SendError::NotNow {
            kind,
            phase: Phase::Parked,
        })
    };
    assert_eq!(pair.host.start(), not_now(FrameKind::Start));
    assert_eq!(
        pair.host.input(b"x"),
        Err(not_now(FrameKind::Input).unwrap_err())
    );
    assert_eq!(pair.host.end_input(), not_now(FrameKind::InputEnd));
    assert_eq!(pair.host.acknowledge(), not_now(FrameKind::Acknowledge));
    assert_eq!(
        pair.host.terminate(StopSignal::Kill),
        not_now(FrameKind::Terminate)
    );
    assert_eq!(pair.guest.ready(&ready()), not_now(FrameKind::Ready));
    assert_eq!(pair.guest.exit(&exit(0)), not_now(FrameKind::Exit));
    assert_eq!(pair.guest.file_end(), not_now(FrameKind::FileEnd));
    assert_eq!(pair.guest.grant_input(1), not_now(FrameKind::InputCredit));

    let mut pair = full_dialogue();
    let after = Err(SendError::NotNow {
        kind: FrameKind::Telemetry,
        phase: Phase::Exited,
    });
    assert_eq!(pair.guest.telemetry(TELEMETRY), after);
}

#[test]
fn a_stream_that_ends_early_says_how_far_the_dialogue_was() {
    for phase in [
        Phase::AwaitingHello,
        Phase::Parked,
        Phase::Configured,
        Phase::Ready,
        Phase::Starting,
        Phase::Running,
    ] {
        let mut pair = Pair::at(phase);
        let error = BridgeError::ClosedBeforeExit { phase };
        assert_eq!(pair.host.closed(), Err(error));
    }
    let mut pair = Pair::at(Phase::Exited);
    let fetch = Fetch {
        path: "a".into(),
        max_bytes: 1,
    };
    pair.host.fetch(&fetch, pair.now).unwrap();
    assert_eq!(pair.host.closed(), Err(BridgeError::ClosedDuringFetch));
}

#[test]
fn a_text_is_cut_between_characters_to_what_may_be_sent() {
    let long = "é".repeat(MAX_TEXT_BYTES);
    let odd = format!("x{long}");
    assert_eq!(cut_text(&long).len(), MAX_TEXT_BYTES);
    assert_eq!(cut_text(&odd).len(), MAX_TEXT_BYTES - 1);
    assert_eq!(cut_text("short"), "short");
    let mut pair = Pair::at(Phase::Running);
    let operation = String::new();
    let reason = odd.clone();
    let refused = Refused::GuestFailure { operation, reason };
    assert!(matches!(
        pair.guest.refuse(&refused),
        Err(SendError::Invalid { .. })
    ));
    let (operation, reason) = (String::new(), cut_text(&odd));
    let refused = Refused::GuestFailure { operation, reason };
    assert_eq!(pair.guest.refuse(&refused), Ok(()));
}
