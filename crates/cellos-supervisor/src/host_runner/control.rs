//! The supervisor's side of the helper.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use cellos_core::{
    CellosError,
    ports::workload::{ReleaseError, StopSignal, Streams, Usage, WorkloadEnd},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::Mutex,
    time::Instant,
};

use super::{
    HostRunner, descendants,
    protocol::{self, Ended, Launch, Refusal, Report, Request, STREAMS_BYTE},
};

/// How long a helper that has reported its end may take to exit.
const HELPER_EXIT_BOUND: Duration = Duration::from_secs(5);

/// A command that the helper runs.
pub(crate) struct HostProcess {
    pid: u32,
    started: Instant,
    cgroup: Option<PathBuf>,
    requests: Mutex<OwnedWriteHalf>,
    reports: Mutex<OwnedReadHalf>,
    helper: std::sync::Mutex<Option<Child>>,
}

/// How a command on the host ended.
#[derive(Debug, Clone)]
pub(crate) struct HostEnd {
    pub(crate) end: WorkloadEnd,
    pub(crate) usage: Usage,
    /// Processes besides the command that had to be killed.
    pub(crate) left_over: u64,
    /// Processes that could not be ended, one line each.
    pub(crate) residue: Vec<String>,
}

impl HostProcess {
    /// Starts the helper and the command. Returns when its program has been executed.
    pub(crate) async fn launch(
        runner: &HostRunner,
        launch: Launch,
        streams: Streams,
    ) -> Result<Self, ReleaseError> {
        let program = launch.argv.first().cloned().unwrap_or_default();
        let cgroup = launch.cgroup.clone();
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| failed("make its socket", &error))?;
        send_streams(&ours, &streams).map_err(|error| failed("pass the streams", &error))?;
        drop(streams);
        let child = Command::new(&runner.program)
            .args(&runner.args)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("start it", &error))?;
        ours.set_nonblocking(true)
            .map_err(|error| failed("prepare its socket", &error))?;
        let socket = tokio::net::UnixStream::from_std(ours)
            .map_err(|error| failed("watch its socket", &error))?;
        let (reports, requests) = socket.into_split();
        let mut process = Self {
            pid: 0,
            started: Instant::now(),
            cgroup,
            requests: Mutex::new(requests),
            reports: Mutex::new(reports),
            helper: std::sync::Mutex::new(Some(child)),
        };
        process
            .request(&Request::Launch(launch))
            .await
            .map_err(|error| failed("pass the command", &error))?;
        match process.report().await {
            Ok(Report::Started { pid }) => {
                process.pid = pid;
                process.started = Instant::now();
                Ok(process)
            }
            Ok(Report::Refused(refusal)) => {
                process.finish().await;
                Err(match refusal {
                    Refusal::NotFound => ReleaseError::CommandNotFound { program },
                    Refusal::NotExecutable { reason } => {
                        ReleaseError::NotExecutable { program, reason }
                    }
                    Refusal::Setup { reason } => CellosError::Host(reason).into(),
                })
            }
            Ok(Report::Ended(_)) => {
                Err(CellosError::Host("host runner: it ended before it began".into()).into())
            }
            Err(error) => {
                process.finish().await;
                Err(failed("hear whether the command started", &error).into())
            }
        }
    }

    /// Process id of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the command's end and that of everything it started.
    pub(crate) async fn wait(&self) -> Result<HostEnd, CellosError> {
        let report = self.report().await;
        let wall = self.started.elapsed();
        self.finish().await;
        match report {
            Ok(Report::Ended(ended)) => Ok(host_end(&ended, wall)),
            Ok(_) => Err(CellosError::Host(
                "host runner: it reported something else than the command's end".into(),
            )),
            Err(error) => Err(failed("hear how the command ended", &error)),
        }
    }

    /// Asks the command to end, or ends it. One that has ended is not an error.
    pub(crate) async fn stop(&self, how: StopSignal) -> Result<(), CellosError> {
        let request = match how {
            StopSignal::Terminate => Request::Terminate,
            StopSignal::Kill => Request::Kill,
        };
        match self.request(&request).await {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Err(failed("pass the request to end", &error))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that helper and command are gone; idempotent.
    pub(crate) async fn finish(&self) {
        let Some(mut child) = self.helper.lock().ok().and_then(|mut child| child.take()) else {
            return;
        };
        let session = child.id();
        let deadline = Instant::now() + HELPER_EXIT_BOUND;
        let clean = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.success(),
                Ok(None) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(None) | Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break false;
                }
            }
        };
        if !clean {
            descendants::kill_session(session);
        }
        if let Some(cgroup) = &self.cgroup {
            // Version 2 only; everything in the group is the command's, the helper is gone.
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
    }

    async fn request(&self, request: &Request) -> io::Result<()> {
        let frame = protocol::encode(request)?;
        self.requests.lock().await.write_all(&frame).await
    }

    async fn report(&self) -> io::Result<Report> {
        let mut reports = self.reports.lock().await;
        let mut header = [0; 4];
        reports.read_exact(&mut header).await?;
        let mut body = vec![0; protocol::body_length(header)?];
        reports.read_exact(&mut body).await?;
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        Ok(Report::deserialize(&mut deserializer)?)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // The socket closes with this value, on which the helper kills what is left. It is waited
        // for so that it does not stay as a zombie.
        if let Some(mut child) = self.helper.lock().ok().and_then(|mut child| child.take()) {
            std::thread::spawn(move || {
                let _ = child.wait();
            });
        }
    }
}

fn host_end(ended: &Ended, wall: Duration) -> HostEnd {
    let end = match (ended.code, ended.signal) {
        (Some(code), _) => WorkloadEnd::Exited { code },
        (None, Some(signal)) => WorkloadEnd::Signalled { signal },
        // It could not be waited for even after SIGKILL.
        (None, None) => WorkloadEnd::Signalled { signal: 9 },
    };
    HostEnd {
        end,
        usage: Usage {
            wall,
            cpu_user: ended.cpu_user_micros.map(Duration::from_micros),
            cpu_system: ended.cpu_system_micros.map(Duration::from_micros),
            ..Usage::default()
        },
        left_over: ended.left_over,
        residue: ended
            .still_there
            .iter()
            .map(|pid| format!("process {pid}"))
            .collect(),
    }
}

fn send_streams(socket: &UnixStream, streams: &Streams) -> io::Result<()> {
    let files = [
        streams.stdin.as_fd(),
        streams.stdout.as_fd(),
        streams.stderr.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there is no space for three files"));
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&[STREAMS_BYTE])],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn failed(operation: &str, error: &io::Error) -> CellosError {
    CellosError::Host(format!("host runner: cannot {operation}: {error}"))
}
