//! The dialogue with one machine's PID 1, from its hello to the acknowledgement.
//!
//! One task has the stream and the protocol's state ([`conversation`]); threads carry the standard
//! streams ([`pump`]). A [`Session`] asks the task to say something and waits for the answer. How it
//! all ends is the [`Fate`], which stays and which any number of waiters get.

mod conversation;
pub(crate) mod published;
mod pump;

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_bridge::{Config, DEFAULT_SILENT_HEARTBEATS, Exit, Fetch, Hello, Ready, StandardStream};
use cellos_core::{
    CellosError,
    ports::workload::{
        ExitReport, OutputBytes, ReleaseError, StopSignal, Streams, Usage, WorkloadEnd,
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use self::conversation::{Command, Conversation};
use crate::{
    error::{LostGuest, SessionError},
    vmm,
};

/// How long a guest may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// From the start of a machine to its PID 1's hello.
    pub(crate) hello: Duration,
    /// From the configuration to a parked workload.
    pub(crate) ready: Duration,
    /// Heartbeats in a row that may be missing.
    pub(crate) silent_heartbeats: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Emulated on a loaded host it takes tens of seconds.
            hello: Duration::from_secs(60),
            ready: Duration::from_secs(30),
            silent_heartbeats: DEFAULT_SILENT_HEARTBEATS,
        }
    }
}

/// How often a configured guest shows that it lives.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What became of a workload, once that is known.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// PID 1 reported its end, authentically, and its output was delivered.
    Ended(Arc<Exit>),
    /// Its lifetime passed and neither supervisor nor guest had ended it.
    Backstop {
        /// From its release.
        wall: Duration,
    },
    /// Sight of it was lost.
    Lost(LostGuest),
}

impl Fate {
    /// The report of an end that was seen.
    pub(crate) fn report(&self) -> Result<ExitReport, LostGuest> {
        match self {
            Self::Ended(exit) => Ok(exit.report.clone()),
            Self::Backstop { wall } => Ok(ExitReport {
                end: WorkloadEnd::Backstop,
                usage: Usage {
                    wall: *wall,
                    ..Usage::default()
                },
                limits_hit: Vec::new(),
            }),
            Self::Lost(lost) => Err(lost.clone()),
        }
    }
}

/// A file that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It was written, with so many bytes.
    Whole(u64),
    /// There is none.
    Absent,
}

/// Counts the bytes that a workload wrote.
#[derive(Debug, Default)]
pub(crate) struct OutputCounter {
    stdout: AtomicU64,
    stderr: AtomicU64,
}

impl OutputCounter {
    fn add(&self, stream: StandardStream, bytes: usize) {
        let counter = match stream {
            StandardStream::Stdout => &self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => &self.stderr,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn total(&self) -> OutputBytes {
        OutputBytes {
            stdout: self.stdout.load(Ordering::Relaxed),
            stderr: self.stderr.load(Ordering::Relaxed),
        }
    }
}

/// A dialogue. Dropping it closes the stream and ends its threads.
pub(crate) struct Session {
    commands: mpsc::UnboundedSender<Command>,
    hello: watch::Receiver<Option<Hello>>,
    fate: watch::Receiver<Option<Fate>>,
    task: AbortHandle,
    bounds: Bounds,
    output: Arc<OutputCounter>,
}

impl Session {
    /// Waits for the guest's hello on the machine's next connection, in a task of its own.
    pub(crate) fn open(machine: Arc<dyn vmm::Machine>, bounds: Bounds) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (hello_sender, hello) = watch::channel(None);
        let (fate_sender, fate) = watch::channel(None);
        let output = Arc::new(OutputCounter::default());
        let conversation = Conversation::new(
            machine,
            bounds,
            received,
            hello_sender,
            fate_sender,
            Arc::clone(&output),
        );
        let task = tokio::spawn(conversation.run()).abort_handle();
        Self {
            commands,
            hello,
            fate,
            task,
            bounds,
            output,
        }
    }

    /// What the workload wrote so far.
    pub(crate) fn output_bytes(&self) -> OutputBytes {
        self.output.total()
    }

    /// The guest's hello.
    pub(crate) async fn hello(&self) -> Result<Hello, SessionError> {
        let (mut hello, mut fate) = (self.hello.clone(), self.fate.clone());
        let known = async {
            tokio::select! {
                biased;
                hello = hello.wait_for(Option::is_some) => hello.ok()?.clone(),
                _ = fate.wait_for(Option::is_some) => None,
            }
        };
        match tokio::time::timeout(self.bounds.hello, known).await {
            Ok(hello) => hello.ok_or_else(|| self.over()),
            Err(_) => Err(SessionError::Late {
                bound: self.bounds.hello,
            }),
        }
    }

    /// Tells the guest what to run, and waits until that is parked. The backstop is counted from
    /// here.
    pub(crate) async fn configure(
        &self,
        config: Config,
        backstop: Option<Instant>,
    ) -> Result<Ready, SessionError> {
        let (answer, answered) = oneshot::channel();
        let config = Box::new(config);
        self.say(Command::Configure {
            config,
            backstop,
            answer,
        })?;
        match tokio::time::timeout(self.bounds.ready, answered).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) => Err(self.over()),
            Err(_) => Err(SessionError::Late {
                bound: self.bounds.ready,
            }),
        }
    }

    /// Lets the workload run, and waits until its program was executed.
    pub(crate) async fn release(&self, streams: Streams) -> Result<(), ReleaseError> {
        let (answer, answered) = oneshot::channel();
        let over = || ReleaseError::Backend(CellosError::Host(self.over().to_string()));
        self.say(Command::Release { streams, answer })
            .map_err(|_| over())?;
        answered.await.unwrap_or_else(|_| Err(over()))
    }

    /// Passes a request to end on. An ended dialogue has no workload to end.
    pub(crate) async fn stop(&self, how: StopSignal) -> Result<(), SessionError> {
        let (answer, answered) = oneshot::channel();
        if self.say(Command::Stop { how, answer }).is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }

    /// Writes a file of the working folder into `file`.
    pub(crate) async fn fetch(&self, fetch: Fetch, file: File) -> Result<Fetched, SessionError> {
        let (answer, answered) = oneshot::channel();
        self.say(Command::Fetch {
            fetch,
            file,
            answer,
        })?;
        answered.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Tells a guest whose exit is known that it may reset. Answers when that was sent.
    pub(crate) async fn acknowledge(&self) -> Result<(), SessionError> {
        let (answer, answered) = oneshot::channel();
        self.say(Command::Acknowledge { answer })?;
        answered.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Ends the dialogue: what follows on the machine's side is not looked at.
    pub(crate) fn close(&self) {
        self.task.abort();
    }

    /// How it ends.
    pub(crate) fn fate(&self) -> watch::Receiver<Option<Fate>> {
        self.fate.clone()
    }

    fn say(&self, command: Command) -> Result<(), SessionError> {
        self.commands.send(command).map_err(|_| self.over())
    }

    /// Why the task is gone.
    fn over(&self) -> SessionError {
        match &*self.fate.borrow() {
            Some(Fate::Lost(lost)) => lost.clone().into(),
            _ => SessionError::Over,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
