//! Starting a launcher: by fork where the caller has a single thread, by executing a program
//! anew everywhere else.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::net::RecvFlags;

use crate::{
    launcher::{self, LauncherOptions, Warm},
    message,
    protocol::BEGUN,
    sys,
};

/// First argument of a program that is executed to become a launcher.
const LAUNCHER_ARGUMENT: &str = "__cellos-launcher";

/// Why a launcher could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The calling process has more than one thread, which a fork would not survive.
    #[error("a launcher can be forked only before the first thread is started ({threads} run)")]
    Threads {
        /// Threads of the process.
        threads: usize,
    },
    /// The kernel refused.
    #[error("start the launcher: {0}")]
    Io(#[from] io::Error),
}

/// A running launcher, not yet used by a backend.
///
/// Dropping it ends the launcher: its socket closes.
#[derive(Debug)]
pub struct Launcher {
    /// Its end of the conversation, one message a packet.
    pub socket: OwnedFd,
    /// The process to collect when the socket is closed; a forked one is collected by the kernel
    /// at the exit of this process.
    pub process: Option<Child>,
}

impl Launcher {
    /// Forks a launcher off this process, which must have a single thread: call it first thing
    /// in `main`. It costs a fraction of executing a program.
    ///
    /// # Errors
    /// [`StartError::Threads`] when other threads run; [`StartError::Io`] when the kernel
    /// refuses.
    pub fn fork(options: LauncherOptions) -> Result<Self, StartError> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(StartError::Threads { threads });
        }
        let (ours, theirs) = message::pair()?;
        // SAFETY: the process has one thread, as was just counted, and only this thread could
        // start another.
        match unsafe { sys::fork()? } {
            Some(_) => {
                drop(theirs);
                if options.warm == Warm::Once {
                    wait_until_begun(&ours)?;
                }
                Ok(Self {
                    socket: ours,
                    process: None,
                })
            }
            None => {
                drop(ours);
                sys::exit_now(serve(theirs, &options))
            }
        }
    }

    /// Executes a program as a launcher. The program has to call
    /// [`Launcher::take_over_if_asked`] first thing in its `main`.
    ///
    /// # Errors
    /// [`StartError::Io`] when the program cannot be executed.
    pub fn execute(mut program: Command, options: &LauncherOptions) -> Result<Self, StartError> {
        let (ours, theirs) = message::pair()?;
        let begins_at_once = options.warm == Warm::Once;
        let options = serde_json::to_string(options).map_err(io::Error::other)?;
        // Standard input is the one descriptor whose number both sides know.
        program
            .arg(LAUNCHER_ARGUMENT)
            .arg(options)
            .stdin(Stdio::from(theirs));
        let process = program.spawn()?;
        // The command holds the other end, which would keep a dead launcher's socket open.
        drop(program);
        if begins_at_once {
            wait_until_begun(&ours)?;
        }
        Ok(Self {
            socket: ours,
            process: Some(process),
        })
    }

    /// Becomes a launcher, for good, when this process was executed as one.
    ///
    /// Call it before anything else: it must find a single thread and its socket untouched.
    pub fn take_over_if_asked() {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().as_deref() != Some(LAUNCHER_ARGUMENT.as_ref()) {
            return;
        }
        let options = arguments.next().unwrap_or_default();
        let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3);
        sys::exit_now(match (socket, parse_options(options)) {
            (Ok(socket), Some(options)) => serve(socket, &options),
            _ => 2,
        });
    }
}

fn wait_until_begun(launcher: &OwnedFd) -> io::Result<()> {
    let mut word = [0; 8];
    match message::receive(launcher, &mut word, RecvFlags::empty())? {
        Some(message) if message.bytes == BEGUN => Ok(()),
        _ => Err(io::Error::other("the launcher ended at its start")),
    }
}

fn parse_options(text: OsString) -> Option<LauncherOptions> {
    serde_json::from_str(text.to_str()?).ok()
}

/// Serves until the socket closes, in a session of its own, with nothing of the caller's open.
fn serve(socket: OwnedFd, options: &LauncherOptions) -> i32 {
    // A process that is a group leader already stays in its session, which costs it nothing.
    let _ = rustix::process::setsid();
    match detach_streams().and_then(|()| launcher::run(socket, options)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// The launcher must not hold the caller's streams: whoever reads the other end of a pipe waits
/// until the last copy is closed.
fn detach_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
