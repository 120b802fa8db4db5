//! One dialogue with the host: parked, told what to run, and done with it.

mod cell;
mod files;
mod launcher_client;
mod orders;
mod streams;
mod telemetry;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use cellos_bridge::{
    BridgeError, Config, GuestEnd, Hello, HostMessage, HostSilence, MAX_CHUNK_BYTES,
    MAX_TEXT_BYTES, NotStarted, Phase, Ready, Refused, SendError, Started,
};
use cellos_core::ports::workload::StopSignal;
use cellos_isolation::{
    Launcher,
    protocol::{Created, Ended, Failure, FromLauncher, Reply, Request},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use self::{
    cell::{Parked, Stage, exit_of},
    files::Progress,
    launcher_client::{LauncherClient, Said},
    streams::Passed,
};
pub use self::{launcher_client::LauncherError, streams::INPUT_CREDIT_BYTES};
use crate::machine::Surroundings;

/// How long what an ended cell wrote is kept for a host that takes none of it. Each time that it
/// takes some, this starts anew; a pipe holds 64 KiB, so there is an end.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long the host may take to acknowledge a failure before the machine is reset anyway.
pub const LAST_WORD_PATIENCE: Duration = Duration::from_secs(10);

/// How a dialogue ended, where nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The host knows everything.
    Acknowledged,
    /// The host went before it had said what to run; another may come.
    LeftWhileParked,
    /// The host was told of a failure and never acknowledged it.
    NeverAcknowledged,
}

/// A dialogue that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host misbehaved or is gone.
    #[error("bridge: {0}")]
    Bridge(#[from] BridgeError),
    /// This program wanted to say something out of turn: a mistake of its own.
    #[error("bridge: {0}")]
    Send(#[from] SendError),
    /// The stream failed.
    #[error("{operation} the bridge: {source}")]
    Stream {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel's generator gives no number.
    #[error("draw a boot nonce: {0}")]
    Nonce(io::Error),
}

/// Who builds cells.
pub struct Builder(LauncherClient);

impl Builder {
    /// The given launcher.
    #[must_use]
    pub fn new(launcher: Launcher) -> Self {
        Self(LauncherClient::new(launcher))
    }
}

/// Says hello on a stream and serves the host until it is done.
///
/// # Errors
/// [`SessionError`]; a cell that was built then still runs, and ends with the builder.
pub fn serve(
    stream: OwnedFd,
    builder: &mut Builder,
    surroundings: Surroundings,
) -> Result<SessionEnd, SessionError> {
    Session::new(stream, surroundings)?.serve(&mut builder.0)
}

/// Says hello on a stream and then why there will be no cell.
///
/// # Errors
/// [`SessionError`] when it could not be said.
pub fn report_failure(
    stream: OwnedFd,
    surroundings: Surroundings,
    operation: &str,
    reason: &str,
) -> Result<SessionEnd, SessionError> {
    let mut session = Session::new(stream, surroundings)?;
    session.refuse(guest_failure(operation, reason))?;
    session.serve(&mut LauncherClient::without_launcher())
}

struct Session {
    end: GuestEnd,
    stream: OwnedFd,
    surroundings: Surroundings,
    stage: Stage,
    next_heartbeat: Instant,
    buffer: Vec<u8>,
}

/// What woke the loop.
#[derive(Default)]
struct Woken {
    stream: bool,
    launcher: bool,
    input: bool,
    outputs: [bool; 2],
}

impl Session {
    fn new(stream: OwnedFd, surroundings: Surroundings) -> Result<Self, SessionError> {
        let name = rustix::system::uname();
        let hello = Hello {
            guest_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
            boot_nonce: telemetry::fresh_nonce().map_err(SessionError::Nonce)?,
            boot_ms: telemetry::uptime_ms(),
        };
        let now = Instant::now();
        let end = GuestEnd::new(&hello, HostSilence::Tolerated, now)?;
        Ok(Self {
            next_heartbeat: now + end.heartbeat_interval(),
            end,
            stream,
            surroundings,
            stage: Stage::None,
            buffer: vec![0; MAX_CHUNK_BYTES],
        })
    }

    fn serve(mut self, launcher: &mut LauncherClient) -> Result<SessionEnd, SessionError> {
        loop {
            self.write_stream()?;
            let woken = self.wait(launcher)?;
            if woken.stream
                && let Some(end) = self.read_stream(launcher)?
            {
                return Ok(end);
            }
            self.end.check(Instant::now())?;
            if woken.launcher {
                self.hear_launcher(launcher)?;
            }
            self.serve_streams(&woken)?;
            self.send_file()?;
            self.finish_draining()?;
            self.send_heartbeat()?;
            if matches!(self.stage, Stage::Failed { until } if until <= Instant::now()) {
                return Ok(SessionEnd::NeverAcknowledged);
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&mut self, launcher: &LauncherClient) -> Result<Woken, SessionError> {
        let timeout = self.time_to_next_deadline();
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, self.end.outgoing().is_some());
        let mut polled = Vec::with_capacity(5);
        let mut places = Vec::with_capacity(5);
        let mut woken = Woken::default();
        polled.push(PollFd::from_borrowed_fd(self.stream.as_fd(), wanted));
        places.push(&mut woken.stream);
        if let Some(socket) = launcher.descriptor() {
            polled.push(PollFd::from_borrowed_fd(socket, PollFlags::IN));
            places.push(&mut woken.launcher);
        }
        if let Some(streams) = self.stage.streams() {
            if let Some(pipe) = streams.input.wants_room() {
                polled.push(PollFd::new(pipe, PollFlags::OUT));
                places.push(&mut woken.input);
            }
            for (outlet, place) in streams.outputs.iter().zip(&mut woken.outputs) {
                if let Some(pipe) = outlet.wants_data(&self.end) {
                    polled.push(PollFd::new(pipe, PollFlags::IN));
                    places.push(place);
                }
            }
        }
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {
                for (descriptor, place) in polled.iter().zip(places) {
                    *place = !descriptor.revents().is_empty();
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(stream_error("wait for", error)),
        }
        Ok(woken)
    }

    fn time_to_next_deadline(&self) -> Option<Timespec> {
        let heartbeat = (self.end.phase() <= Phase::Running).then_some(self.next_heartbeat);
        let next = [heartbeat, self.end.next_deadline(), self.stage.deadline()]
            .into_iter()
            .flatten()
            .min()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    fn write_stream(&mut self) -> Result<(), SessionError> {
        while let Some(bytes) = self.end.outgoing() {
            match rustix::io::write(&self.stream, bytes) {
                Ok(written) => self.end.sent(written),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Reading finds the stream's end, and what the host said before it.
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Err(stream_error("write to", error)),
            }
        }
        Ok(())
    }

    /// Reads once, and does what the host wants.
    fn read_stream(
        &mut self,
        launcher: &mut LauncherClient,
    ) -> Result<Option<SessionEnd>, SessionError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = rustix::io::read(&self.stream, buffer.as_mut_slice());
        let taken = match read {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE) => self.host_left(),
            Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), launcher),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(stream_error("read from", error)),
        };
        // A configuration was in it, with a key.
        zeroize::Zeroize::zeroize(buffer.as_mut_slice());
        self.buffer = buffer;
        taken
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        launcher: &mut LauncherClient,
    ) -> Result<Option<SessionEnd>, SessionError> {
        while let Some(message) = self.end.receive(&mut bytes, Instant::now())? {
            if matches!(message, HostMessage::Acknowledge) {
                return Ok(Some(SessionEnd::Acknowledged));
            }
            self.obey(message, launcher)?;
        }
        Ok(None)
    }

    fn host_left(&mut self) -> Result<Option<SessionEnd>, SessionError> {
        match self.end.closed() {
            Ok(()) => Ok(Some(SessionEnd::Acknowledged)),
            // Also within a frame: a snapshot is taken at any moment.
            Err(_) if self.end.phase() == Phase::Parked => Ok(Some(SessionEnd::LeftWhileParked)),
            Err(_) if matches!(self.stage, Stage::Failed { .. }) => {
                Ok(Some(SessionEnd::NeverAcknowledged))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn obey(
        &mut self,
        message: HostMessage,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match message {
            HostMessage::Config(config) => self.create(&config, launcher)?,
            HostMessage::Start => self.start(launcher)?,
            HostMessage::Input(bytes) => {
                if let Some(streams) = self.stage.streams() {
                    streams.input.take(&bytes);
                }
            }
            HostMessage::InputEnd => {
                if let Some(streams) = self.stage.streams() {
                    streams.input.end();
                }
            }
            HostMessage::Terminate(how) => self.stop(how, launcher)?,
            HostMessage::Fetch(fetch) => {
                if let Stage::Ended { folder, transfer } = &mut self.stage {
                    let folder = folder.as_ref().map(OwnedFd::as_fd);
                    *transfer = files::begin(folder, &fetch, &mut self.end)?;
                }
            }
            // The end has counted the credit; the others say only that the host is there.
            HostMessage::OutputCredit { .. }
            | HostMessage::Heartbeat
            | HostMessage::Acknowledge => {}
        }
        Ok(())
    }

    fn create(
        &mut self,
        config: &Config,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        self.next_heartbeat = Instant::now() + self.end.heartbeat_interval();
        let plan = match orders::carry_out(config, self.surroundings) {
            Ok(plan) => plan,
            Err(refused) => return self.refuse(refused),
        };
        match launcher.ask(Request::Create(Box::new(plan)), &[]) {
            Ok(number) => {
                self.stage = Stage::Building { number, stop: None };
                Ok(())
            }
            Err(error @ LauncherError::TooLarge { .. }) => self.refuse(Refused::InvalidDocument {
                reason: format!("spec.run: {error}"),
            }),
            Err(error) => self.refuse(guest_failure("ask the launcher", &error.to_string())),
        }
    }

    fn start(&mut self, launcher: &mut LauncherClient) -> Result<(), SessionError> {
        let cell = match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::Parked(cell) => cell,
            // The bridge's end lets no start pass at any other time.
            other => {
                self.stage = other;
                return Ok(());
            }
        };
        let (streams, ends) = match streams::open() {
            Ok(opened) => opened,
            Err(error) => {
                return self.not_started(guest_cannot_start("make pipes", &error.to_string()));
            }
        };
        let descriptors = [&ends.stdin, &ends.stdout, &ends.stderr].map(OwnedFd::as_fd);
        match launcher.ask(Request::Release(cell.key), &descriptors) {
            Ok(number) => {
                self.stage = Stage::Starting {
                    number,
                    cell,
                    streams,
                };
                Ok(())
            }
            Err(error) => {
                self.not_started(guest_cannot_start("ask the launcher", &error.to_string()))
            }
        }
    }

    fn stop(&mut self, how: StopSignal, launcher: &mut LauncherClient) -> Result<(), SessionError> {
        if let Stage::Building { stop, .. } = &mut self.stage {
            // The later one is the harder one, by the order in which a host sends them.
            *stop = Some(how);
            return Ok(());
        }
        let Some(key) = self.stage.key() else {
            return Ok(());
        };
        match launcher.ask(Request::Stop(key, how.into()), &[]) {
            Ok(_) => Ok(()),
            Err(error) => self.refuse(guest_failure("ask the launcher", &error.to_string())),
        }
    }

    fn hear_launcher(&mut self, launcher: &mut LauncherClient) -> Result<(), SessionError> {
        loop {
            match launcher.hear() {
                Ok(Some(said)) => self.take_word(said, launcher)?,
                Ok(None) => return Ok(()),
                Err(error) if self.end.phase() <= Phase::Running => {
                    return self.refuse(guest_failure("hear the launcher", &error.to_string()));
                }
                // Nobody needs it any more.
                Err(_) => return Ok(()),
            }
        }
    }

    fn take_word(
        &mut self,
        (message, descriptor): Said,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match message {
            FromLauncher::Ended { ended, .. } => self.ended(ended),
            FromLauncher::Reply { number, reply } => {
                self.answer(number, reply, descriptor, launcher)
            }
        }
    }

    fn answer(
        &mut self,
        answered: u64,
        reply: Reply,
        descriptor: Option<OwnedFd>,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::Building { number, stop } if number == answered => match reply {
                Reply::Created(created) => self.created(*created, descriptor, stop, launcher),
                Reply::Failed(Failure::InvalidSpec(reason)) => {
                    self.refuse(Refused::InvalidDocument {
                        reason: bounded(reason),
                    })
                }
                other => self.refuse(guest_failure("build the cell", &reason_of(other))),
            },
            Stage::Starting {
                number,
                cell,
                streams,
            } if number == answered => match reply {
                Reply::Released { pid } => {
                    self.end.started(Started { pid })?;
                    self.end.grant_input(INPUT_CREDIT_BYTES)?;
                    self.stage = Stage::Running { cell, streams };
                    Ok(())
                }
                Reply::Failed(Failure::CommandNotFound { program }) => {
                    self.not_started(NotStarted::CommandNotFound {
                        program: bounded(program),
                    })
                }
                Reply::Failed(Failure::NotExecutable { program, reason }) => {
                    self.not_started(NotStarted::NotExecutable {
                        program: bounded(program),
                        reason: bounded(reason),
                    })
                }
                other => self.not_started(guest_cannot_start(
                    "release the workload",
                    &reason_of(other),
                )),
            },
            // The answer to a stop, which is always the same.
            other => {
                self.stage = other;
                Ok(())
            }
        }
    }

    fn created(
        &mut self,
        created: Created,
        folder: Option<OwnedFd>,
        stop: Option<StopSignal>,
        launcher: &mut LauncherClient,
    ) -> Result<(), SessionError> {
        self.end.ready(&Ready {
            posture: created.posture,
            working_folder: created.working_folder,
            ready_ms: telemetry::uptime_ms(),
        })?;
        self.stage = Stage::Parked(Parked {
            key: created.cell,
            folder,
            cgroup: created.cgroup_path,
        });
        match stop {
            Some(how) => self.stop(how, launcher),
            None => Ok(()),
        }
    }

    /// The cell has ended, and with it everything in it.
    fn ended(&mut self, Ended { end, residue }: Ended) -> Result<(), SessionError> {
        match (std::mem::replace(&mut self.stage, Stage::None), end) {
            (Stage::Running { cell, streams }, Ok(report)) => {
                self.stage = Stage::Draining {
                    cell,
                    streams,
                    report: Box::new(report),
                    residue,
                    until: Instant::now() + DRAIN_PATIENCE,
                };
                Ok(())
            }
            (Stage::Running { .. }, Err(why)) => self.refuse(guest_failure("run the cell", &why)),
            (Stage::Building { .. } | Stage::Parked(_), end) => {
                let reason = match end {
                    Ok(report) => format!("it ended before its workload was let go: {report:?}"),
                    Err(why) => why,
                };
                self.refuse(guest_failure("keep the cell", &reason))
            }
            // The answer to the release says why, and comes next or came before.
            (other, _) => {
                self.stage = other;
                Ok(())
            }
        }
    }

    fn serve_streams(&mut self, woken: &Woken) -> Result<(), SessionError> {
        let Some(streams) = self.stage.streams() else {
            return Ok(());
        };
        if woken.input {
            streams.input.write();
        }
        if self.end.phase() == Phase::Running {
            streams.input.grant(&mut self.end)?;
        }
        let mut passed = Passed::Nothing;
        for (outlet, woken) in streams.outputs.iter_mut().zip(woken.outputs) {
            if woken && outlet.pass_on(&mut self.end, &mut self.buffer)? == Passed::Some {
                passed = Passed::Some;
            }
        }
        if passed == Passed::Some
            && let Stage::Draining { until, .. } = &mut self.stage
        {
            *until = Instant::now() + DRAIN_PATIENCE;
        }
        Ok(())
    }

    fn finish_draining(&mut self) -> Result<(), SessionError> {
        let Stage::Draining { streams, until, .. } = &mut self.stage else {
            return Ok(());
        };
        for outlet in &mut streams.outputs {
            outlet.close_if_empty();
            if *until <= Instant::now() {
                outlet.give_up(&mut self.buffer);
            }
        }
        if streams.outputs.iter().any(streams::Outlet::is_open) {
            return Ok(());
        }
        if let Stage::Draining {
            cell,
            streams,
            report,
            residue,
            ..
        } = std::mem::replace(&mut self.stage, Stage::None)
        {
            self.end.exit(&exit_of(*report, residue, &streams))?;
            self.stage = Stage::Ended {
                folder: cell.folder,
                transfer: None,
            };
        }
        Ok(())
    }

    fn send_file(&mut self) -> Result<(), SessionError> {
        if let Stage::Ended { transfer, .. } = &mut self.stage
            && let Some(file) = transfer
            && file.go_on(&mut self.end, &mut self.buffer)? == Progress::Over
        {
            *transfer = None;
        }
        Ok(())
    }

    fn send_heartbeat(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        if now < self.next_heartbeat || self.end.phase() > Phase::Running {
            return Ok(());
        }
        self.next_heartbeat = now + self.end.heartbeat_interval();
        match self.end.telemetry(telemetry::of_cell(self.stage.cgroup())) {
            // What waits to be written says as well that this end is there.
            Ok(()) | Err(SendError::Backlog { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn refuse(&mut self, refused: Refused) -> Result<(), SessionError> {
        self.end.refuse(&refused)?;
        self.fail();
        Ok(())
    }

    fn not_started(&mut self, why: NotStarted) -> Result<(), SessionError> {
        self.end.not_started(&why)?;
        self.fail();
        Ok(())
    }

    fn fail(&mut self) {
        self.stage = Stage::Failed {
            until: Instant::now() + LAST_WORD_PATIENCE,
        };
    }
}

fn reason_of(reply: Reply) -> String {
    match reply {
        Reply::Failed(Failure::InvalidSpec(reason) | Failure::Host(reason)) => reason,
        other => format!("the launcher gave an unexpected answer: {other:?}"),
    }
}

fn guest_failure(operation: &str, reason: &str) -> Refused {
    Refused::GuestFailure {
        operation: bounded(operation.to_owned()),
        reason: bounded(reason.to_owned()),
    }
}

fn guest_cannot_start(operation: &str, reason: &str) -> NotStarted {
    NotStarted::GuestFailure {
        operation: bounded(operation.to_owned()),
        reason: bounded(reason.to_owned()),
    }
}

/// The beginning of a text, as much as a message takes: a cut reason is better than none.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}

fn stream_error(operation: &'static str, source: impl Into<io::Error>) -> SessionError {
    SessionError::Stream {
        operation,
        source: source.into(),
    }
}
