//! The launcher: a small single-threaded process that creates cells, watches over them and takes
//! them apart.
//!
//! A large multi-threaded process must not fork, and a cell must not outlive its supervisor. So
//! the supervisor's process never creates a cell itself: it asks this one over a socket. When the
//! socket closes, for whatever reason, every cell is ended and its control groups are removed.
//! When this process dies, the kernel kills every cell's init.

mod cell;
mod host_mounts;
mod identity;
mod mounts;
mod posture;
mod seed;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    net::{RecvFlags, SendFlags},
};
use serde::{Deserialize, Serialize};

pub(crate) use identity::IdentityMode;

use self::{
    cell::{Cell, PARKED_BRIEFLY},
    host_mounts::HostMounts,
    seed::Seed,
};
use crate::{
    base::{self, BaseEntry, SystemView},
    cgroup::{Cgroup, CgroupHost},
    message::{self, MAX_MESSAGE_BYTES, Message},
    plan::{DEFAULT_USER, WRITABLE_MAX_BYTES},
    protocol::{BEGUN, CellKey, Failure, FromLauncher, Numbered, Reply, Request},
    sandbox::{descriptors::close_except, seccomp::Filter},
    sys,
};

/// How long cells may take to die when the supervisor is gone. Their processes are killed by the
/// kernel at once; this only bounds waiting for one that is stuck in it.
const LAST_TEARDOWN_BOUND: Duration = Duration::from_secs(10);

/// What a launcher is told at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LauncherOptions {
    /// The control group that cells are made in; found by looking when absent.
    pub cgroup_parent: Option<PathBuf>,
    /// Whether cells are begun before they are asked for.
    pub warm: Warm,
    /// What cells see of the system that they are built on.
    #[serde(default)]
    pub system: SystemView,
}

/// Whether cells are begun before they are asked for. A begun cell is an init that has built
/// what every cell has; it costs its memory (see BENCHMARKS.md) and saves the larger part of a
/// cell's creation time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Warm {
    /// Never.
    #[default]
    Never,
    /// One at the start, and no more: for a process that runs a single cell.
    Once,
    /// This many are kept ready.
    Keep(u16),
}

/// Runs as a launcher on the given socket until its other end closes.
///
/// # Errors
/// When the host's system cannot be looked at or the event loop fails.
pub(crate) fn run(socket: OwnedFd, options: &LauncherOptions) -> io::Result<()> {
    sys::set_process_name(c"cellos-launcher");
    // A Ctrl-C at the terminal is for the supervisor, which ends its cells in order.
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ] {
        sys::ignore_signal(signal);
    }
    close_except(&[socket.as_raw_fd()]).map_err(io::Error::other)?;
    give_up_preferences();
    let mut launcher = Launcher::new(socket, options)?;
    let result = launcher.serve();
    launcher.end_all_cells();
    result
}

/// Cells inherit from the launcher, and shall not be preferred by the scheduler or spared when
/// memory runs out because their supervisor is.
fn give_up_preferences() {
    // Each only ever lowers, which nobody needs a privilege for; where it is refused, there was
    // nothing to lower.
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < 0) {
        let _ = rustix::process::setpriority_process(None, 0);
    }
    let adjustment = std::fs::read_to_string("/proc/self/oom_score_adj");
    if adjustment.is_ok_and(|text| text.trim().starts_with('-')) {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// What a readable descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Supervisor,
    /// What a cell's init says, where it says more than its socket should hold.
    Init(CellKey),
    Workload(CellKey),
    Process(CellKey),
}

impl Source {
    fn token(self) -> epoll::EventData {
        let (cell, kind) = match self {
            Self::Supervisor => (0, 0),
            Self::Init(cell) => (cell, 1),
            Self::Workload(cell) => (cell, 2),
            Self::Process(cell) => (cell, 3),
        };
        epoll::EventData::new_u64(cell << 2 | kind)
    }

    fn from_token(token: u64) -> Self {
        let cell = token >> 2;
        match token & 3 {
            0 => Self::Supervisor,
            1 => Self::Init(cell),
            2 => Self::Workload(cell),
            _ => Self::Process(cell),
        }
    }
}

/// What every cell of this launcher shares, prepared once.
struct Shared {
    spares: Spares,
    base: Vec<BaseEntry>,
    filter: Filter,
    cgroups: Lazy<CgroupHost>,
    host_namespaces: Lazy<BTreeMap<String, u64>>,
    host_mounts: Lazy<HostMounts>,
    cgroup_parent: Option<PathBuf>,
    identity: IdentityMode,
    epoll: OwnedFd,
}

/// Something that is found out when it is first needed, because many launchers never need it.
type Lazy<T> = std::cell::OnceCell<T>;

impl Shared {
    /// Where control groups are made.
    fn cgroups(&self) -> &CgroupHost {
        self.cgroups
            .get_or_init(|| CgroupHost::detect(self.cgroup_parent.as_deref()))
    }

    /// The mounts of this process's own namespace.
    fn host_mounts(&self) -> io::Result<&HostMounts> {
        if let Some(known) = self.host_mounts.get() {
            return Ok(known);
        }
        let found = HostMounts::open()?;
        Ok(self.host_mounts.get_or_init(|| found))
    }

    /// The namespaces that cells are created from.
    fn host_namespaces(&self) -> io::Result<&BTreeMap<String, u64>> {
        if let Some(known) = self.host_namespaces.get() {
            return Ok(known);
        }
        let found = posture::namespaces(Path::new("/proc/self"))?;
        Ok(self.host_namespaces.get_or_init(|| found))
    }

    fn watch(&self, descriptor: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            descriptor,
            source.token(),
            epoll::EventFlags::IN,
        )?)
    }

    /// Stops watching. Descriptors that go on in a forked process would otherwise stay watched
    /// after they were closed here.
    fn forget(&self, descriptor: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, descriptor);
    }
}

/// Begun cells that wait for a document.
#[derive(Default)]
struct Spares(RefCell<VecDeque<Seed>>);

impl Spares {
    /// A spare that is alive; one that something killed meanwhile is collected.
    fn take(&self) -> Option<Seed> {
        loop {
            let seed = self.0.borrow_mut().pop_front()?;
            if seed.is_alive() {
                return Some(seed);
            }
            seed.discard();
        }
    }

    fn add(&self, seed: Seed) {
        self.0.borrow_mut().push_back(seed);
    }

    fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

struct Launcher {
    warm: Warm,
    socket: OwnedFd,
    shared: Shared,
    cells: BTreeMap<CellKey, Cell>,
    last_key: CellKey,
    buffer: Vec<u8>,
}

/// When the next cell is begun ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refill {
    NotNeeded,
    Now,
    /// Somebody waits for a cell that is there.
    Later,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    SupervisorGone,
}

impl Launcher {
    fn new(socket: OwnedFd, options: &LauncherOptions) -> io::Result<Self> {
        let shared = Shared {
            spares: Spares::default(),
            host_namespaces: Lazy::default(),
            host_mounts: Lazy::default(),
            base: base::find(Path::new("/"), options.system)?,
            filter: Filter::build().map_err(io::Error::other)?,
            cgroups: Lazy::default(),
            cgroup_parent: options.cgroup_parent.clone(),
            identity: IdentityMode::detect(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        };
        shared.watch(socket.as_fd(), Source::Supervisor)?;
        let buffer = vec![0; MAX_MESSAGE_BYTES];
        let warm = options.warm;
        let mut launcher = Self {
            warm,
            socket,
            shared,
            cells: BTreeMap::new(),
            last_key: 0,
            buffer,
        };
        if warm == Warm::Once {
            launcher.begin_spare();
            launcher.say_that_it_is_begun();
        }
        // Found out while nobody waits; what fails here fails again where it is needed.
        let _ = launcher.shared.host_namespaces();
        let _ = launcher.shared.host_mounts();
        Ok(launcher)
    }

    /// Whoever forked this launcher waits for this word: both would otherwise share one
    /// processor until the forker has nothing left to do, and the cell would begin that late.
    fn say_that_it_is_begun(&self) {
        // A forker that is gone shows as the end of the socket.
        let _ = message::send(self.socket.as_fd(), BEGUN, &[], SendFlags::empty());
    }

    /// Begins a cell that nobody has asked for yet. One that cannot be begun is no error: the
    /// same failure answers the next request.
    fn begin_spare(&mut self) -> bool {
        match Seed::make(
            &self.shared,
            DEFAULT_USER,
            WRITABLE_MAX_BYTES,
            &Cgroup::none(),
        ) {
            Ok(seed) => {
                self.shared.spares.add(seed);
                true
            }
            Err(_) => false,
        }
    }

    /// When the next cell shall be begun: as soon as one is missing and nobody waits for another.
    fn refill(&self) -> Refill {
        let missing = matches!(
            self.warm,
            Warm::Keep(count) if self.shared.spares.count() < usize::from(count)
        );
        match missing {
            false => Refill::NotNeeded,
            true if self.cells.values().any(Cell::is_awaited) => Refill::Later,
            true => Refill::Now,
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let refill = self.refill();
            let backstop = self.time_to_next_backstop();
            let wait = match refill {
                // Only when nothing else is to do.
                Refill::Now => Some(Duration::ZERO),
                Refill::Later => Some(backstop.unwrap_or(PARKED_BRIEFLY).min(PARKED_BRIEFLY)),
                Refill::NotNeeded => backstop,
            }
            .and_then(|wait| Timespec::try_from(wait).ok());
            match epoll::wait(
                &self.shared.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if refill == Refill::Now && events.is_empty() && !self.begin_spare() {
                self.warm = Warm::Never;
            }
            self.enforce_backstops();
            for event in &events {
                match Source::from_token(event.data.u64()) {
                    Source::Supervisor => {
                        if self.take_request()? == Next::SupervisorGone {
                            return Ok(());
                        }
                    }
                    Source::Init(key) => self.with_cell(key, Cell::on_control),
                    Source::Workload(key) => self.with_cell(key, Cell::on_workload),
                    Source::Process(key) => self.with_cell(key, Cell::on_process_end),
                }
            }
        }
    }

    fn with_cell(
        &mut self,
        key: CellKey,
        react: impl FnOnce(&mut Cell, &Shared, &mut Vec<Outgoing>),
    ) {
        let mut outgoing = Vec::new();
        let Some(cell) = self.cells.get_mut(&key) else {
            return;
        };
        react(cell, &self.shared, &mut outgoing);
        if cell.is_gone() {
            self.cells.remove(&key);
        }
        self.send_all(outgoing);
    }

    fn take_request(&mut self) -> io::Result<Next> {
        let received = message::receive(&self.socket, &mut self.buffer, RecvFlags::DONTWAIT);
        let message = match received {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Next::SupervisorGone),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::GoOn),
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                return Ok(Next::SupervisorGone);
            }
            Err(error) => return Err(error),
        };
        let request: Numbered = serde_json::from_slice(&message.bytes)?;
        self.carry_out(request, message);
        Ok(Next::GoOn)
    }

    fn carry_out(&mut self, Numbered { number, request }: Numbered, message: Message) {
        match request {
            Request::Create(plan) => {
                self.last_key += 1;
                let key = self.last_key;
                match Cell::begin(key, number, *plan, &self.shared) {
                    Ok(cell) => {
                        self.cells.insert(key, cell);
                    }
                    Err(failure) => {
                        self.send_all(vec![Outgoing::reply(number, Reply::Failed(failure))]);
                    }
                }
                if self.warm == Warm::Once {
                    // The single cell of this process could not use it.
                    self.discard_spares();
                }
            }
            Request::Release(key) => self.ask(key, number, |cell, _, outgoing| {
                cell.release(number, &message.descriptors, outgoing);
            }),
            Request::Stop(key, how) => {
                if self.cells.contains_key(&key) {
                    self.with_cell(key, |cell, _, _| cell.stop(how));
                }
                self.send_all(vec![Outgoing::reply(number, Reply::Stopped)]);
            }
            Request::Destroy(key) => {
                if self.cells.contains_key(&key) {
                    self.with_cell(key, |cell, _, _| cell.destroy(number));
                } else {
                    self.send_all(vec![Outgoing::reply(number, Reply::Destroyed)]);
                }
            }
        }
    }

    /// Passes a request on to its cell, or answers that there is none.
    fn ask(
        &mut self,
        key: CellKey,
        number: u64,
        react: impl FnOnce(&mut Cell, &Shared, &mut Vec<Outgoing>),
    ) {
        if self.cells.contains_key(&key) {
            self.with_cell(key, react);
        } else {
            let failure = Failure::Host("the launcher knows no such cell".to_owned());
            self.send_all(vec![Outgoing::reply(number, Reply::Failed(failure))]);
        }
    }

    /// Answers are sent blocking: the backend always reads. A supervisor that is gone shows as
    /// the end of the socket in the next round.
    fn send_all(&self, outgoing: Vec<Outgoing>) {
        for Outgoing {
            message,
            descriptors,
        } in outgoing
        {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            if let Ok(bytes) = serde_json::to_vec(&message) {
                let _ = message::send(
                    self.socket.as_fd(),
                    &bytes,
                    &descriptors,
                    SendFlags::empty(),
                );
            }
        }
    }

    fn time_to_next_backstop(&self) -> Option<Duration> {
        let next = self.cells.values().filter_map(Cell::backstop).min()?;
        let wait = next.saturating_duration_since(Instant::now());
        // Rounded up, so that the deadline has passed when the wait is over.
        Some(wait.saturating_add(Duration::from_millis(1)))
    }

    fn enforce_backstops(&mut self) {
        let now = Instant::now();
        for cell in self.cells.values_mut() {
            if cell.backstop().is_some_and(|backstop| backstop <= now) {
                cell.end_by_backstop();
            }
        }
    }

    fn discard_spares(&self) {
        while let Some(spare) = self.shared.spares.take() {
            spare.discard();
        }
    }

    /// The supervisor is gone: nobody is left to ask for anything.
    fn end_all_cells(&mut self) {
        for cell in self.cells.values_mut() {
            cell.stop(crate::protocol::Stop::Kill);
        }
        self.discard_spares();
        let bound = Instant::now() + LAST_TEARDOWN_BOUND;
        for cell in self.cells.values_mut() {
            cell.end_now(&self.shared, bound);
        }
    }
}

/// A message to the backend.
#[derive(Debug)]
struct Outgoing {
    message: FromLauncher,
    descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    fn reply(number: u64, reply: Reply) -> Self {
        Self {
            message: FromLauncher::Reply { number, reply },
            descriptors: Vec::new(),
        }
    }
}

fn host(what: &str, error: &io::Error) -> Failure {
    Failure::Host(format!("{what}: {error}"))
}

/// Whether a process runs: its descriptor becomes readable when it ends (pidfd_open(2)).
fn is_running(process: BorrowedFd<'_>) -> bool {
    let mut descriptor = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    matches!(poll(&mut descriptor, Some(&Timespec::default())), Ok(0))
}
