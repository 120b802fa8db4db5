//! A whole dialogue over a real stream, with more output and input than there is ever credit for.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use cellos_bridge::{
    Fetch, GuestEnd, GuestMessage, HostEnd, HostMessage, HostSilence, HostTimes, Phase,
    StandardStream, Started,
};

use crate::fixtures::{TELEMETRY, config, exit, hello, ready};

/// Bytes of standard output, input and the file: many times the credit.
const MUCH: usize = 300_000;

/// Nothing here may take so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn pattern() -> Vec<u8> {
    (0..MUCH)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

/// What a small program sends from its standard input back, then more than that by itself.
fn guest(mut stream: UnixStream) {
    let mut end = GuestEnd::new(&hello(), HostSilence::Tolerated, Instant::now()).unwrap();
    let pattern = pattern();
    let mut input = Vec::new();
    let mut output = 0;
    let mut file = None;
    let mut buffer = [0; 777];
    loop {
        if end.phase() == Phase::Running {
            let sent = end.output(StandardStream::Stdout, &pattern[output..]);
            output += sent.unwrap();
            if output == MUCH && input.len() == MUCH {
                assert!(input == pattern);
                end.exit(&exit(42)).unwrap();
            }
        }
        while let Some(at) = file.filter(|_| end.outgoing_bytes() < 100_000) {
            let next = MUCH.min(at + 50_000);
            if at == next {
                end.file_end().unwrap();
                file = None;
            } else {
                end.file_chunk(&pattern[at..next]).unwrap();
                file = Some(next);
            }
        }
        while let Some(bytes) = end.outgoing() {
            let written = stream.write(bytes).unwrap();
            end.sent(written);
        }
        if file.is_some() {
            continue;
        }
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            return end.closed().unwrap();
        }
        let mut rest = &buffer[..read];
        while let Some(message) = end.receive(&mut rest, Instant::now()).unwrap() {
            match message {
                HostMessage::Config(_) => end.ready(&ready()).unwrap(),
                HostMessage::Start => {
                    end.started(Started { pid: 2 }).unwrap();
                    end.grant_input(5000).unwrap();
                    end.telemetry(TELEMETRY).unwrap();
                }
                HostMessage::Input(bytes) => {
                    end.grant_input(u32::try_from(bytes.len()).unwrap())
                        .unwrap();
                    input.extend(bytes);
                }
                HostMessage::Fetch(_) => file = Some(0),
                HostMessage::Acknowledge => return,
                _ => {}
            }
        }
    }
}

#[test]
fn a_dialogue_over_a_socket_pair_delivers_every_byte() {
    let (mut stream, other) = UnixStream::pair().unwrap();
    for side in [&stream, &other] {
        side.set_read_timeout(Some(PATIENCE)).unwrap();
        side.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    let pattern = pattern();
    let guest = std::thread::spawn(|| guest(other));
    let mut end = HostEnd::new(HostTimes::default(), Instant::now());
    let (mut output, mut file, mut input, mut code) = (Vec::new(), Vec::new(), 0, None);
    let mut buffer = [0; 1000];
    while end.phase() != Phase::Over {
        if end.phase() == Phase::Running && input < MUCH {
            input += end.input(&pattern[input..]).unwrap();
        }
        while let Some(bytes) = end.outgoing() {
            let written = stream.write(bytes).unwrap();
            end.sent(written);
        }
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0);
        let mut rest = &buffer[..read];
        while let Some(message) = end.receive(&mut rest, Instant::now()).unwrap() {
            match message {
                GuestMessage::Hello(_) => end.configure(&config(), Instant::now()).unwrap(),
                GuestMessage::Ready(_) => end.start().unwrap(),
                GuestMessage::Output(chunk) => {
                    end.grant_output(chunk.stream, u32::try_from(chunk.bytes.len()).unwrap())
                        .unwrap();
                    output.extend(chunk.bytes);
                }
                GuestMessage::Exit(exit) => {
                    code = Some(exit.report.end.shell_code());
                    let fetch = Fetch {
                        path: "out".into(),
                        max_bytes: u64::try_from(MUCH).unwrap(),
                    };
                    end.fetch(&fetch, Instant::now()).unwrap();
                }
                GuestMessage::FileChunk(bytes) => file.extend(bytes),
                GuestMessage::FileEnd(_) => end.acknowledge().unwrap(),
                _ => {}
            }
        }
        end.check(Instant::now()).unwrap();
    }
    while let Some(bytes) = end.outgoing() {
        let written = stream.write(bytes).unwrap();
        end.sent(written);
    }
    guest.join().unwrap();
    assert_eq!(code, Some(42));
    assert!(output == pattern && file == pattern);
}
