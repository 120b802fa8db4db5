//! Remote sinks: what they lack before a cell starts, and delivering to them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cellos_sinks::{
    forward::{self, Cursor, CursorError, End, ForwardError, Forwarder, POLL_INTERVAL, Until},
    remote::{Reach, RemoteSink, SinkOpenError, Surroundings},
    settings::{EventSinks, NamedSink},
};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{evidence_guard::Hidden, failure::Failure, say};

/// How much lower than the run's own the priority of delivering is, so that it does not take time
/// from a cell that is being built; see nice(2).
const NICENESS: i32 = 10;
/// How long another process that has a cursor may bring nothing further until nobody waits for it.
/// More than the receiver may take for one batch, unless configured.
const BUSY_PATIENCE: Duration = Duration::from_secs(15);

/// Why a cell does not start.
#[derive(Debug, thiserror::Error)]
enum RequiredError {
    #[error("required sink {name} is {behind} events behind the log, at most {bound} are allowed")]
    Behind {
        name: String,
        behind: u64,
        bound: u64,
    },
    #[error("required sink {name}: what it lacks cannot be told")]
    Unknown { name: String, source: ForwardError },
}

/// The sinks of the file, where one is named.
pub(crate) fn configured(file: Option<&Path>) -> Result<Option<EventSinks>, Failure> {
    file.filter(|file| !file.as_os_str().is_empty())
        .map(|file| EventSinks::read(file).map_err(Failure::call))
        .transpose()
}

/// The files that hold what the sinks log in with.
pub(crate) fn private_files(sinks: &EventSinks) -> impl Iterator<Item = Hidden> {
    sinks.private_files().map(|place| Hidden {
        what: "the credentials of a sink",
        place,
    })
}

/// Refuses where a required sink lacks more events of the log than it may, or nobody can tell.
pub(crate) fn check_required(sinks: &EventSinks, log: &Path) -> Result<(), Failure> {
    for sink in &sinks.sinks {
        let Some(required) = sink.required else {
            continue;
        };
        let name = sink.name.clone();
        match forward::lag(log, &sink.name) {
            Ok(behind) if behind <= required.max_behind => {}
            Ok(behind) => {
                return Err(Failure::call(RequiredError::Behind {
                    name,
                    behind,
                    bound: required.max_behind,
                })
                .hint("`cellos forward` delivers what is missing, and says why it cannot"));
            }
            Err(source) => return Err(Failure::call(RequiredError::Unknown { name, source })),
        }
    }
    Ok(())
}

/// Which sinks are delivered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those on a network: standard output is the workload's.
    OnANetwork,
    /// All.
    All,
}

/// What delivering to one sink came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Events that were acknowledged.
    pub(crate) delivered: u64,
    /// Events of the log that are not acknowledged; `None` where nobody can tell.
    pub(crate) left: Option<u64>,
    pub(crate) end: Ended,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Everything was delivered, here or by another process.
    Complete,
    /// The receiver is not there.
    Away(String),
    /// The receiver refuses.
    Refused(String),
    /// The sink, its cursor or the log cannot be used.
    Failed(String),
    /// The time was over; with what failed last, where something did.
    OutOfTime(Option<String>),
}

impl Report {
    /// Whether nothing is left to deliver.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == Some(0) && matches!(self.end, Ended::Complete)
    }

    /// Why something is left, where it is.
    pub(crate) fn reason(&self) -> Option<String> {
        match &self.end {
            Ended::Complete => None,
            Ended::Away(reason) => Some(reason.clone()),
            Ended::Refused(reason) => Some(format!("refused: {reason}")),
            Ended::Failed(reason) => Some(reason.clone()),
            Ended::OutOfTime(None) => Some("the time for it was over".to_owned()),
            Ended::OutOfTime(Some(reason)) => Some(reason.clone()),
        }
    }
}

/// Delivers the log to the sinks, to each at its own pace, until they are done. When `until` is
/// [`Until::Empty`] they have the time `within`, or as long as it takes.
pub(crate) async fn deliver(
    sinks: EventSinks,
    log: PathBuf,
    which: Which,
    until: watch::Receiver<Until>,
    within: Option<Duration>,
) -> Vec<Report> {
    let folder: Arc<Path> = sinks.folder.into();
    let log: Arc<Path> = log.into();
    let mut tasks = JoinSet::new();
    for (index, sink) in sinks.sinks.into_iter().enumerate() {
        if which == Which::OnANetwork && sink.config.reach() == Reach::OwnOutput {
            continue;
        }
        let delivery = OneSink {
            sink,
            folder: Arc::clone(&folder),
            log: Arc::clone(&log),
            which,
            until: until.clone(),
            within,
        };
        tasks.spawn(async move { (index, delivery.deliver().await) });
    }
    let mut reports = tasks.join_all().await;
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

struct OneSink {
    sink: NamedSink,
    folder: Arc<Path>,
    log: Arc<Path>,
    which: Which,
    until: watch::Receiver<Until>,
    within: Option<Duration>,
}

impl OneSink {
    async fn deliver(mut self) -> Report {
        let sink = match self.open_sink() {
            Ok(sink) => sink,
            Err(error) => return self.report(0, Ended::Failed(error.to_string())),
        };
        let mut over = self.until.clone();
        let within = self.within;
        let mut forwarder = tokio::select! {
            taken = self.take_cursor(sink) => match taken {
                Ok(Some(forwarder)) => forwarder,
                Ok(None) => return self.report(0, Ended::Complete),
                Err(error) => return self.report(0, Ended::Failed(error.to_string())),
            },
            () = time_is_over(&mut over, within) => return self.report(0, Ended::OutOfTime(None)),
        };
        let ended = tokio::select! {
            end = forwarder.forward(&mut self.until) => match end {
                End::Empty => Ended::Complete,
                End::Away(reason) => Ended::Away(reason),
                End::Refused(reason) => Ended::Refused(reason),
                End::Failed(error) => Ended::Failed(error.to_string()),
            },
            () = time_is_over(&mut over, within) => Ended::OutOfTime(None),
        };
        let ended = match ended {
            Ended::OutOfTime(_) => Ended::OutOfTime(forwarder.trouble().map(str::to_owned)),
            other => other,
        };
        self.report(forwarder.delivered(), ended)
    }

    fn open_sink(&self) -> Result<Arc<dyn RemoteSink>, SinkOpenError> {
        self.sink.config.open(&Surroundings {
            folder: &self.folder,
            env: &|name| std::env::var(name).ok(),
        })
    }

    /// Takes the cursor as soon as nobody else has it. `None` where the one who has it has
    /// delivered everything and this one is to end; an error where it gets no further.
    async fn take_cursor(
        &mut self,
        sink: Arc<dyn RemoteSink>,
    ) -> Result<Option<Forwarder>, ForwardError> {
        // How far the other one has got, and since when.
        let mut seen: Option<(Option<Cursor>, Instant)> = None;
        loop {
            let busy = match Forwarder::open(&self.log, &self.sink.name, Arc::clone(&sink)) {
                Err(ForwardError::Cursor(busy @ CursorError::Busy { .. })) => busy,
                other => return other.map(Some),
            };
            let ends = *self.until.borrow() == Until::Empty;
            let cursor = Cursor::read(&Cursor::path(&self.log, &self.sink.name))
                .map_err(ForwardError::Cursor)?;
            let since = match &seen {
                // Beside a run that is as it should be: several runs share a log.
                None if self.which == Which::All => {
                    let name = &self.sink.name;
                    say::note(&format!(
                        "sink {name}: another process is delivering to it, this one waits"
                    ));
                    Instant::now()
                }
                Some((before, since)) if *before == cursor => *since,
                _ => Instant::now(),
            };
            seen = Some((cursor, since));
            match ends {
                true if forward::lag(&self.log, &self.sink.name)? == 0 => return Ok(None),
                true if since.elapsed() >= BUSY_PATIENCE => return Err(busy.into()),
                _ => {}
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }

    fn report(self, delivered: u64, end: Ended) -> Report {
        Report {
            left: forward::lag(&self.log, &self.sink.name).ok(),
            kind: self.sink.kind.name(),
            name: self.sink.name,
            delivered,
            end,
        }
    }
}

/// Returns so long after it is to end.
async fn time_is_over(until: &mut watch::Receiver<Until>, within: Option<Duration>) {
    let told = until.wait_for(|until| *until == Until::Empty).await.is_ok();
    match within {
        Some(within) if told => time::sleep(within).await,
        _ => std::future::pending().await,
    }
}

/// Delivering beside a run, on a thread of its own. Dropping it gives it the configured time for
/// what is left, and says what stays for later.
pub(crate) struct BesideARun {
    until: watch::Sender<Until>,
    thread: Option<JoinHandle<std::io::Result<Vec<Report>>>>,
}

impl BesideARun {
    /// Begins. Whatever goes wrong is said at the end.
    pub(crate) fn start(sinks: EventSinks, log: &Path) -> Self {
        let (until, told) = watch::channel(Until::Told);
        let log = log.to_owned();
        let thread = thread::spawn(move || {
            // On Linux that is this thread's alone. Where it is refused nothing is lost.
            let _ = rustix::process::nice(NICENESS);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let within = Some(sinks.deliver_within);
            let reports = runtime.block_on(deliver(sinks, log, Which::OnANetwork, told, within));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
            Ok(reports)
        });
        Self {
            until,
            thread: Some(thread),
        }
    }
}

impl Drop for BesideARun {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.until.send(Until::Empty);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Ok(reports))) => say_what_is_left(&reports),
            Some(Ok(Err(error))) => say::warning(&format!("events were not delivered: {error}")),
            Some(Err(_)) => say::warning("events were not delivered: their thread has died"),
            None => {}
        }
    }
}

fn say_what_is_left(reports: &[Report]) {
    let left: Vec<String> = reports
        .iter()
        .filter(|report| !report.is_complete())
        .map(|report| {
            let events = match report.left {
                Some(1) => "1 event is".to_owned(),
                Some(events) => format!("{events} events are"),
                None => "some events may be".to_owned(),
            };
            let reason = report.reason().unwrap_or_else(|| "more came".to_owned());
            format!("{events} left for sink {} ({reason})", report.name)
        })
        .collect();
    if !left.is_empty() {
        say::warning(&format!(
            "{}; they are in the log, `cellos forward` delivers them",
            left.join("; ")
        ));
    }
}
