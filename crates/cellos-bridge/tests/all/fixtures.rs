//! A host and a guest that have something to say, and a hand that writes frames.

use std::time::{Duration, Instant};

use cellos_bridge::{
    BridgeError, Config, Entropy, Exit, FrameKind, GuestEnd, GuestMessage, Hello, HostEnd,
    HostMessage, HostSilence, HostTimes, Nonce, PROTOCOL_VERSION, Phase, Ready, SessionKey,
    StandardStream, Started, Telemetry,
};
use cellos_core::{
    ExecutionCellDocument,
    ports::workload::{ExitReport, Posture, Residue, Usage, WorkloadEnd},
};
use zeroize::Zeroizing;

/// Bytes of the session key of every fixture, easily found where they must not be.
pub(crate) const KEY: [u8; 32] = *b"the key of a session, 32 bytes!!";
/// Entropy of every fixture.
pub(crate) const ENTROPY: [u8; 48] = *b"entropy for the generator of a guest, 48 bytes!!";
/// Credit of both output streams in every fixture.
pub(crate) const CREDIT: u32 = 4096;
/// Heartbeat interval of every configuration.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn document() -> ExecutionCellDocument {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": "cell-1",
            "authority": {},
            "lifetime": { "ttlSeconds": 60 },
            "run": { "argv": ["/bin/sh", "-c", "exit 42"], "env": { "A": "é\n\"" } }
        }
    }))
    .unwrap()
}

pub(crate) fn hello() -> Hello {
    Hello {
        guest_version: "0.1.0".into(),
        kernel_release: "6.1.0-test".into(),
        architecture: "x86_64".into(),
        boot_nonce: Nonce([7; 32]),
        boot_ms: 950,
    }
}

pub(crate) fn config() -> Config {
    Config {
        run_id: "run-1".into(),
        cell_id: "cell-1".into(),
        document: document(),
        memory_limit_bytes: 64 << 20,
        host_nonce: Nonce([9; 32]),
        session_key: SessionKey::new(KEY),
        entropy: Entropy::new(Zeroizing::new(ENTROPY.to_vec())).unwrap(),
        wall_clock_unix_ns: 1_700_000_000_123_456_789,
        heartbeat_interval: INTERVAL,
        stdout_credit_bytes: CREDIT,
        stderr_credit_bytes: CREDIT,
    }
}

pub(crate) fn ready() -> Ready {
    Ready {
        posture: Posture {
            pid: 12,
            no_new_privs: true,
            ..Posture::default()
        },
        working_folder: "/work".into(),
        ready_ms: 1000,
    }
}

pub(crate) fn exit(code: i32) -> Exit {
    Exit {
        report: ExitReport {
            end: WorkloadEnd::Exited { code },
            usage: Usage {
                wall: Duration::from_millis(20),
                ..Usage::default()
            },
            limits_hit: Vec::new(),
        },
        residue: Residue::default(),
        stdout: Default::default(),
        stderr: Default::default(),
    }
}

pub(crate) const TELEMETRY: Telemetry = Telemetry {
    monotonic_ns: 5,
    memory_bytes: 6,
    processes: 1,
};

/// Both ends, and the stream between them.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) host: HostEnd,
    pub(crate) guest: GuestEnd,
    /// Everything that the guest has sent so far.
    pub(crate) from_guest: Vec<u8>,
    /// Everything that the host has sent so far.
    pub(crate) from_host: Vec<u8>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            host: HostEnd::new(HostTimes::default(), now),
            guest: GuestEnd::new(&hello(), HostSilence::Tolerated, now).unwrap(),
            from_guest: Vec::new(),
            from_host: Vec::new(),
        }
    }

    /// A pair whose dialogue has come to a phase.
    pub(crate) fn at(phase: Phase) -> Self {
        let mut pair = Self::new();
        type Step = fn(&mut Pair);
        let steps: [(Phase, Step); 7] = [
            (Phase::Parked, |_| {}),
            (Phase::Configured, |pair| {
                pair.host.configure(&config(), pair.now).unwrap();
            }),
            (Phase::Ready, |pair| pair.guest.ready(&ready()).unwrap()),
            (Phase::Starting, |pair| pair.host.start().unwrap()),
            (Phase::Running, |pair| {
                pair.guest.started(Started { pid: 12 }).unwrap();
            }),
            (Phase::Exited, |pair| pair.guest.exit(&exit(42)).unwrap()),
            (Phase::Over, |pair| pair.host.acknowledge().unwrap()),
        ];
        if phase == Phase::AwaitingHello {
            return pair;
        }
        for (reached, step) in steps {
            step(&mut pair);
            pair.carry_to_host().unwrap();
            pair.carry_to_guest().unwrap();
            assert_eq!((pair.host.phase(), pair.guest.phase()), (reached, reached));
            if reached == phase {
                return pair;
            }
        }
        panic!("no way to {phase:?}")
    }

    /// Carries what the guest has to send.
    pub(crate) fn carry_to_host(&mut self) -> Result<Vec<GuestMessage>, BridgeError> {
        let bytes = drain_guest(&mut self.guest);
        self.from_guest.extend_from_slice(&bytes);
        host_receives(&mut self.host, &bytes, self.now)
    }

    /// Carries what the host has to send.
    pub(crate) fn carry_to_guest(&mut self) -> Result<Vec<HostMessage>, BridgeError> {
        let bytes = drain_host(&mut self.host);
        self.from_host.extend_from_slice(&bytes);
        guest_receives(&mut self.guest, &bytes, self.now)
    }

    /// The number that the guest's next frame has.
    pub(crate) fn next_from_guest(&self) -> u32 {
        u32::try_from(frames(&self.from_guest).len()).unwrap()
    }

    /// The number that the host's next frame has.
    pub(crate) fn next_from_host(&self) -> u32 {
        u32::try_from(frames(&self.from_host).len()).unwrap()
    }

    /// Gives the host a frame with the right number that the guest's end would not send.
    pub(crate) fn inject(
        &mut self,
        kind: FrameKind,
        body: &[u8],
    ) -> Result<Vec<GuestMessage>, BridgeError> {
        let bytes = frame(kind, self.next_from_guest(), body);
        self.from_guest.extend_from_slice(&bytes);
        host_receives(&mut self.host, &bytes, self.now)
    }

    /// Gives the guest a frame with the right number that the host's end would not send.
    pub(crate) fn inject_to_guest(
        &mut self,
        kind: FrameKind,
        body: &[u8],
    ) -> Result<Vec<HostMessage>, BridgeError> {
        let bytes = frame(kind, self.next_from_host(), body);
        self.from_host.extend_from_slice(&bytes);
        guest_receives(&mut self.guest, &bytes, self.now)
    }
}

/// A dialogue with everything in it: (all of the guest's bytes, all of the host's).
pub(crate) fn full_dialogue() -> Pair {
    let mut pair = Pair::at(Phase::Parked);
    pair.guest.telemetry(TELEMETRY).unwrap();
    pair.carry_to_host().unwrap();
    pair.host.configure(&config(), pair.now).unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.ready(&ready()).unwrap();
    pair.carry_to_host().unwrap();
    pair.host.start().unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.started(Started { pid: 12 }).unwrap();
    pair.guest.grant_input(100).unwrap();
    pair.guest.output(StandardStream::Stdout, b"out").unwrap();
    pair.guest.output(StandardStream::Stderr, b"err").unwrap();
    pair.carry_to_host().unwrap();
    pair.host.input(b"in").unwrap();
    pair.host.end_input().unwrap();
    pair.host.grant_output(StandardStream::Stdout, 3).unwrap();
    pair.host.close_output(StandardStream::Stderr).unwrap();
    pair.host.heartbeat().unwrap();
    pair.host
        .terminate(cellos_core::ports::workload::StopSignal::Terminate)
        .unwrap();
    pair.carry_to_guest().unwrap();
    pair.guest.telemetry(TELEMETRY).unwrap();
    pair.guest.exit(&exit(42)).unwrap();
    pair.carry_to_host().unwrap();
    pair
}

pub(crate) fn drain_guest(guest: &mut GuestEnd) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(next) = guest.outgoing() {
        bytes.extend_from_slice(next);
        let sent = next.len();
        guest.sent(sent);
    }
    assert_eq!(guest.outgoing_bytes(), 0);
    bytes
}

pub(crate) fn drain_host(host: &mut HostEnd) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(next) = host.outgoing() {
        bytes.extend_from_slice(next);
        let sent = next.len();
        host.sent(sent);
    }
    assert_eq!(host.outgoing_bytes(), 0);
    bytes
}

pub(crate) fn host_receives(
    host: &mut HostEnd,
    bytes: &[u8],
    now: Instant,
) -> Result<Vec<GuestMessage>, BridgeError> {
    let mut rest = bytes;
    std::iter::from_fn(|| host.receive(&mut rest, now).transpose()).collect()
}

pub(crate) fn guest_receives(
    guest: &mut GuestEnd,
    bytes: &[u8],
    now: Instant,
) -> Result<Vec<HostMessage>, BridgeError> {
    let mut rest = bytes;
    std::iter::from_fn(|| guest.receive(&mut rest, now).transpose()).collect()
}

/// A frame written by hand, from the table in the README.
pub(crate) fn frame(kind: FrameKind, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend([PROTOCOL_VERSION, kind as u8, 0, 0]);
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Where each frame of a stream lies.
pub(crate) fn frames(stream: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let length = u32::from_le_bytes(stream[at..at + 4].try_into().unwrap());
        let end = at + 12 + usize::try_from(length).unwrap();
        ranges.push(at..end);
        at = end;
    }
    ranges
}
