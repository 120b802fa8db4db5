//! Guests that run outside of the VMM: beside a test, with the rights of the test.
//!
//! A VMM in a jail or under another confinement cannot run a guest that builds cells. With
//! [`Placement::Outside`](crate::settings::Placement) it makes the socket [`SOCKET`] in its current
//! folder when its machine starts, and waits until somebody connects. [`Guests`] is who does: a thread
//! of the test looks for such sockets below a folder, as a driver gives its monitors places there.
//!
//! The VMM sends one message on its `SOCK_SEQPACKET` connection: JSON of `Told`, with the descriptor
//! of the serial console and, if there is one, that of the vsock device. After it, messages of one
//! byte ask for signals. The connection's end, from either side, is the machine's end.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt as _,
    },
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
        connect, listen, recv, recvmsg, sendmsg, socket_with,
    },
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::{
    guest::{Device, retry},
    settings,
    vmm::process::{Boot, spawn},
};

/// The socket at which a VMM waits for whoever runs its guest.
pub const SOCKET: &str = "guest.sock";

/// How long a VMM waits for that. A test that runs no guests shall fail, not hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks for sockets: a small part of what a machine takes to start.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// How deep sockets are looked for: `jails/firecracker/<name>/root` is four.
const LOOK_DEPTH: usize = 4;

/// How long the guest of a VMM that is gone may take to clean up after itself.
const GRACE: Duration = Duration::from_secs(10);

/// Longest wait of a guest's thread before it looks whether the test is over.
const TICK: Duration = Duration::from_millis(20);

/// Most bytes of a message: a command line has 2,048, and drives are few.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

const STOP: u8 = b'S';
const CONTINUE: u8 = b'C';
const INTERRUPT: u8 = b'I';

/// What plays a guest.
#[derive(Clone)]
pub enum Play {
    /// A program, started like the guest of a VMM that has it inside.
    Program(settings::Guest),
    /// A function of the test, in a thread of its own. The machine ends when it returns.
    Function(Arc<dyn Fn(Machine) + Send + Sync>),
}

/// What a [`Play::Function`] finds.
#[derive(Debug)]
pub struct Machine {
    /// `cold` or `restored`.
    pub boot: String,
    /// The kernel's command line, with what the VMM appends.
    pub command_line: String,
    /// The drives as JSON, as in [`DRIVES_VARIABLE`](crate::guest::DRIVES_VARIABLE).
    pub drives: String,
    /// The vsock device.
    pub device: Option<Device>,
}

/// Runs the guests of all VMMs below a folder. When it is dropped, no program of it runs any more.
pub struct Guests {
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

/// What a VMM says about its machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    boot: String,
    command_line: String,
    drives: String,
    has_device: bool,
}

impl Guests {
    /// Begins to look for machines below `folder`, which need not be there yet.
    ///
    /// # Errors
    /// Without a thread to do it.
    pub fn below(folder: impl Into<PathBuf>, play: Play) -> io::Result<Self> {
        let folder = folder.into();
        let over = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&over);
        let watcher = thread::Builder::new()
            .name("guests".into())
            .spawn(move || watch(&folder, &play, &ending))?;
        Ok(Self {
            over,
            watcher: Some(watcher),
        })
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            // A panic of its was printed.
            let _ = watcher.join();
        }
    }
}

/// The VMM's side of a guest outside.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Waits until somebody runs the guest, and tells them of the machine.
    pub(crate) fn wait(boot: Boot) -> io::Result<Self> {
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&listener, &SocketAddrUnix::new(SOCKET)?)?;
        listen(&listener, 1)?;
        let came = is_ready(listener.as_fd(), PATIENCE)?;
        if !came {
            let why = format!("nobody came to {SOCKET} within {PATIENCE:?} to run the guest");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let socket = retry(|| accept(&listener))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        fs::remove_file(SOCKET)?;
        let told = serde_json::to_vec(&Told {
            boot: boot.kind.to_owned(),
            command_line: boot.command_line,
            drives: boot.drives,
            has_device: boot.device.is_some(),
        })?;
        let stdout = io::stdout();
        let serial = boot.serial.as_ref().map_or(stdout.as_fd(), AsFd::as_fd);
        let mut descriptors = vec![serial];
        descriptors.extend(boot.device.as_ref().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for descriptors"));
        }
        let bytes = [IoSlice::new(&told)];
        retry(|| sendmsg(&socket, &bytes, &mut control, SendFlags::NOSIGNAL))?;
        Ok(Self { socket })
    }

    /// Another handle, to wait for the guest's end with.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }

    /// Waits for the guest's end.
    pub(crate) fn ended(&self) {
        while let Ok((1.., _)) = retry(|| recv(&self.socket, &mut [0_u8; 1], RecvFlags::empty())) {}
    }

    /// Asks for a signal; a guest that has just ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        let word = match signal {
            Signal::STOP => STOP,
            Signal::CONT => CONTINUE,
            _ => INTERRUPT,
        };
        let _ = retry(|| rustix::net::send(&self.socket, &[word], SendFlags::NOSIGNAL));
    }
}

fn watch(folder: &Path, play: &Play, over: &Arc<AtomicBool>) {
    let mut programs: Vec<JoinHandle<()>> = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let mut sockets = Vec::new();
        look(folder, LOOK_DEPTH, &mut sockets);
        for path in sockets {
            // One that is not listened on yet, or not any more, is tried or gone the next time.
            let Ok(socket) = dial(&path) else { continue };
            let (play, over) = (play.clone(), Arc::clone(over));
            let waited_for = matches!(play, Play::Program(_));
            let played = thread::Builder::new().name("guest".into()).spawn(move || {
                if let Err(error) = run(&socket, &play, &over) {
                    eprintln!("a guest outside its VMM: {error}");
                }
            });
            // Without a thread the machine ends at once, which the test sees.
            programs.extend(played.ok().filter(|_| waited_for));
        }
        programs.retain(|program| !program.is_finished());
        thread::sleep(LOOK_PAUSE);
    }
    for program in programs {
        let _ = program.join();
    }
}

fn look(folder: &Path, depth: usize, sockets: &mut Vec<PathBuf>) {
    // Folders of machines come and go meanwhile.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => look(&entry.path(), depth - 1, sockets),
            Ok(kind) if kind.is_socket() && entry.file_name() == SOCKET => {
                sockets.push(entry.path());
            }
            _ => {}
        }
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn run(socket: &OwnedFd, play: &Play, over: &AtomicBool) -> io::Result<()> {
    // A second connection to a VMM that has one is closed without a word.
    let Some((told, serial, device)) = receive(socket)? else {
        return Ok(());
    };
    let program = match play {
        Play::Program(program) => program,
        Play::Function(function) => {
            function(Machine {
                boot: told.boot,
                command_line: told.command_line,
                drives: told.drives,
                device: device.map(Device::of),
            });
            return Ok(());
        }
    };
    let boot = Boot {
        kind: match told.boot.as_str() {
            "cold" => "cold",
            _ => "restored",
        },
        command_line: told.command_line,
        drives: told.drives,
        device,
        serial: Some(serial.into()),
    };
    follow(socket, spawn(program, boot)?, over)
}

type Received = Option<(Told, OwnedFd, Option<OwnedFd>)>;

fn receive(socket: &OwnedFd) -> io::Result<Received> {
    let mut bytes = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        let mut into = [IoSliceMut::new(&mut bytes)];
        recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(received) => received.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let Some(serial) = descriptors.next() else {
        return Ok(None);
    };
    let told: Told = serde_json::from_slice(bytes.get(..message.bytes).unwrap_or_default())?;
    let device = descriptors.next().filter(|_| told.has_device);
    Ok(Some((told, serial, device)))
}

/// Serves a guest's program until it has ended. It is this thread's child, and dies with it.
fn follow(socket: &OwnedFd, mut child: Child, over: &AtomicBool) -> io::Result<()> {
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut vmm_gone: Option<Instant> = None;
    loop {
        let mut polled = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if vmm_gone.is_none() {
            polled.push(PollFd::new(socket, PollFlags::IN));
        }
        let tick = timespec(TICK);
        retry(|| poll(&mut polled, Some(&tick)))?;
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            child.wait()?;
            return Ok(());
        }
        if ready.get(1) == Some(&true) {
            let mut word = [0_u8];
            let signal = match retry(|| recv(socket, word.as_mut_slice(), RecvFlags::empty())) {
                Ok((1, _)) => match word {
                    [STOP] => Signal::STOP,
                    [CONTINUE] => Signal::CONT,
                    _ => Signal::INT,
                },
                // Its streams have ended too, so it cleans up and ends, if it is not stopped.
                _ => {
                    vmm_gone = Some(Instant::now());
                    Signal::CONT
                }
            };
            // One that has just ended needs none.
            let _ = pidfd_send_signal(&pidfd, signal);
        }
        let too_late = vmm_gone.is_some_and(|since| since.elapsed() > GRACE);
        if too_late || (over.load(Ordering::SeqCst) && vmm_gone.is_none()) {
            child.kill()?;
        }
    }
}

fn is_ready(socket: std::os::fd::BorrowedFd<'_>, bound: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let bound = timespec(bound);
    Ok(retry(|| poll(&mut polled, Some(&bound)))? > 0)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
