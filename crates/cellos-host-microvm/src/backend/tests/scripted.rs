//! A driver whose monitors are sleeping processes and whose guests are scripts in this process, at
//! the other end of a real stream.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cellos_bridge::{
    Config, Exit, GuestEnd, Hello, HostMessage, HostSilence, Nonce, NotStarted, Ready, Refused,
    StandardStream, Started, StreamTotals, Telemetry,
    published::{BootTokens, EXIT_FRAME_BYTES, exit_frame},
};
use cellos_core::ports::workload::{
    ExitReport, GuestExecution, Posture, Residue, StopSignal, Usage, WorkloadEnd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    place::Resource,
    process,
    vmm::{BootOrder, Driver, Machine, MonitorEnd, MonitorFacts, Parking, Snapshot, VmmError},
};

/// What guests do before they know a document; after that its command decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    Works,
    /// Connects and says nothing.
    SilentFromTheStart,
    /// Says hello and nothing more.
    DeafWhileParked,
    /// Beats and never gets ready.
    NeverReady,
    /// Will not run any document.
    Refuses,
    /// The monitor dies before the hello.
    MonitorDiesEarly,
    /// The monitor cannot start.
    DoesNotBoot,
    /// Starting the monitor takes for ever.
    BootHangs,
    /// Speaks the published contract, after some of what a workload can do to it.
    Published,
    /// A workload of the published contract that only forges.
    PublishedForger,
}

pub(super) struct ScriptedDriver {
    guest: Mutex<Guest>,
    parking: Parking,
    boots: AtomicUsize,
}

impl ScriptedDriver {
    pub(super) fn new(guest: Guest) -> Arc<Self> {
        Self::parking(guest, Parking::Live)
    }

    pub(super) fn parking(guest: Guest, parking: Parking) -> Arc<Self> {
        Arc::new(Self {
            guest: Mutex::new(guest),
            parking,
            boots: AtomicUsize::new(0),
        })
    }

    pub(super) fn boots(&self) -> usize {
        self.boots.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Driver for ScriptedDriver {
    fn facts(&self) -> MonitorFacts {
        MonitorFacts {
            name: "qemu",
            version: "scripted".to_owned(),
            execution: GuestExecution::Fake,
        }
    }

    async fn boot(&self, order: BootOrder<'_>) -> Result<Box<dyn Machine>, VmmError> {
        let guest = *self.guest.lock().unwrap();
        let host = |step: &str| {
            let step = step.to_owned();
            move |source| VmmError::Host { step, source }
        };
        if guest == Guest::DoesNotBoot {
            return Err(VmmError::Unusable {
                monitor: "scripted",
                why: "told so".to_owned(),
            });
        }
        let mut monitor = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(host("start the monitor"))?;
        let pid = monitor.id().unwrap();
        order
            .record
            .note(Resource::Process {
                pid,
                start_time: process::start_time(pid).unwrap(),
            })
            .map_err(host("note the monitor"))?;
        std::fs::write(order.folder.join("api.sock"), "").map_err(host("make a socket"))?;
        if guest == Guest::BootHangs {
            std::future::pending::<()>().await;
        }
        self.boots.fetch_add(1, Ordering::SeqCst);
        let (dial, dialled) = mpsc::unbounded_channel();
        let arguments = order.extra_boot_arguments.to_owned();
        let script = tokio::spawn(async move {
            if guest == Guest::MonitorDiesEarly {
                kill(pid);
            }
            if guest == Guest::Published || guest == Guest::PublishedForger {
                let _ = published(&dial, guest, &arguments).await;
            } else {
                let (host_side, guest_side) = UnixStream::pair().unwrap();
                dial.send(host_side).unwrap();
                let _ = Script::run(guest_side, guest, pid).await;
            }
            std::future::pending::<()>().await;
        })
        .abort_handle();
        let (ended, end) = watch::channel(None);
        let (kill_sender, mut killed) = watch::channel(false);
        let on_end = script.clone();
        tokio::spawn(async move {
            // Its sender is dropped with the machine.
            let told = async { drop(killed.wait_for(|killed| *killed).await) };
            let by_itself = tokio::select! {
                status = monitor.wait() => Some(status),
                () = told => None,
            };
            let status = match by_itself {
                Some(status) => status,
                None => {
                    let _ = monitor.start_kill();
                    monitor.wait().await
                }
            };
            // The guest goes with its machine.
            on_end.abort();
            ended.send_replace(Some(MonitorEnd(status.ok())));
        });
        Ok(Box::new(ScriptedMachine {
            pid,
            dialled: tokio::sync::Mutex::new(dialled),
            end,
            kill: kill_sender,
            script,
            folder: order.folder.to_owned(),
            guest,
        }))
    }

    async fn restore(
        &self,
        order: BootOrder<'_>,
        snapshot: &Snapshot,
    ) -> Result<Box<dyn Machine>, VmmError> {
        assert!(snapshot.state.exists(), "the snapshot's files are gone");
        self.boot(order).await
    }

    fn parking(&self) -> Parking {
        self.parking
    }
}

struct ScriptedMachine {
    pid: u32,
    dialled: tokio::sync::Mutex<mpsc::UnboundedReceiver<UnixStream>>,
    end: watch::Receiver<Option<MonitorEnd>>,
    kill: watch::Sender<bool>,
    script: AbortHandle,
    folder: PathBuf,
    guest: Guest,
}

#[async_trait]
impl Machine for ScriptedMachine {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn cgroup(&self) -> Option<PathBuf> {
        None
    }

    async fn bridge(&self) -> Result<UnixStream, VmmError> {
        match self.dialled.lock().await.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }

    async fn ended(&self) -> MonitorEnd {
        let mut end = self.end.clone();
        let known = end.wait_for(Option::is_some).await;
        known.map_or(MonitorEnd(None), |end| end.unwrap_or(MonitorEnd(None)))
    }

    fn console_tail(&self) -> String {
        "last words".to_owned()
    }

    async fn ask_to_end(&self) -> Result<(), VmmError> {
        match self.guest {
            // As a kernel does whose init has not switched that off.
            Guest::SilentFromTheStart => {
                self.kill.send_replace(true);
                Ok(())
            }
            _ => Err(VmmError::Unsupported {
                monitor: "script",
                what: "press keys",
            }),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, VmmError> {
        let state = self.folder.join("state");
        std::fs::write(&state, "state").unwrap();
        self.kill.send_replace(true);
        self.ended().await;
        Ok(Snapshot {
            memory: state.clone(),
            state,
            sha256: [String::new(), String::new()],
            shape: crate::plan::MachineShape {
                vcpus: 1,
                memory_mib: 1,
            },
        })
    }

    async fn remove(&self) -> Vec<String> {
        self.kill.send_replace(true);
        self.ended().await;
        self.script.abort();
        Vec::new()
    }
}

impl Drop for ScriptedMachine {
    fn drop(&mut self) {
        self.script.abort();
    }
}

/// Kills as an operator or the kernel would.
pub(super) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// What comes to the published port: forged, short and idle connections of a workload, and then the
/// frame of the init.
async fn published(
    dial: &mpsc::UnboundedSender<UnixStream>,
    guest: Guest,
    arguments: &str,
) -> Ended {
    let tokens = BootTokens::parse(arguments).ok()?;
    assert_eq!(tokens.argv, ["exit", "42"]);
    let connect = || {
        let (host_side, guest_side) = UnixStream::pair().unwrap();
        dial.send(host_side).unwrap();
        guest_side
    };
    let forged = [0; EXIT_FRAME_BYTES];
    let attempts = if guest == Guest::PublishedForger {
        40
    } else {
        1
    };
    for _ in 0..attempts {
        connect().write_all(&forged).await.ok()?;
        connect().write_all(&forged[..9]).await.ok()?;
    }
    let _idle = connect();
    let mut stream = connect();
    let frame = exit_frame(42, &tokens.cell_id, &tokens.exit_hmac_key);
    let (first, rest) = frame.split_at(7);
    stream.write_all(first).await.ok()?;
    stream.write_all(rest).await.ok()?;
    assert_eq!(stream.read_u8().await.ok()?, 0, "the acknowledgement");
    Some(())
}

/// A guest's side of the stream.
struct Script {
    stream: UnixStream,
    end: GuestEnd,
    buffer: Vec<u8>,
    held: Vec<u8>,
    pid: u32,
}

type Ended = Option<()>;

impl Script {
    async fn run(mut stream: UnixStream, guest: Guest, pid: u32) -> Ended {
        if guest == Guest::SilentFromTheStart || guest == Guest::MonitorDiesEarly {
            return std::future::pending().await;
        }
        let hello = Hello {
            guest_version: "0".to_owned(),
            kernel_release: "6.0-scripted".to_owned(),
            architecture: "x86_64".to_owned(),
            boot_nonce: Nonce([7; 32]),
            boot_ms: 1,
        };
        let end = GuestEnd::new(&hello, HostSilence::Tolerated, Instant::now()).ok()?;
        if guest == Guest::DeafWhileParked {
            stream.write_all(end.outgoing()?).await.ok()?;
            return std::future::pending().await;
        }
        let mut script = Self {
            stream,
            end,
            buffer: vec![0; 64 * 1024],
            held: Vec::new(),
            pid,
        };
        let HostMessage::Config(config) = script.next().await? else {
            return None;
        };
        match guest {
            Guest::NeverReady => loop {
                script.next().await?;
            },
            Guest::Refuses => {
                let reason = "told so".to_owned();
                script
                    .end
                    .refuse(&Refused::InvalidDocument { reason })
                    .ok()?;
                script.flush().await?;
                return std::future::pending().await;
            }
            _ => {}
        }
        script
            .end
            .ready(&Ready {
                posture: posture(),
                working_folder: "/work".to_owned(),
                ready_ms: 2,
            })
            .ok()?;
        while script.next().await? != HostMessage::Start {}
        script.workload(&config).await
    }

    async fn workload(&mut self, config: &Config) -> Ended {
        let argv = config.document.spec.run.as_ref()?.argv.clone();
        let files: HashMap<String, String> = [
            ("small".to_owned(), "content".to_owned()),
            ("out/deep".to_owned(), "deeper".to_owned()),
        ]
        .into();
        if argv[0] == "absent" {
            let program = argv[0].clone();
            self.end
                .not_started(&NotStarted::CommandNotFound { program })
                .ok()?;
            self.flush().await?;
            return std::future::pending().await;
        }
        self.end.started(Started { pid: 2 }).ok()?;
        self.end.grant_input(64 * 1024).ok()?;
        let mut code = 0;
        match argv[0].as_str() {
            "exit" => code = argv[1].parse().ok()?,
            "speak" => {
                self.write(StandardStream::Stdout, b"out\n").await?;
                self.write(StandardStream::Stderr, b"err\n").await?;
            }
            "flood" => {
                let bytes: usize = argv[1].parse().ok()?;
                self.write(StandardStream::Stdout, &vec![b'x'; bytes])
                    .await?;
            }
            // Writes byte by byte and reads nothing meanwhile; then wants every byte's credit back.
            "drip" => {
                let bytes: u32 = argv[1].parse().ok()?;
                for _ in 0..bytes {
                    self.end.output(StandardStream::Stdout, b"x").ok()?;
                    self.flush().await?;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                let mut owed = bytes;
                while owed > 0 {
                    if let HostMessage::OutputCredit { bytes, .. } = self.next().await? {
                        owed -= bytes;
                    }
                }
            }
            "cat" => loop {
                match self.next().await? {
                    HostMessage::Input(bytes) => {
                        self.write(StandardStream::Stdout, &bytes).await?;
                        self.end
                            .grant_input(u32::try_from(bytes.len()).ok()?)
                            .ok()?;
                    }
                    HostMessage::InputEnd => break,
                    HostMessage::Terminate(_) => {
                        code = 137;
                        break;
                    }
                    _ => {}
                }
            },
            "sleep" => loop {
                match self.next().await? {
                    HostMessage::Terminate(StopSignal::Terminate) => {
                        code = 143;
                        break;
                    }
                    HostMessage::Terminate(StopSignal::Kill) => {
                        code = 137;
                        break;
                    }
                    _ => {}
                }
            },
            "crash" => {
                self.flush().await?;
                return None;
            }
            "silent" => {
                self.flush().await?;
                return std::future::pending().await;
            }
            "monitor-dies" => {
                self.flush().await?;
                kill(self.pid);
                return std::future::pending().await;
            }
            "short" => {
                self.flush().await?;
                self.stream.write_all(&[9, 9, 9]).await.ok()?;
                return None;
            }
            "nonsense" => {
                self.flush().await?;
                self.stream.write_all(&[0xff; 64]).await.ok()?;
                return std::future::pending().await;
            }
            "forge" => {
                self.flush().await?;
                return self.forge(config).await;
            }
            _ => {}
        }
        let end = match code {
            137 => WorkloadEnd::Signalled { signal: 9 },
            143 => WorkloadEnd::Signalled { signal: 15 },
            code => WorkloadEnd::Exited { code },
        };
        self.end
            .exit(&Exit {
                report: ExitReport {
                    end,
                    usage: Usage::default(),
                    limits_hit: Vec::new(),
                },
                residue: Residue {
                    looked_for: vec!["processes".to_owned()],
                    found: Vec::new(),
                },
                stdout: StreamTotals::default(),
                stderr: StreamTotals::default(),
            })
            .ok()?;
        loop {
            match self.next().await? {
                HostMessage::Fetch(fetch) => match files.get(&fetch.path) {
                    Some(content) => {
                        self.end.file_chunk(content.as_bytes()).ok()?;
                        self.end.file_end().ok()?;
                    }
                    None if fetch.path == "refused" => {
                        self.end.file_refused("it is a link").ok()?;
                    }
                    None => self.end.file_absent().ok()?,
                },
                // A guest that resets ends its monitor.
                HostMessage::Acknowledge => kill(self.pid),
                _ => {}
            }
        }
    }

    /// Reports success under another key.
    async fn forge(&mut self, config: &Config) -> Ended {
        let mut wrong = config.clone();
        wrong.session_key = cellos_bridge::SessionKey::new([0; 32]);
        // The same kind, number and shape of frame as a real exit, with a code of zeros: built from
        // a real one of another dialogue would be refused for the same reason.
        self.end
            .exit(&Exit {
                report: ExitReport {
                    end: WorkloadEnd::Exited { code: 0 },
                    usage: Usage::default(),
                    limits_hit: Vec::new(),
                },
                residue: Residue::default(),
                stdout: StreamTotals::default(),
                stderr: StreamTotals::default(),
            })
            .ok()?;
        let mut frame = self.end.outgoing()?.to_vec();
        for byte in frame.iter_mut().skip(cellos_bridge::HEADER_BYTES).take(32) {
            *byte ^= 0xff;
        }
        self.stream.write_all(&frame).await.ok()?;
        std::future::pending().await
    }

    async fn write(&mut self, stream: StandardStream, mut bytes: &[u8]) -> Ended {
        while !bytes.is_empty() {
            let sent = self.end.output(stream, bytes).ok()?;
            bytes = &bytes[sent..];
            self.flush().await?;
            if !bytes.is_empty() {
                // Credit comes as a message.
                if let HostMessage::Terminate(_) = self.next().await? {
                    return Some(());
                }
            }
        }
        Some(())
    }

    async fn flush(&mut self) -> Ended {
        while let Some(bytes) = self.end.outgoing() {
            let bytes = bytes.to_vec();
            self.stream.write_all(&bytes).await.ok()?;
            self.end.sent(bytes.len());
        }
        Some(())
    }

    /// The host's next message; beats meanwhile.
    async fn next(&mut self) -> Option<HostMessage> {
        loop {
            self.flush().await?;
            let mut rest = self.held.as_slice();
            let message = self.end.receive(&mut rest, Instant::now()).ok()?;
            self.held = rest.to_vec();
            if message.is_some() {
                return message;
            }
            let read = self.stream.read(&mut self.buffer);
            match tokio::time::timeout(Duration::from_millis(100), read).await {
                Ok(Ok(0) | Err(_)) => return None,
                Ok(Ok(read)) => self.held.extend_from_slice(&self.buffer[..read]),
                Err(_) => {
                    let _ = self.end.telemetry(Telemetry {
                        monotonic_ns: 1,
                        memory_bytes: 0,
                        processes: 0,
                    });
                }
            }
        }
    }
}

fn posture() -> Posture {
    Posture {
        pid: 2,
        no_new_privs: true,
        ..Posture::default()
    }
}
