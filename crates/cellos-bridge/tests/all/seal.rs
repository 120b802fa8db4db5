//! The authentication code of an exit, computed once more from what the README says.

use std::time::Duration;

use cellos_bridge::{BodyProblem, BridgeError, FrameKind, Phase, SendError, StandardStream};
use cellos_core::ports::workload::WorkloadEnd;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::fixtures::{KEY, Pair, config, drain_guest, exit, frames, hello};

/// The code of an exit that follows what a pair has said so far.
fn code(pair: &Pair, exit: &[u8]) -> Vec<u8> {
    let config_frame = frames(&pair.from_host)[0].clone();
    let config_body = &pair.from_host[config_frame][12..];
    let mut transcript = Sha256::digest(&pair.from_guest).to_vec();
    transcript.extend(Sha256::digest(config_body));

    let mut sealed = b"cellos-bridge exit\0\x01".to_vec();
    for id in ["run-1", "cell-1"] {
        sealed.extend(u32::try_from(id.len()).unwrap().to_le_bytes());
        sealed.extend(id.as_bytes());
    }
    sealed.extend(hello().boot_nonce.0);
    sealed.extend(config().host_nonce.0);
    sealed.extend(Sha256::digest(transcript));
    sealed.extend(exit);
    let mut hmac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    hmac.update(&sealed);
    hmac.finalize().into_bytes().to_vec()
}

#[test]
fn the_code_of_an_exit_covers_ids_nonces_transcript_and_body() {
    let mut pair = Pair::at(Phase::Running);
    pair.guest.exit(&exit(42)).unwrap();
    let exit_frame = drain_guest(&mut pair.guest);
    let (mac, json) = exit_frame[12..].split_at(32);
    assert_eq!(mac, code(&pair, json));
}

#[test]
fn an_authentic_exit_that_counts_other_bytes_than_came_is_refused() {
    type Change = fn(&mut cellos_bridge::Exit);
    let cases: [(StandardStream, Change); 2] = [
        (StandardStream::Stdout, |exit| exit.stdout.sent_bytes = 5),
        (StandardStream::Stderr, |exit| exit.stderr.sent_bytes = 5),
    ];
    for (stream, change) in cases {
        let mut pair = Pair::at(Phase::Running);
        let mut exit = exit(42);
        change(&mut exit);
        let json = serde_json::to_vec(&exit).unwrap();
        let body = [code(&pair, &json), json].concat();
        let error = BridgeError::StreamBytes {
            stream,
            claimed: 5,
            received: 0,
        };
        assert_eq!(pair.inject(FrameKind::Exit, &body), Err(error));
    }
}

#[test]
fn an_authentic_exit_that_is_no_exit_is_refused() {
    let mut pair = Pair::at(Phase::Running);
    let json = b"{}".to_vec();
    let body = [code(&pair, &json), json].concat();
    assert!(matches!(
        pair.inject(FrameKind::Exit, &body),
        Err(BridgeError::Malformed {
            kind: FrameKind::Exit,
            ..
        })
    ));
}

#[test]
fn an_end_that_no_process_can_have_is_refused_by_both_ends() {
    let end = |end| {
        let mut impossible = exit(0);
        impossible.report.end = end;
        impossible
    };
    let used = |cpu_user| {
        let mut impossible = exit(0);
        impossible.report.usage.cpu_user = Some(cpu_user);
        impossible
    };
    for impossible in [
        // Would be told as 0 by a shell, which keeps eight bits.
        end(WorkloadEnd::Exited { code: 256 }),
        end(WorkloadEnd::Exited { code: -1 }),
        // 128 and the number would be beyond the type.
        end(WorkloadEnd::Signalled { signal: i32::MAX }),
        end(WorkloadEnd::Signalled { signal: 0 }),
        used(Duration::MAX),
    ] {
        let mut pair = Pair::at(Phase::Running);
        assert!(matches!(
            pair.guest.exit(&impossible),
            Err(SendError::Invalid { .. })
        ));
        // A guest that was taken over has the key and does not look at its own bounds.
        let json = serde_json::to_vec(&impossible).unwrap();
        let sealed = [code(&pair, &json), json].concat();
        assert!(
            matches!(
                pair.inject(FrameKind::Exit, &sealed),
                Err(BridgeError::Malformed {
                    kind: FrameKind::Exit,
                    problem: BodyProblem::Field { .. }
                })
            ),
            "{impossible:?}"
        );
    }
}
