//! One cell from the launcher's side, from its creation to the last look for what is left of it.
//!
//! ```text
//! begin ─ SettingUp ─ Parked ─ Starting ─ Running ─ Ended ─ (destroyed)
//!              └──────────┴─────────┴─────────┘ may end at any point
//! ```

mod creation;
mod removal;
mod report;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{RecvFlags, SendFlags},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use self::{creation::with_leftover, removal::remove_cgroup};
use super::{Outgoing, Shared, is_running, posture};
use crate::{
    cgroup::Cgroup,
    init::network::link,
    message::{self, Message},
    plan::{Card, CellPlan},
    protocol::{
        CellKey, Created, Ended, Failure, FromInit, FromLauncher, NetworkSocket, Reply,
        SetupFailure, Stop, to_init, workload,
    },
    sys,
};

/// Largest message from inside a cell's init: a step's name and a number.
const MAX_INIT_MESSAGE_BYTES: usize = 16 * 1024;

/// How far a cell has come.
#[derive(Debug)]
enum Phase {
    /// Init builds the cell; the `Create` with this number waits for an answer.
    SettingUp { request: u64 },
    /// The workload's process waits for its streams.
    Parked,
    /// It has its streams; the `Release` with this number waits for an answer.
    Starting { request: u64 },
    /// Its program has been executed.
    Running,
    /// Every process of the cell is gone.
    Ended,
}

/// What init said when isolation was complete.
#[derive(Debug)]
struct Ready {
    landlock_abi: u32,
    network_sockets: usize,
    setup_cpu_micros: (u64, u64),
    working_folder: OwnedFd,
}

/// Why the launcher killed a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KilledBy {
    Request,
    Backstop,
}

/// One cell.
pub(super) struct Cell {
    key: CellKey,
    plan: CellPlan,
    phase: Phase,
    init: Pid,
    init_descriptor: OwnedFd,
    control: OwnedFd,
    workload: Option<OwnedFd>,
    workload_pid: Option<u32>,
    /// The workload's process, to look for after the end.
    workload_descriptor: Option<OwnedFd>,
    cgroup: Cgroup,
    ready: Option<Ready>,
    /// Sockets of its network that came from init and go on to the backend when all is ready.
    network: Vec<(NetworkSocket, OwnedFd)>,
    setup_failure: Option<SetupFailure>,
    /// Status word and largest resident set of the main process, as init reported them.
    exited: Option<(i32, u64)>,
    parked: Option<Instant>,
    started: Option<Instant>,
    backstop: Option<Instant>,
    killed_by: Option<KilledBy>,
    destroy_request: Option<u64>,
    gone: bool,
}

impl Cell {
    /// Whether the launcher can forget the cell.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether somebody waits for the cell's next step right now. A cell that has just been parked
    /// is about to be released.
    pub(super) fn is_awaited(&self) -> bool {
        self.destroy_request.is_some()
            || match self.phase {
                Phase::SettingUp { .. } | Phase::Starting { .. } => true,
                Phase::Parked => self
                    .parked
                    .is_some_and(|parked| parked.elapsed() < PARKED_BRIEFLY),
                Phase::Running | Phase::Ended => false,
            }
    }

    /// When the launcher ends the cell by itself.
    pub(super) fn backstop(&self) -> Option<Instant> {
        if matches!(self.phase, Phase::Ended) || self.killed_by.is_some() {
            None
        } else {
            self.backstop
        }
    }

    pub(super) fn end_by_backstop(&mut self) {
        self.kill(KilledBy::Backstop);
    }

    pub(super) fn stop(&mut self, how: Stop) {
        match how {
            Stop::Kill => self.kill(KilledBy::Request),
            Stop::Terminate if matches!(self.phase, Phase::Running | Phase::Starting { .. }) => {
                // An init that ended meanwhile has nobody to terminate.
                let _ = message::send(
                    self.control.as_fd(),
                    to_init::TERMINATE,
                    &[],
                    SendFlags::DONTWAIT,
                );
            }
            // A process that has not begun has nothing to end politely.
            Stop::Terminate => self.kill(KilledBy::Request),
        }
    }

    fn kill(&mut self, by: KilledBy) {
        if !matches!(self.phase, Phase::Ended) {
            self.killed_by.get_or_insert(by);
            // Killing init kills every process of its PID namespace (pid_namespaces(7)).
            let _ = pidfd_send_signal(&self.init_descriptor, Signal::KILL);
        }
    }

    /// Init sent some of many sockets, or waits for something.
    pub(super) fn on_control(&mut self, shared: &Shared, _outgoing: &mut Vec<Outgoing>) {
        self.read_control();
        if self.ready.is_some() || !is_running(self.init_descriptor.as_fd()) {
            shared.forget(self.control.as_fd());
        }
    }

    /// Reads what init has said. Init's socket is not watched, unless many sockets come over it:
    /// each word of it is followed by something that is, its end or the parking of the workload's
    /// process, and a wake-up less shows in every cell.
    fn read_control(&mut self) {
        let mut buffer = [0; MAX_INIT_MESSAGE_BYTES];
        loop {
            match message::receive_what_fits(&self.control, &mut buffer, RecvFlags::DONTWAIT) {
                // Sockets that were lost are missed when they are counted.
                Ok((Some(message), _)) => self.take_from_init(message),
                Ok((None, _)) | Err(_) => return,
            }
        }
    }

    fn take_from_init(&mut self, message: Message) {
        match serde_json::from_slice(&message.bytes) {
            Ok(FromInit::Network(kinds)) => {
                self.network
                    .extend(kinds.into_iter().zip(message.descriptors));
            }
            Ok(FromInit::CardWanted) => self.give_card(),
            Ok(FromInit::Ready {
                landlock_abi,
                network_sockets,
                setup_cpu_micros,
            }) => {
                if let Some(working_folder) = message.descriptors.into_iter().next() {
                    self.ready = Some(Ready {
                        landlock_abi,
                        network_sockets,
                        setup_cpu_micros,
                        working_folder,
                    });
                }
            }
            Ok(FromInit::Failed(failure)) => self.setup_failure = Some(failure),
            Ok(FromInit::Exited {
                status,
                max_rss_bytes,
            }) => {
                self.exited = Some((status, max_rss_bytes));
            }
            // Init is our own code; words it never says mean the cell cannot be trusted to go on.
            Err(_) => self.kill(KilledBy::Request),
        }
    }

    /// Gives the machine's network card to the cell that is to have it.
    fn give_card(&mut self) {
        let given = match self.plan.card {
            Card::Taken => link::give_card_to(self.init).and_then(|()| {
                message::send(
                    self.control.as_fd(),
                    to_init::CARD,
                    &[],
                    SendFlags::DONTWAIT,
                )
            }),
            Card::Left => Err(io::Error::from_raw_os_error(libc::EPERM)),
        };
        if let Err(error) = given {
            self.setup_failure = Some(SetupFailure {
                step: "move the machine's network card into the cell".to_owned(),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
                invalid_spec: false,
            });
            self.kill(KilledBy::Request);
        }
    }

    /// The workload's process said something, or executed its program.
    pub(super) fn on_workload(&mut self, shared: &Shared, outgoing: &mut Vec<Outgoing>) {
        let Some(socket) = &self.workload else { return };
        let mut buffer = [0; 64];
        match message::receive(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(Some(message)) if message.bytes == workload::PARKED => {
                self.parked(message.sender, shared, outgoing);
            }
            Ok(Some(message)) => self.execution_failed(&message.bytes, outgoing),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.executed(shared, outgoing),
        }
    }

    fn parked(&mut self, sender: Option<u32>, shared: &Shared, outgoing: &mut Vec<Outgoing>) {
        let Phase::SettingUp { request } = self.phase else {
            return;
        };
        // Init reported before it forked this process, so its word is already here.
        self.read_control();
        shared.forget(self.control.as_fd());
        match self.look_at(sender, shared) {
            Ok((created, folder)) => {
                self.phase = Phase::Parked;
                self.parked = Some(Instant::now());
                self.workload_pid = sender;
                self.workload_descriptor = sender.and_then(process_descriptor);
                self.pass_network_on(request, outgoing);
                outgoing.push(Outgoing {
                    message: FromLauncher::Reply {
                        number: request,
                        reply: Reply::Created(Box::new(created)),
                    },
                    descriptors: vec![folder],
                });
            }
            // The cell's end answers the request.
            Err(error) => {
                self.setup_failure = Some(SetupFailure {
                    step: format!("look at the parked process: {error}"),
                    errno: error.raw_os_error().unwrap_or(libc::EIO),
                    invalid_spec: false,
                });
                self.kill(KilledBy::Request);
            }
        }
    }

    /// Sends the sockets of the network to the backend, and keeps none.
    fn pass_network_on(&mut self, request: u64, outgoing: &mut Vec<Outgoing>) {
        let mut sockets = std::mem::take(&mut self.network).into_iter();
        while !sockets.as_slice().is_empty() {
            let (kinds, descriptors) = sockets.by_ref().take(message::MAX_DESCRIPTORS).unzip();
            outgoing.push(Outgoing {
                message: FromLauncher::Network {
                    number: request,
                    sockets: kinds,
                },
                descriptors,
            });
        }
    }

    fn look_at(&self, sender: Option<u32>, shared: &Shared) -> io::Result<(Created, OwnedFd)> {
        let ready = self
            .ready
            .as_ref()
            .ok_or_else(|| io::Error::other("init was not ready"))?;
        if self.network.len() != ready.network_sockets {
            return Err(io::Error::other(format!(
                "of {} sockets of its network {} arrived: raise the limit on open files (ulimit -n)",
                ready.network_sockets,
                self.network.len()
            )));
        }
        let pid = sender.ok_or_else(|| io::Error::other("its process id is unknown"))?;
        let created = Created {
            cell: self.key,
            posture: posture::measure(pid, ready.landlock_abi, shared.host_namespaces()?)?,
            cgroup_path: self.cgroup.primary_path().map(ToOwned::to_owned),
            working_folder: self.plan.working_folder.clone(),
            network_sockets: ready.network_sockets,
        };
        Ok((created, ready.working_folder.try_clone()?))
    }

    /// Hands the workload its streams.
    pub(super) fn release(
        &mut self,
        request: u64,
        streams: &[OwnedFd],
        outgoing: &mut Vec<Outgoing>,
    ) {
        let refused = match (&self.phase, &self.workload) {
            (Phase::Parked, Some(_)) if self.plan.argv.is_empty() => {
                Some("the cell has no command".to_owned())
            }
            (Phase::Parked, Some(socket)) => {
                let streams: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                message::send(socket.as_fd(), workload::RUN, &streams, SendFlags::empty())
                    .err()
                    .map(|error| format!("hand the streams to the workload: {error}"))
            }
            _ => Some("the workload has been released before or has ended".to_owned()),
        };
        match refused {
            Some(why) => {
                outgoing.push(Outgoing::reply(request, Reply::Failed(Failure::Host(why))));
            }
            None => {
                self.started = Some(Instant::now());
                self.phase = Phase::Starting { request };
            }
        }
    }

    /// The socket closes with the execution of the program, or with the process's death.
    fn executed(&mut self, shared: &Shared, outgoing: &mut Vec<Outgoing>) {
        if let Some(socket) = self.workload.take() {
            shared.forget(socket.as_fd());
        }
        if let (Phase::Starting { request }, Some(pid)) = (&self.phase, self.workload_pid) {
            outgoing.push(Outgoing::reply(*request, Reply::Released { pid }));
            self.phase = Phase::Running;
        }
    }

    fn execution_failed(&mut self, bytes: &[u8], outgoing: &mut Vec<Outgoing>) {
        let errno = bytes.try_into().map_or(libc::EIO, i32::from_le_bytes);
        match self.phase {
            Phase::Starting { request } => {
                let program = self.plan.argv.first().cloned().unwrap_or_default();
                let failure = match errno {
                    libc::ENOENT | libc::ENOTDIR => Failure::CommandNotFound { program },
                    errno => Failure::NotExecutable {
                        program,
                        reason: io::Error::from_raw_os_error(errno).to_string(),
                    },
                };
                outgoing.push(Outgoing::reply(request, Reply::Failed(failure)));
                self.phase = Phase::Running;
            }
            _ => {
                self.setup_failure.get_or_insert(SetupFailure {
                    step: "park the workload's process".to_owned(),
                    errno,
                    invalid_spec: false,
                });
            }
        }
    }

    /// Init has ended, and the kernel has killed everything that was left in the cell.
    pub(super) fn on_process_end(&mut self, shared: &Shared, outgoing: &mut Vec<Outgoing>) {
        let waited = match sys::collect_child(self.init.as_raw_nonzero().get()) {
            Ok(Some(waited)) => Some(waited),
            Ok(None) => return,
            // Collected already.
            Err(_) => None,
        };
        self.read_control();
        // A failed execution is told by the process before it ends.
        self.on_workload(shared, outgoing);
        self.executed(shared, outgoing);
        shared.forget(self.init_descriptor.as_fd());
        let was = std::mem::replace(&mut self.phase, Phase::Ended);
        match was {
            Phase::Ended => {}
            Phase::SettingUp { request } => {
                let failure = with_leftover(self.setup_error(), remove_cgroup(&self.cgroup));
                outgoing.push(Outgoing::reply(request, Reply::Failed(failure)));
                self.gone = true;
                return;
            }
            Phase::Parked | Phase::Starting { .. } | Phase::Running => {
                let end = self.report(waited.map(|waited| waited.usage));
                // Closed before the look at what is left.
                self.ready = None;
                let residue = self.remove_and_look(shared);
                outgoing.push(Outgoing {
                    message: FromLauncher::Ended {
                        cell: self.key,
                        ended: Ended { end, residue },
                    },
                    descriptors: Vec::new(),
                });
            }
        }
        if let Some(request) = self.destroy_request.take() {
            outgoing.push(Outgoing::reply(request, Reply::Destroyed));
        }
        self.gone = true;
    }

    fn setup_error(&self) -> Failure {
        match &self.setup_failure {
            Some(SetupFailure {
                step,
                errno,
                invalid_spec,
            }) => {
                let text = format!("{step}: {}", io::Error::from_raw_os_error(*errno));
                if *invalid_spec {
                    Failure::InvalidSpec(text)
                } else {
                    Failure::Host(text)
                }
            }
            None => Failure::Host("the cell's init ended while building the cell".to_owned()),
        }
    }

    /// Ends the cell. The answer follows when everything in it is dead and removed.
    pub(super) fn destroy(&mut self, request: u64) {
        self.destroy_request = Some(request);
        self.kill(KilledBy::Request);
    }

    fn wait_for_death(&mut self, bound: Instant) {
        loop {
            if !matches!(
                sys::collect_child(self.init.as_raw_nonzero().get()),
                Ok(None)
            ) {
                return;
            }
            let left = bound.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let mut descriptor = [PollFd::from_borrowed_fd(
                self.init_descriptor.as_fd(),
                PollFlags::IN,
            )];
            let _ = poll(
                &mut descriptor,
                rustix::event::Timespec::try_from(left).ok().as_ref(),
            );
        }
    }

    /// Ends a killed cell without anybody to answer to.
    pub(super) fn end_now(&mut self, _shared: &Shared, bound: Instant) {
        if !matches!(self.phase, Phase::Ended) {
            self.wait_for_death(bound);
        }
        // Nobody is left to be told; `reap` finds what could not be removed.
        let _ = remove_cgroup(&self.cgroup);
    }
}

/// How long a parked cell counts as about to be released: what its supervisor does meanwhile, the
/// first events with a flush to the disk, takes a few milliseconds.
pub(super) const PARKED_BRIEFLY: Duration = Duration::from_millis(20);

/// How long a killed init may take to die before its creation is reported as failed anyway.
const DEATH_BOUND: Duration = Duration::from_secs(5);

/// A descriptor of a process that exists right now.
fn process_descriptor(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}
