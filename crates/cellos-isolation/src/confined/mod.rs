//! Programs of the host that serve a cell and are not trusted: virtual machine monitors.
//!
//! [`start`] executes this program anew as a small helper with a single thread. The helper reads
//! its [`Order`] from the socket that it finds as its standard input, takes away from itself what
//! the program does not need, and becomes the program. What it could not do it names over the same
//! socket, which the execution of the program closes: silence is success.
//!
//! A started program has no capabilities and cannot get any, no network but an empty one, no file
//! but its own below a root of its own, no process that it could signal, and where root starts it,
//! a user that nobody else is. What it is meant to work with it gets as open descriptors.
//!
//! The program dies with whoever started it: the helper asks the kernel for that
//! (`PR_SET_PDEATHSIG` of prctl(2)). The kernel means the parent *thread*, so every helper is
//! spawned by one thread that lives as long as this process.

mod helper;
mod order;
mod root;
mod spawner;
mod step;
mod tap;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    net::{
        RecvFlags, SendFlags,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

pub use order::{FIRST_DESCRIPTOR, MAX_DESCRIPTORS, Network, Order, Output, Privileges};
pub use step::Step;

pub use crate::init::network::link::MACHINE_MAC;

use crate::{message, protocol::NetworkSocket};

/// First argument of a program that is executed to become a helper.
const ARGUMENT: &str = "__cellos-confined";

/// How long the helper may take until it is the program. It needs some milliseconds; making a
/// network namespace may wait for the kernel's clean-up of earlier ones.
const START_BOUND: Duration = Duration::from_secs(20);

/// Largest report of a helper in bytes: what each of
/// [`message::MAX_DESCRIPTORS`] sockets is, generously.
const REPORT_BYTES: usize = 16 * 1024;

/// The program that becomes the helper: it has to call [`take_over_if_asked`] first thing in its
/// `main`.
#[derive(Debug, Clone)]
pub struct Helper {
    program: PathBuf,
}

impl Helper {
    /// The running program itself.
    #[must_use]
    pub fn this_program() -> Self {
        Self::at("/proc/self/exe")
    }

    /// Another program.
    #[must_use]
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Confined {
    /// The process, with its standard error as a pipe, and its standard output where that was ordered.
    pub process: Child,
    /// A handle of it that no reuse of process ids can turn to another process.
    pub pidfd: OwnedFd,
    /// What holds it.
    pub confinement: Confinement,
    /// Its network namespace, where it got one of its own.
    pub network_namespace: Option<OwnedFd>,
    /// The sockets of that, where they were ordered.
    pub sockets: Vec<(NetworkSocket, OwnedFd)>,
}

/// What holds a started program, as seen by the helper before it became the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
    /// Version of Landlock's rules; 0 where none are enforced.
    pub landlock_abi: u32,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ConfinedError {
    /// The order breaks a bound, or cannot be written down.
    #[error("confine a program: {0}")]
    Order(String),
    /// The helper was not spawned or could not be talked to.
    #[error("start the helper that confines a program ({during}): {source}")]
    Helper {
        /// What was attempted.
        during: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A step of the helper failed.
    #[error("confine a program: {0}")]
    Failed(Failure),
    /// The helper ended, or was no helper.
    #[error(
        "the helper that confines a program ended without a word (does {} call \
         `take_over_if_asked`?)",
        program.display()
    )]
    Silent {
        /// What was executed.
        program: PathBuf,
    },
}

/// The step that a helper failed at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{step}: {why}")]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The kernel's answer and its object.
    pub why: String,
    /// The kernel's error number, where there was one.
    pub errno: Option<i32>,
}

/// What a helper says before it becomes the program, or instead.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Report {
    /// Sockets, which come with it, in this order.
    Network(Vec<NetworkSocket>),
    Confined(Confinement),
    Failed(Failure),
}

/// Starts `program`, an open executable file, confined as `order` says. `descriptors` are its
/// descriptors from [`FIRST_DESCRIPTOR`] up, in this order. Its standard input is `/dev/null`, its
/// standard output goes where the order says, its standard error is a pipe.
///
/// Blocks for the milliseconds that it takes. Whatever fails, no process is left.
///
/// # Errors
/// [`ConfinedError`], with the step that failed.
pub fn start(
    helper: &Helper,
    order: &Order,
    program: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Confined, ConfinedError> {
    let output = match order.output {
        Output::Discarded => Stdio::null(),
        Output::Pipe => Stdio::piped(),
    };
    let order = order.to_wire(descriptors.len())?;
    let failed = |during| move |source: io::Error| ConfinedError::Helper { during, source };
    let (ours, theirs) = message::pair().map_err(failed("make its socket"))?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&ours, timeout, Some(START_BOUND))
            .map_err(|error| failed("bound its answer")(error.into()))?;
    }
    let mut command = Command::new(&helper.program);
    command
        .arg(ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(output)
        .stderr(Stdio::piped());
    let process = spawner::spawn(command).map_err(failed("execute it"))?;
    let mut started = Unfinished(Some(process));
    match converse(ours.as_fd(), &order, program, descriptors) {
        Ok(Some(Answer {
            confinement,
            network_namespace,
            sockets,
        })) => {
            let pidfd = started.handle().map_err(failed("open a handle of it"))?;
            let ended = || failed("keep it")(io::Error::other("it is gone"));
            let process = started.0.take().ok_or_else(ended)?;
            Ok(Confined {
                process,
                pidfd,
                confinement,
                network_namespace,
                sockets,
            })
        }
        Ok(None) => Err(ConfinedError::Silent {
            program: helper.program.clone(),
        }),
        Err(error) => Err(error),
    }
}

/// Becomes the program of an order, for good, when this process was executed as a helper.
///
/// Call it before anything else: it must find a single thread and its socket untouched.
pub fn take_over_if_asked() {
    if std::env::args_os().nth(1).as_deref() == Some(ARGUMENT.as_ref()) {
        helper::main();
    }
}

/// What a helper said that became its program.
struct Answer {
    confinement: Confinement,
    network_namespace: Option<OwnedFd>,
    sockets: Vec<(NetworkSocket, OwnedFd)>,
}

/// Gives the order and waits for the end of the helper's report.
fn converse(
    socket: BorrowedFd<'_>,
    order: &[u8],
    program: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Option<Answer>, ConfinedError> {
    let failed = |during| move |source: io::Error| ConfinedError::Helper { during, source };
    let told = message::send(socket, order, &[program], SendFlags::empty()).and_then(|()| {
        descriptors.iter().try_for_each(|descriptor| {
            message::send(socket, b"descriptor", &[*descriptor], SendFlags::empty())
        })
    });
    // A helper that failed early has closed its end and left its report, which says more.
    let gone = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        )
    };
    match told {
        Err(error) if !gone(&error) => return Err(failed("give it its order")(error)),
        _ => {}
    }
    let mut answer = None;
    let mut sockets = Vec::new();
    let mut buffer = [0; REPORT_BYTES];
    loop {
        let report = match message::receive(socket, &mut buffer, RecvFlags::empty()) {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(answer),
            // Unread orders in the dead helper's socket.
            Err(error) if gone(&error) => return Ok(answer),
            Err(error) => return Err(failed("hear its report")(error)),
        };
        match serde_json::from_slice(&report.bytes) {
            Ok(Report::Network(kinds)) => sockets.extend(kinds.into_iter().zip(report.descriptors)),
            Ok(Report::Confined(confinement)) => {
                answer = Some(Answer {
                    confinement,
                    network_namespace: report.descriptors.into_iter().next(),
                    sockets: std::mem::take(&mut sockets),
                });
            }
            Ok(Report::Failed(failure)) => return Err(ConfinedError::Failed(failure)),
            Err(error) => return Err(failed("read its report")(error.into())),
        }
    }
}

/// Kills and collects a helper that nobody gets.
struct Unfinished(Option<Child>);

impl Unfinished {
    /// The child is not collected before this, so its id is still its own.
    fn handle(&self) -> io::Result<OwnedFd> {
        let pid = self.0.as_ref().map(Child::id).unwrap_or_default();
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a child without an id"))?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(mut process) = self.0.take() {
            // It may have ended by itself, and only a child of ours is meant.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
