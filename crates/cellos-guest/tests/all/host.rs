//! A host that plays its part by hand.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use cellos_bridge::{
    Config, Entropy, Exit, Fetch, GuestMessage, HostEnd, HostTimes, Nonce, Ready, SendError,
    SessionKey, StandardStream,
};
use serde_json::json;
use zeroize::Zeroizing;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Credit of each output stream, small enough that large output meets it often.
pub(crate) const CREDIT_BYTES: u32 = 64 * 1024;

/// Found by its bytes where it must not be.
pub(crate) const KEY: [u8; 32] = *b"the-key-of-this-session-0123456!";

/// What becomes of the credit for output that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credit {
    GivenBack,
    NeverGivenBack,
}

pub(crate) struct Host {
    pub(crate) end: HostEnd,
    pub(crate) stream: UnixStream,
    pub(crate) guest: Child,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) credit: Credit,
    heard: VecDeque<GuestMessage>,
    /// Waits before it takes output.
    pub(crate) slowness: Duration,
}

/// Read at run time: the tests may have been moved since they were built.
pub(crate) fn guest_program() -> String {
    std::env::var("NEXTEST_BIN_EXE_cellos-guest")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_cellos-guest").to_owned())
}

/// A configuration for a document with this `run`.
pub(crate) fn config(run: &serde_json::Value) -> Config {
    config_with(run, &json!({}))
}

pub(crate) fn config_with(run: &serde_json::Value, authority: &serde_json::Value) -> Config {
    let document = json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": { "id": "cell", "run": run, "authority": authority,
                  "lifetime": { "ttlSeconds": 60 } },
    });
    Config {
        run_id: "run".to_owned(),
        cell_id: "cell".to_owned(),
        document: serde_json::from_value(document).unwrap(),
        memory_limit_bytes: 128 << 20,
        host_nonce: Nonce([1; 32]),
        session_key: SessionKey::new(KEY),
        entropy: Entropy::new(Zeroizing::new(vec![2; 32])).unwrap(),
        wall_clock_unix_ns: 1_800_000_000_000_000_000,
        heartbeat_interval: Duration::from_millis(100),
        stdout_credit_bytes: CREDIT_BYTES,
        stderr_credit_bytes: CREDIT_BYTES,
    }
}

pub(crate) fn shell(script: &str) -> serde_json::Value {
    json!({ "argv": ["/bin/sh", "-c", script] })
}

impl Host {
    /// Starts a guest, which has said hello when this returns.
    pub(crate) fn start() -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let guest = Command::new(guest_program())
            .args(["--on-descriptor", "0"])
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host = Self::over(stream, guest);
        host.until(|message| matches!(message, GuestMessage::Hello(_)).then_some(()));
        host
    }

    /// A host on a stream to a guest that has not said anything.
    pub(crate) fn over(stream: UnixStream, guest: Child) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Self {
            end: HostEnd::new(HostTimes::default(), Instant::now()),
            stream,
            guest,
            stdout: Vec::new(),
            stderr: Vec::new(),
            credit: Credit::GivenBack,
            heard: VecDeque::new(),
            slowness: Duration::ZERO,
        }
    }

    /// A guest whose cell is parked.
    pub(crate) fn ready(config: &Config) -> (Self, Ready) {
        let mut host = Self::start();
        host.end.configure(config, Instant::now()).unwrap();
        let ready = host.until(|message| match message {
            GuestMessage::Ready(ready) => Some(*ready),
            GuestMessage::Refused(refused) => panic!("{refused:?}"),
            _ => None,
        });
        (host, ready)
    }

    /// A guest whose workload runs.
    pub(crate) fn running(config: &Config) -> Self {
        let (mut host, _) = Self::ready(config);
        host.end.start().unwrap();
        host.until(|message| match message {
            GuestMessage::Started(_) => Some(()),
            GuestMessage::NotStarted(why) => panic!("{why:?}"),
            _ => None,
        });
        host
    }

    pub(crate) fn flush(&mut self) {
        while let Some(bytes) = self.end.outgoing() {
            let written = self.stream.write(bytes).unwrap();
            self.end.sent(written);
        }
    }

    /// Takes what the guest says next, if it does soon. Output is kept and its credit given back.
    pub(crate) fn hear(&mut self) {
        self.flush();
        let mut buffer = [0; 16 * 1024];
        let length = match self.stream.read(&mut buffer) {
            Ok(0) => {
                let mut said = String::new();
                if let Some(mut stderr) = self.guest.stderr.take() {
                    stderr.read_to_string(&mut said).unwrap();
                }
                panic!("the guest closed the stream: {said}")
            }
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => panic!("{error}"),
        };
        let mut bytes = &buffer[..length];
        while let Some(message) = self.end.receive(&mut bytes, Instant::now()).unwrap() {
            match message {
                GuestMessage::Output(output) => {
                    std::thread::sleep(self.slowness);
                    match output.stream {
                        StandardStream::Stdout => self.stdout.extend(&output.bytes),
                        _ => self.stderr.extend(&output.bytes),
                    }
                    let count = output.bytes.len().try_into().unwrap();
                    if self.credit == Credit::GivenBack {
                        match self.end.grant_output(output.stream, count) {
                            // What was under way when the test closed the stream.
                            Ok(()) | Err(SendError::OutputClosed { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                other => self.heard.push_back(other),
            }
        }
    }

    /// Waits for a message.
    pub(crate) fn until<T>(&mut self, mut pick: impl FnMut(GuestMessage) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            while let Some(message) = self.heard.pop_front() {
                if let Some(found) = pick(message) {
                    return found;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "nothing came");
            self.hear();
        }
    }

    pub(crate) fn exit(&mut self) -> Exit {
        self.until(|message| match message {
            GuestMessage::Exit(exit) => Some(*exit),
            GuestMessage::Refused(refused) => panic!("{refused:?}"),
            _ => None,
        })
    }

    /// The bytes of a file, or the answer in words.
    pub(crate) fn fetch(&mut self, path: &str, max_bytes: u64) -> Result<Vec<u8>, String> {
        let fetch = Fetch {
            path: path.to_owned(),
            max_bytes,
        };
        self.end.fetch(&fetch, Instant::now()).unwrap();
        let mut content = Vec::new();
        self.until(|message| match message {
            GuestMessage::FileChunk(bytes) => {
                content.extend(bytes);
                None
            }
            GuestMessage::FileEnd(_) => Some(Ok(())),
            GuestMessage::FileAbsent => Some(Err("absent".to_owned())),
            GuestMessage::FileRefused { reason } => Some(Err(reason)),
            _ => None,
        })?;
        Ok(content)
    }

    /// Ends the dialogue as a host does, and waits for the guest.
    pub(crate) fn acknowledge(mut self) {
        self.end.acknowledge().unwrap();
        self.flush();
        let (status, said) = self.leave();
        assert!(status.success(), "{said}");
    }

    /// Closes the stream and waits for the guest.
    pub(crate) fn leave(mut self) -> (ExitStatus, String) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.guest.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the guest does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        if let Some(mut stderr) = self.guest.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (status, said)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.guest.kill();
        let _ = self.guest.wait();
    }
}
