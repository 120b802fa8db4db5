//! The task that has the stream to one guest.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use cellos_bridge::{
    Config, Exit, Fetch, GuestMessage, Hello, HostEnd, HostTimes, NotStarted, Phase, Ready,
    SendError, StandardStream,
};
use cellos_core::{
    CellosError,
    ports::workload::{ReleaseError, StopSignal, Streams},
};
use rustix::{io::Errno, net::RecvFlags};
use tokio::{
    io::{Interest, Ready as Readiness},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

use super::{
    Bounds, Fate, Fetched, OutputCounter,
    pump::{PumpEvent, Pumps},
};
use crate::{
    error::{LostGuest, SessionError},
    vmm::{self, MonitorEnd},
};

/// Bytes read from the stream at once: a frame of the largest kind that a guest sends.
const READ_BYTES: usize = 64 * 1024;

/// Reads that find a whole frame in whatever a stream holds.
const CATCH_UP_READS: usize = 4;

/// How long the output of an ended workload may make no progress before the end is told all the
/// same. A reader that only pauses (a pager, say) loses nothing: the threads go on until the cell is
/// destroyed.
const OUTPUT_STALL_BOUND: Duration = Duration::from_secs(5);

/// How long a monitor's end may follow the end of its stream, or the other way round, to be seen as
/// one event.
const CRASH_BOUND: Duration = Duration::from_millis(500);

/// What a session wants said.
pub(super) enum Command {
    Configure {
        config: Box<Config>,
        backstop: Option<Instant>,
        answer: oneshot::Sender<Result<Ready, SessionError>>,
    },
    Release {
        streams: Streams,
        answer: oneshot::Sender<Result<(), ReleaseError>>,
    },
    Stop {
        how: StopSignal,
        answer: oneshot::Sender<Result<(), SessionError>>,
    },
    Fetch {
        fetch: Fetch,
        file: File,
        answer: oneshot::Sender<Result<Fetched, SessionError>>,
    },
    Acknowledge {
        answer: oneshot::Sender<Result<(), SessionError>>,
    },
}

pub(super) struct Conversation {
    machine: Arc<dyn vmm::Machine>,
    bounds: Bounds,
    end: HostEnd,
    commands: mpsc::UnboundedReceiver<Command>,
    hello: watch::Sender<Option<Hello>>,
    fate: watch::Sender<Option<Fate>>,
    pump_sender: mpsc::UnboundedSender<PumpEvent>,
    pump_events: mpsc::UnboundedReceiver<PumpEvent>,
    pumps: Option<Pumps>,
    /// What the workload wrote.
    output: Arc<OutputCounter>,
    /// Queues of output that are not written to their end.
    outputs_open: u8,
    /// Bytes that readers took and that the guest was not told of.
    owed: Owed,
    asked: Asked,
    input: Input,
    released: Option<Instant>,
    backstop: Option<Instant>,
    ending: Option<Ending>,
    stopping: Stopping,
}

/// Answers that are owed.
#[derive(Default)]
struct Asked {
    ready: Option<oneshot::Sender<Result<Ready, SessionError>>>,
    started: Option<(Streams, oneshot::Sender<Result<(), ReleaseError>>)>,
    file: Option<Fetching>,
    acknowledged: Option<oneshot::Sender<Result<(), SessionError>>>,
}

struct Fetching {
    file: File,
    failed: Option<io::Error>,
    answer: oneshot::Sender<Result<Fetched, SessionError>>,
}

/// Standard input that waits for room in the stream.
#[derive(Default)]
struct Input {
    waiting: VecDeque<u8>,
    ended: bool,
}

/// Credit of output streams that is owed.
#[derive(Default)]
struct Owed {
    stdout: u32,
    stderr: u32,
}

impl Owed {
    fn of(&mut self, stream: StandardStream) -> &mut u32 {
        match stream {
            StandardStream::Stdout => &mut self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => &mut self.stderr,
        }
    }
}

/// An end that is known and waits for the workload's output to be written.
struct Ending {
    fate: Fate,
    /// When it is told at the latest; moved by progress.
    at: Instant,
}

/// Whether the supervisor kills.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Killing,
}

impl Conversation {
    pub(super) fn new(
        machine: Arc<dyn vmm::Machine>,
        bounds: Bounds,
        commands: mpsc::UnboundedReceiver<Command>,
        hello: watch::Sender<Option<Hello>>,
        fate: watch::Sender<Option<Fate>>,
        output: Arc<OutputCounter>,
    ) -> Self {
        let (pump_sender, pump_events) = mpsc::unbounded_channel();
        let times = HostTimes {
            hello: bounds.hello,
            silent_heartbeats: bounds.silent_heartbeats,
            ..HostTimes::default()
        };
        Self {
            machine,
            bounds,
            end: HostEnd::new(times, Instant::now()),
            commands,
            hello,
            fate,
            pump_sender,
            pump_events,
            pumps: None,
            output,
            outputs_open: 0,
            owed: Owed::default(),
            asked: Asked::default(),
            input: Input::default(),
            released: None,
            backstop: None,
            ending: None,
            stopping: Stopping::No,
        }
    }

    /// Converses until the end is told and nobody is there any more.
    pub(super) async fn run(mut self) {
        let machine = Arc::clone(&self.machine);
        let stream = tokio::select! {
            stream = machine.bridge() => stream,
            end = machine.ended() => {
                return self.lost(monitor_ended(end)).await;
            }
            () = tokio::time::sleep(self.bounds.hello) => {
                let waited = self.bounds.hello;
                let silent = cellos_bridge::BridgeError::HelloTimeout { waited };
                return self.lost(silent.into()).await;
            }
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                let lost = match tokio::time::timeout(CRASH_BOUND, machine.ended()).await {
                    Ok(end) => monitor_ended(end),
                    Err(_) => LostGuest::Stream {
                        what: error.to_string(),
                    },
                };
                return self.lost(lost).await;
            }
        };
        if let Err(lost) = self.converse(&stream, &*machine).await {
            self.lost(lost).await;
        }
    }

    async fn converse(
        &mut self,
        stream: &UnixStream,
        machine: &dyn vmm::Machine,
    ) -> Result<(), LostGuest> {
        let mut buffer = vec![0; READ_BYTES];
        let mut ended = machine.ended();
        let mut open = true;
        loop {
            let next = self.next_deadline(open);
            let interest = match self.end.outgoing() {
                Some(_) => Interest::READABLE | Interest::WRITABLE,
                None => Interest::READABLE,
            };
            let step = tokio::select! {
                ready = stream.ready(interest), if open => Step::Stream(ready),
                end = &mut ended, if open => Step::Machine(end),
                event = self.pump_events.recv() => Step::Pump(event),
                command = self.commands.recv() => Step::Command(command),
                () = tokio::time::sleep_until(next.into()) => Step::Time,
            };
            match step {
                Step::Stream(ready) => {
                    let still = self.exchange(stream, ready, &mut buffer)?;
                    if still == Still::Closed {
                        open = false;
                        self.closed(&mut ended).await?;
                    }
                }
                Step::Machine(end) => {
                    open = false;
                    self.drain(stream, &mut buffer).await?;
                    if !self.is_known() {
                        return Err(monitor_ended(end));
                    }
                    self.fail_requests(&monitor_ended(end));
                }
                Step::Pump(Some(event)) => self.pumped(event),
                // Both channels are kept open by this conversation and its session.
                Step::Pump(None) => {}
                Step::Command(None) => return Ok(()),
                Step::Command(Some(command)) => self.command(command, open),
                Step::Time => {}
            }
            // What has come is read before a deadline is looked at, whatever woke us: this process
            // may have been stopped for a while, and then it was not the guest that was silent.
            if self
                .guest_deadline(open)
                .is_some_and(|at| at <= Instant::now())
                && self.catch_up(stream, &mut buffer)? == Still::Closed
            {
                open = false;
                self.closed(&mut ended).await?;
            }
            self.look(open).await?;
        }
    }

    /// When something is due next; far away where nothing is.
    fn next_deadline(&self, open: bool) -> Instant {
        /// Any long time does: an early wake costs nothing.
        const FAR: Duration = Duration::from_secs(3600);

        [
            self.guest_deadline(open),
            self.backstop,
            self.ending.as_ref().map(|ending| ending.at),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| Instant::now() + FAR)
    }

    /// When the guest has to have spoken, where anything is expected of it.
    fn guest_deadline(&self, open: bool) -> Option<Instant> {
        self.end
            .next_deadline()
            .filter(|_| open && self.ending.is_none())
    }

    /// Reads and writes what the stream is ready for.
    fn exchange(
        &mut self,
        stream: &UnixStream,
        ready: io::Result<Readiness>,
        buffer: &mut [u8],
    ) -> Result<Still, LostGuest> {
        let ready = ready.map_err(stream_failed)?;
        if ready.is_readable() {
            match stream.try_read(buffer) {
                Ok(0) => return Ok(Still::Closed),
                Ok(read) => self.receive(buffer.get(..read).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_closed(&error) => return Ok(Still::Closed),
                Err(error) => return Err(stream_failed(error)),
            }
        }
        if ready.is_writable() {
            while let Some(bytes) = self.end.outgoing() {
                match stream.try_write(bytes) {
                    Ok(written) => self.end.sent(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What the guest said last is still to be read.
                    Err(error) if is_closed(&error) && ready.is_readable() => break,
                    Err(error) if is_closed(&error) => return Ok(Still::Closed),
                    Err(error) => return Err(stream_failed(error)),
                }
            }
        }
        Ok(Still::Open)
    }

    /// Reads what has come without asking the runtime, which does not know yet what came while this
    /// process was stopped.
    fn catch_up(&mut self, stream: &UnixStream, buffer: &mut [u8]) -> Result<Still, LostGuest> {
        for _ in 0..CATCH_UP_READS {
            match rustix::net::recv(stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(Still::Closed),
                Ok((read, _)) => self.receive(buffer.get(..read).unwrap_or_default())?,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Still::Closed),
                Err(error) => return Err(stream_failed(error.into())),
            }
        }
        Ok(Still::Open)
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), LostGuest> {
        while let Some(message) = self.end.receive(&mut bytes, Instant::now())? {
            self.understand(message);
        }
        Ok(())
    }

    fn understand(&mut self, message: GuestMessage) {
        match message {
            GuestMessage::Hello(hello) => {
                self.hello.send_replace(Some(hello));
            }
            GuestMessage::Ready(ready) => answer(self.asked.ready.take(), Ok(*ready)),
            GuestMessage::Refused(refused) => {
                let why = SessionError::Refused(refused);
                if let Some((_, release)) = self.asked.started.take() {
                    let failed = CellosError::Host(why.to_string());
                    answer(Some(release), Err(failed.into()));
                }
                if self.asked.ready.is_some() {
                    answer(self.asked.ready.take(), Err(why));
                } else {
                    let what = why.to_string();
                    self.end_with(Fate::Lost(LostGuest::Closed { what }));
                }
            }
            GuestMessage::Started(_) => self.started(),
            GuestMessage::NotStarted(why) => {
                if let Some((_, release)) = self.asked.started.take() {
                    answer(Some(release), Err(not_started(why.clone())));
                }
                let why = not_started(why).to_string();
                self.end_with(Fate::Lost(LostGuest::NotStarted { why }));
            }
            GuestMessage::Output(output) => {
                if let Some(pumps) = &self.pumps {
                    self.output.add(output.stream, output.bytes.len());
                    pumps.output(output.stream, output.bytes);
                }
            }
            GuestMessage::InputCredit { bytes } => {
                if let Some(pumps) = &self.pumps {
                    pumps.allow_input(bytes);
                }
            }
            GuestMessage::Telemetry(_) => {}
            GuestMessage::FileChunk(bytes) => {
                if let Some(fetching) = &mut self.asked.file
                    && fetching.failed.is_none()
                {
                    fetching.failed = fetching.file.write_all(&bytes).err();
                }
            }
            GuestMessage::FileEnd(end) => {
                self.fetched(Ok(Fetched::Whole(end.size_bytes)));
            }
            GuestMessage::FileAbsent => self.fetched(Ok(Fetched::Absent)),
            GuestMessage::FileRefused { reason } => {
                self.fetched(Err(SessionError::FileRefused { reason }));
            }
            GuestMessage::Exit(exit) => self.exited(exit),
        }
    }

    fn started(&mut self) {
        let Some((streams, release)) = self.asked.started.take() else {
            return;
        };
        let begun = match Pumps::start(streams, &self.pump_sender) {
            Ok(pumps) => {
                self.pumps = Some(pumps);
                self.outputs_open = 2;
                Ok(())
            }
            Err(error) => {
                // Without streams it must not go on. The guest is told; if it does not listen, the
                // cell is destroyed after this answer.
                let _ = self.end.terminate(StopSignal::Kill);
                Err(CellosError::Host(format!("carry the streams: {error}")).into())
            }
        };
        answer(Some(release), begun);
    }

    fn exited(&mut self, exit: Box<Exit>) {
        self.end_with(Fate::Ended(Arc::from(exit)));
    }

    /// Keeps an end until the output is written.
    fn end_with(&mut self, fate: Fate) {
        if let Some(pumps) = &mut self.pumps {
            pumps.end_output();
        }
        self.ending.get_or_insert(Ending {
            fate,
            at: Instant::now() + OUTPUT_STALL_BOUND,
        });
    }

    fn fetched(&mut self, result: Result<Fetched, SessionError>) {
        if let Some(fetching) = self.asked.file.take() {
            let result = match fetching.failed {
                Some(error) => Err(SessionError::File(error.to_string())),
                None => result,
            };
            answer(Some(fetching.answer), result);
        }
    }

    fn pumped(&mut self, event: PumpEvent) {
        match event {
            PumpEvent::Written { stream, bytes } => {
                let owed = self.owed.of(stream);
                *owed = owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
                if let (Some(ending), Stopping::No) = (&mut self.ending, self.stopping) {
                    ending.at = Instant::now() + OUTPUT_STALL_BOUND;
                }
            }
            // After the exit there is nobody to tell.
            PumpEvent::ReaderGone(stream) => {
                let _ = self.end.close_output(stream);
            }
            PumpEvent::OutputDone(StandardStream::Stdin) => {}
            PumpEvent::OutputDone(_) => self.outputs_open = self.outputs_open.saturating_sub(1),
            PumpEvent::Input(bytes) => self.input.waiting.extend(bytes),
            PumpEvent::InputEnd => self.input.ended = true,
        }
    }

    /// Gives the guest the credit that it is owed. Where the stream is full it stays owed: credit
    /// that was lost would stop the workload's output for good.
    fn pay(&mut self) {
        for stream in [StandardStream::Stdout, StandardStream::Stderr] {
            let owed = *self.owed.of(stream);
            if owed == 0 {
                continue;
            }
            match self.end.grant_output(stream, owed) {
                Err(SendError::Backlog { .. }) => {}
                // After the exit there is nobody to give credit to.
                Ok(()) | Err(_) => *self.owed.of(stream) = 0,
            }
        }
    }

    /// Offers the input that waits.
    fn feed(&mut self) {
        if self.end.phase() != Phase::Running {
            self.input.waiting.clear();
            return;
        }
        while !self.input.waiting.is_empty() {
            let (front, _) = self.input.waiting.as_slices();
            match self.end.input(front) {
                Ok(0) => return,
                Ok(sent) => {
                    self.input.waiting.drain(..sent);
                }
                // The guest no longer takes any; its end comes by another way.
                Err(_) => self.input.waiting.clear(),
            }
        }
        if self.input.ended {
            self.input.ended = false;
            let _ = self.end.end_input();
        }
    }

    fn command(&mut self, command: Command, open: bool) {
        match command {
            Command::Configure {
                config,
                backstop,
                answer: ready,
            } => match self.end.configure(&config, Instant::now()) {
                Ok(()) if open => {
                    self.backstop = backstop;
                    self.asked.ready = Some(ready);
                }
                Ok(()) => answer(Some(ready), Err(SessionError::Over)),
                Err(error) => answer(Some(ready), Err(error.into())),
            },
            Command::Release {
                streams,
                answer: release,
            } => match self.end.start() {
                Ok(()) if open => {
                    self.released = Some(Instant::now());
                    self.asked.started = Some((streams, release));
                }
                Ok(()) => answer(
                    Some(release),
                    Err(CellosError::Host(SessionError::Over.to_string()).into()),
                ),
                Err(error) => answer(
                    Some(release),
                    Err(CellosError::Host(error.to_string()).into()),
                ),
            },
            Command::Stop {
                how,
                answer: stopped,
            } => {
                if how == StopSignal::Kill {
                    self.stopping = Stopping::Killing;
                }
                let said = match self.end.terminate(how) {
                    // What has ended, or was never told what to run, needs no stop.
                    Ok(()) | Err(cellos_bridge::SendError::NotNow { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                };
                answer(Some(stopped), said);
            }
            Command::Fetch {
                fetch,
                file,
                answer: fetched,
            } => match self.end.fetch(&fetch, Instant::now()) {
                Ok(()) if open => {
                    self.asked.file = Some(Fetching {
                        file,
                        failed: None,
                        answer: fetched,
                    });
                }
                Ok(()) => answer(Some(fetched), Err(SessionError::Over)),
                Err(error) => answer(Some(fetched), Err(error.into())),
            },
            Command::Acknowledge {
                answer: acknowledged,
            } => match self.end.acknowledge() {
                Ok(()) if open => self.asked.acknowledged = Some(acknowledged),
                Ok(()) => answer(Some(acknowledged), Err(SessionError::Over)),
                Err(error) => answer(Some(acknowledged), Err(error.into())),
            },
        }
    }

    /// What is due after each step.
    async fn look(&mut self, open: bool) -> Result<(), LostGuest> {
        self.feed();
        self.pay();
        let now = Instant::now();
        if self.guest_deadline(open).is_some_and(|at| at <= now) {
            self.end.check(now)?;
        }
        if self.end.outgoing().is_none() {
            answer(self.asked.acknowledged.take(), Ok(()));
        }
        if self.ending.is_none()
            && self.fate.borrow().is_none()
            && self.backstop.is_some_and(|at| at <= now)
        {
            self.backstop = None;
            // What is left of it is told by whoever destroys the cell.
            let _ = self.machine.remove().await;
            let wall = self.released.map_or(Duration::ZERO, |at| at.elapsed());
            self.end_with(Fate::Backstop { wall });
        }
        let told = self
            .ending
            .take_if(|ending| self.outputs_open == 0 || ending.at <= now);
        if let Some(ending) = told {
            self.backstop = None;
            self.fate.send_replace(Some(ending.fate));
        }
        Ok(())
    }

    /// The stream has ended.
    async fn closed(
        &mut self,
        ended: &mut (impl Future<Output = MonitorEnd> + Unpin),
    ) -> Result<(), LostGuest> {
        let closed = self.end.closed();
        if self.is_known() {
            let what = "the stream has ended".to_owned();
            self.fail_requests(&LostGuest::Closed { what });
            return Ok(());
        }
        let Err(error) = closed else {
            return Ok(());
        };
        // A monitor that was killed takes the stream with it.
        Err(match tokio::time::timeout(CRASH_BOUND, ended).await {
            Ok(end) if !end.is_success() => monitor_ended(end),
            _ => error.into(),
        })
    }

    /// Reads what came before a monitor's end.
    async fn drain(&mut self, stream: &UnixStream, buffer: &mut [u8]) -> Result<(), LostGuest> {
        let until = tokio::time::Instant::now() + CRASH_BOUND;
        loop {
            let ready = tokio::time::timeout_at(until, stream.ready(Interest::READABLE)).await;
            let Ok(Ok(_)) = ready else {
                return Ok(());
            };
            match stream.try_read(buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.receive(buffer.get(..read).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether the workload's end is known.
    fn is_known(&self) -> bool {
        self.ending.is_some() || self.fate.borrow().is_some()
    }

    fn fail_requests(&mut self, lost: &LostGuest) {
        let error = || SessionError::from(lost.clone());
        answer(self.asked.ready.take(), Err(error()));
        if let Some((_, release)) = self.asked.started.take() {
            let failed = CellosError::Host(lost.to_string());
            answer(Some(release), Err(failed.into()));
        }
        if let Some(fetching) = self.asked.file.take() {
            answer(Some(fetching.answer), Err(error()));
        }
        answer(self.asked.acknowledged.take(), Err(error()));
    }

    /// Tells that sight was lost, after what the workload wrote until then.
    async fn lost(mut self, lost: LostGuest) {
        self.fail_requests(&lost);
        self.end_with(Fate::Lost(lost));
        while self.outputs_open > 0 {
            let at = self.ending.as_ref().map_or_else(Instant::now, |e| e.at);
            match tokio::time::timeout_at(at.into(), self.pump_events.recv()).await {
                Ok(Some(event)) => self.pumped(event),
                Ok(None) | Err(_) => break,
            }
        }
        if let Some(ending) = self.ending.take()
            && self.fate.borrow().is_none()
        {
            self.fate.send_replace(Some(ending.fate));
        }
        // The threads end with the session, so that a slow reader loses nothing before that.
        while let Some(command) = self.commands.recv().await {
            self.refuse(command);
        }
    }

    /// Answers what is asked of a dialogue that is lost.
    fn refuse(&self, command: Command) {
        let error = match &*self.fate.borrow() {
            Some(Fate::Lost(lost)) => SessionError::from(lost.clone()),
            _ => SessionError::Over,
        };
        match command {
            Command::Configure { answer: ready, .. } => answer(Some(ready), Err(error)),
            Command::Release {
                answer: release, ..
            } => answer(
                Some(release),
                Err(CellosError::Host(error.to_string()).into()),
            ),
            Command::Stop {
                answer: stopped, ..
            } => answer(Some(stopped), Ok(())),
            Command::Fetch {
                answer: fetched, ..
            } => answer(Some(fetched), Err(error)),
            Command::Acknowledge {
                answer: acknowledged,
            } => answer(Some(acknowledged), Err(error)),
        }
    }
}

/// What the loop woke for.
enum Step {
    Stream(io::Result<Readiness>),
    Machine(MonitorEnd),
    Pump(Option<PumpEvent>),
    Command(Option<Command>),
    Time,
}

#[derive(PartialEq, Eq)]
enum Still {
    Open,
    Closed,
}

impl MonitorEnd {
    fn is_success(self) -> bool {
        self.0.is_some_and(|status| status.success())
    }
}

fn monitor_ended(end: MonitorEnd) -> LostGuest {
    let end = match end.0 {
        Some(status) => status.to_string(),
        None => "how is not known".to_owned(),
    };
    LostGuest::Machine { end }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn stream_failed(error: io::Error) -> LostGuest {
    LostGuest::Stream {
        what: error.to_string(),
    }
}

fn not_started(why: NotStarted) -> ReleaseError {
    match why {
        NotStarted::CommandNotFound { program } => ReleaseError::CommandNotFound { program },
        NotStarted::NotExecutable { program, reason } => {
            ReleaseError::NotExecutable { program, reason }
        }
        NotStarted::GuestFailure { operation, reason } => {
            CellosError::Host(format!("in the guest: {operation}: {reason}")).into()
        }
    }
}

/// Answers, unless whoever asked has gone.
fn answer<T>(to: Option<oneshot::Sender<T>>, with: T) {
    if let Some(to) = to {
        let _ = to.send(with);
    }
}
